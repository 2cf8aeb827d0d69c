"""What a set of trade-offs is worth: dominance, indicators, intervals. Everything is maximised.

Functions take fp64 numpy arrays (a tensor's `.double().numpy()`); nothing here imports torch.
"""
