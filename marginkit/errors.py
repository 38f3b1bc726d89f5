"""Errors a user can mend: each is one sentence that says what was found, what was expected, what to do."""


class MarginkitError(ValueError):
    """Something in the input is wrong; the message is for the user."""

    exit_code = 1


class UsageError(MarginkitError):
    """A name or an option that does not exist."""

    exit_code = 2


class IncompatibleError(MarginkitError):
    """Tables that must not be compared with each other."""

    exit_code = 4


class MethodError(MarginkitError):
    """A method does not work on this model; a measurement goes on with the others."""
