"""Likelihoods of given texts: `dola.score`."""
