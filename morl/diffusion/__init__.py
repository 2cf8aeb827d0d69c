"""Sampling with diffusers pipelines, recorded and replayed, and the embedded base model."""
