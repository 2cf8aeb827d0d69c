"""Rewards learned from labels: small heads on a shared encoder, trained, stored, scored."""
