"""From thresholds, scores or a budget to closed factors."""
