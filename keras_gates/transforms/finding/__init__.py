"""Finds what can be gated in a model."""
