"""One conditioned adapter against dedicated adapters, their soup, and two controls."""
