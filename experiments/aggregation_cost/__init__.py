"""What an update costs when the gradients of the objectives are aggregated."""
