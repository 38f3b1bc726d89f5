"""What proofs share."""
