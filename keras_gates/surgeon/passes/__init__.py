"""The passes from labels to kept units, one per module."""
