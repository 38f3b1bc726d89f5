"""What `compare` is made of: each file one question. Imports no torch."""
