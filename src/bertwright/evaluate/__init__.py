"""Scores, the verdict on the test split, and the report."""
