"""Allowed names in settings, and the paper's repetition penalty. Importing this module does not import torch."""

DIVERGENCES = ("jsd", "reference")
"""Divergences that choose the premature layer. Each is a function of this name in `divergences.py`."""

DIVERGENCE_ALIASES = {"transformers4": "reference"}
"""Aliases of divergences, and the names that files store."""
SCORES = ("contrast", "distribution")
"""Forms of DoLa's scores: the contrast with a floor, or logits of a distribution comparable with the model's own."""

RECOMMENDED_PENALTY = 1.2
"""The paper's repetition penalty (section 3.1). Without one the contrast tends to loop in long texts."""
