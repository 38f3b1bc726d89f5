"""What stands between this package and a model of somebody else's: inputs, labels, answers and precision."""
