"""How the contrast gets into `generate`: hooks, the step, and what decodes with them."""
