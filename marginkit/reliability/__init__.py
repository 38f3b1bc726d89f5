"""Whether a measurement can be believed: checks on a few samples, whose verdicts stand in the file."""
