"""Where a model keeps its layers, and how they are read."""
