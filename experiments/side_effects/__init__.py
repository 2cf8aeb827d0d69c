"""What else a constraint removes."""
