"""Names that settings may have, and a number that goes with them. Read where nothing heavy may be imported."""

DIVERGENCES = ("jsd", "reference")
"""How the premature layer is chosen: the functions of these names in `divergences.py`. One more is a function there, and its
name here."""

DIVERGENCE_ALIASES = {"transformers4": "reference"}
"""Other names of divergences, and the one that files hold."""
SCORES = ("contrast", "distribution")
"""What DoLa's scores are: the contrast with a floor below it, or logits of a distribution beside the model's own."""

RECOMMENDED_PENALTY = 1.2
"""The repetition penalty of the paper (section 3.1): without one the contrast loops in long texts."""
