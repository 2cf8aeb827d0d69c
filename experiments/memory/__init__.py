"""How large published models are, counted without their weights."""
