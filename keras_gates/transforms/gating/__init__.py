"""Inserts gates into a model."""
