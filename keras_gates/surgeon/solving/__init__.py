"""What stays when gates close, and what can be removed at all."""
