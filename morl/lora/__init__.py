"""The weight-conditioned LoRA: inject it, bind a weight vector, collapse it, store it."""
