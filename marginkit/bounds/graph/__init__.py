"""A model as a graph of operations, each with its linear relaxation."""
