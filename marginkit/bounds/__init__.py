"""Bounds on what a network can answer within a ball: trace it, bound its layers, bound its scores."""
