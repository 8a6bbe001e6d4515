"""What each layer says of each token: `dola.trace`."""
