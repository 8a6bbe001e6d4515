"""Finds a model's layers and reads them out."""
