"""What can be closed: gates, composites, and groups of coupled channels."""
