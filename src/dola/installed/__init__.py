"""What is installed, whether it fits, and how to install what is missing."""
