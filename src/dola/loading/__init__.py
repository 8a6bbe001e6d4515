"""From a name to a model with the weights of its files."""
