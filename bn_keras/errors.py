"""Exceptions that the library raises beside Python's own."""


class DivergenceError(ValueError):
    """The loss of a training run became NaN or infinite.

    Args:
        message: What happened.
        step: The first step whose loss was not finite; a run may make a few more.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step
