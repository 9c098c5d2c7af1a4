"""From thresholds, scores, or a budget to what is closed."""
