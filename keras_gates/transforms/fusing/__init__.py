"""The patterns that `fuse` folds, one per module."""
