"""The one place with Lightning and mutable state: collect, update, keep, evaluate."""
