"""Scorers of real models and of image statistics, one file a category."""
