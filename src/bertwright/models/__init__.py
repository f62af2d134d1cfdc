"""Encoders, heads, initialization, and model folders."""
