"""What a plan says: its rows, its reasons, its notes."""
