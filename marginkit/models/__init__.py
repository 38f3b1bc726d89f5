"""Classifiers: those that come with marginkit, and those that a file or a library has."""
