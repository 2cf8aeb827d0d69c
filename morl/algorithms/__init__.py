"""One file an algorithm: a pure loss and its hyperparameters. Their facts import no torch."""
