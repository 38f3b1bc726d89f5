"""What a method's answer means, and what became of each sample. Imports no torch."""

from enum import IntEnum, StrEnum

INPUT = "input"  # the layer that is the model's input
NORM_NAMES = ("l1", "l2", "linf")
DISTANCE_NAMES = (*NORM_NAMES, "l0", "l0_pixels")  # what distances are measured in


class Kind(StrEnum):
    """What a distance is: never mix two kinds in one statistic."""

    ESTIMATE = "estimate"  # what a linearisation predicts; bounds nothing
    UPPER = "upper"  # an adversarial input was found at this distance
    LOWER = "lower"  # a proof that none is nearer
    EXACT = "exact"  # both, meeting
    SMOOTHED = "smoothed"  # a proof with a probability, about the smoothed classifier; enters no bracket


class Status(IntEnum):
    """Why a sample has the distance it has."""

    OK = 0
    MISCLASSIFIED = 1  # the clean input is not classified as its label: distance 0
    EXHAUSTED = 2  # the method learned nothing within its budget: the vacuous end, 0 or inf
    UNSUPPORTED = 3  # the method does not apply to this model
    NONFINITE = 4  # the model answered with NaN or infinity
    TIMEOUT = 5  # stopped by a time limit; the bracket is valid, not closed
    ZERO_GRADIENT = 6  # as EXHAUSTED, and at the input the gradient it follows is exactly zero
    ABSTAINED = 7  # the smoothed classifier has no majority that can be proved: distance 0
    FAILED = 8  # the method raised an error, which the column's note tells
