"""What stays when gates close, and what can go at all."""
