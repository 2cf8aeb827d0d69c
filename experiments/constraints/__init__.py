"""What a constraint costs, by how its multiplier is found."""
