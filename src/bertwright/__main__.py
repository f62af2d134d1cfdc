"""`python -m bertwright`, for launchers that start a module."""

from bertwright.cli import entry

entry()
