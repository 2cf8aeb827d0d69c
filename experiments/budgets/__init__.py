"""One adapter for a whole range of safety budgets."""
