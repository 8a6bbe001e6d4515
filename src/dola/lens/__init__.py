"""Lenses: one linear map per layer that makes early layers readable: fit, file, and reading a model's layers through one."""
