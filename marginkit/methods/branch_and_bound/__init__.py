"""Both ends of the distance, meeting."""
