"""What keeps proxies from being over-optimised: signals, and rules that act on them."""
