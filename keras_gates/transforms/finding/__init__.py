"""What there is in a model to be gated."""
