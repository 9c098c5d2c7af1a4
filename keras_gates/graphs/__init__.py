"""Reads, copies and rebuilds Keras models."""
