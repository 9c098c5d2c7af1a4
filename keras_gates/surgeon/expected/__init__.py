"""The expected cost of a model, given how far its gates are open."""
