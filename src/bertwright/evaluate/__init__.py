"""Metrics and their intervals on the test split, and the report."""
