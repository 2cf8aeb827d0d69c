"""What a set of trade-offs is worth: dominance, indicators, intervals. Everything is maximised."""
