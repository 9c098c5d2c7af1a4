"""Training until what is left keeps to a budget."""
