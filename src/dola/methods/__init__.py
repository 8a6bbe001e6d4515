"""What is computed: the contrast, its settings, and the layers that it reads."""
