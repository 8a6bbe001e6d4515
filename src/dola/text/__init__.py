"""From text to the token ids that a model reads, and back."""
