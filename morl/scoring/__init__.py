"""Scores of a folder of images: what `morl score` does, from files to a table."""
