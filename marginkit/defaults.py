"""What functions and commands do unless told otherwise, in one place for both. Imports no torch."""

METHODS = ("first_order", "nearest")
NORMS = ("l2", "linf")
BOUNDS = (0.0, 1.0)
LAYERS = ("all",)  # where first_order looks
SEARCH_AT = ("input",)
CHECKS = 32  # samples on which to check whether a measurement can be believed
DEVICE = "auto"
BATCH_SIZE = 128
WORKERS = 0
SEED = 0
TIME = 60.0  # seconds to tighten a table in

ARCHITECTURE = "cnn"
LOSS = "large-margin"
EPOCHS = 40
