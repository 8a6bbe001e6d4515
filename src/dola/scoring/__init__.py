"""Log-likelihoods of given texts: `dola.score`."""
