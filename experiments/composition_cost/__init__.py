"""What composing rewards costs beside running them."""
