"""What stops a proof before it begins."""


class Unsupported(Exception):  # noqa: N818  (a finding about a model, answered by a status)
    """The model uses an operation that has no bounds; the message names it."""
