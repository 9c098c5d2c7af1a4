"""What a model is expected to cost by how far its gates are open."""
