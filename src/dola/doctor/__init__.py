"""What is installed, what was found in a model, and whether DoLa works on it: for bug reports."""
