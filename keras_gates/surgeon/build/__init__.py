"""The smaller model: layers, weights, and the state of an optimizer."""
