"""How gates are put into a model."""
