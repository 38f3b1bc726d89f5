"""Labelled samples with an index and a fingerprint."""
