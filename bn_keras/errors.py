"""Exceptions that the library raises beside Python's own."""


class DivergenceError(ValueError):
    """The loss of a training run became NaN or infinite."""
