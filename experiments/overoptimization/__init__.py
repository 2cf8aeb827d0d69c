"""How learned rewards are over-optimised on a denoiser known in closed form, and what stops it."""
