"""`ResConv` and its parts."""
