"""Runs the user's own model with closed channels at zero."""
