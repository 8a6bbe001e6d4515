"""What each layer predicts for each token: `dola.trace`."""
