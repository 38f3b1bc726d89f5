"""A ReLU network as matrices, and parts of its domain."""
