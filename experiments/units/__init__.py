"""What a weight is worth when one reward has 100 times the scale of the others."""
