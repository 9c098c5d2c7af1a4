"""Training to a budget."""
