"""For bug reports: what is installed, what a model consists of, and whether DoLa works on it."""
