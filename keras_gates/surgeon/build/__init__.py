"""Builds the smaller model: layers, weights, and optimizer state."""
