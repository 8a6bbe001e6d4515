"""Loads models by name and checks that they have the weights of their files."""
