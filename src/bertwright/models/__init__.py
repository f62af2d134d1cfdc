"""The network, its heads, and its files."""
