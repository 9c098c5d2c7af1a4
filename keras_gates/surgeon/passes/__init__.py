"""From labels to what stays: one pass a module."""
