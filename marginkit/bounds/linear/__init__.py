"""Linear bounds propagated backwards through the graph."""
