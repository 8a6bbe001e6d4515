"""Does it help? A task, a model, DoLa and its controls, and whether the difference is more than noise."""
