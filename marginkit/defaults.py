"""What functions and commands do unless told otherwise, in one place for both. Imports no torch."""

from typing import Final

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
OPTIMIZER: Final = "adam"
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
WEIGHT_DECAY = 0.0
SCHEDULE: Final = "cosine"
CLIP = 1.0
NOISE = 0.0
FRACTION = 1.0
LABEL_NOISE = 0.0
EMA = 0.0
VALIDATION = 0.1
