"""Per-sample distances: the table, the file that keeps it, and what is read off it. Imports no torch."""
