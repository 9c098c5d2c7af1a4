"""What `fuse` finds and folds: one kind of pattern a module."""
