"""Names that settings may have, and a number that goes with them. Read where nothing heavy may be imported."""

DIVERGENCES = ("jsd", "reference")
"""How the premature layer is chosen: the functions of these names in `divergences.py`. One more is a function there, and its
name here."""

DIVERGENCE_ALIASES = {"transformers4": "reference"}
"""Other names of divergences, and the one that files hold."""

RECOMMENDED_PENALTY = 1.2
"""The repetition penalty of the paper (section 3.1): without one the contrast loops in long texts."""
