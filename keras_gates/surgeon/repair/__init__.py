"""Fits a smaller model to its original without training."""
