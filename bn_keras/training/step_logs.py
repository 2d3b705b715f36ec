"""Callbacks of steps that do not wait for the numbers of a step."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import keras


class StepLogs(MutableMapping):
    """The loss and metrics of a step, each read from the device when it is used.

    Args:
        logs: The numbers, which may be tensors.
    """

    def __init__(self, logs: dict[str, Any] | None) -> None:
        self._logs = dict(logs or {})

    def __getitem__(self, name: str) -> float:
        value = self._logs[name]
        if keras.ops.is_tensor(value):
            array: Any = keras.ops.convert_to_numpy(value)
            value = self._logs[name] = float(array)
        return value

    def __setitem__(self, name: str, value: float) -> None:
        self._logs[name] = value

    def __delitem__(self, name: str) -> None:
        del self._logs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def __len__(self) -> int:
        return len(self._logs)


class StepCallbacks(keras.callbacks.CallbackList):
    """Callbacks that receive `StepLogs` at the end of each step.

    Keras' own list reads the loss of every step before it calls anything, so that the
    next step is not queued until an accelerator has finished this one.
    """

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102 (Keras documents it)
        logs = StepLogs(logs)
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch, logs=None):  # noqa: D102
        logs = StepLogs(logs)
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)
