"""Names that settings may have. Read where nothing heavy may be imported."""

DIVERGENCES = ("jsd", "reference")
"""How the premature layer is chosen: the functions of these names in `divergences.py`. One more is a function there, and its
name here."""
