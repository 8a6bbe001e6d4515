"""Decoding with DoLa: the hooks on a model, the work of one step, and `generate` on top of them."""
