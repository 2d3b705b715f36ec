"""The mini-batches of an estimate."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


class Batches:
    """The inputs of each mini-batch; each iteration reads the data again."""

    def __init__(self, data: Any, steps: int | None, verbose: int) -> None:
        self.data, self.steps, self.verbose = data, steps, verbose
        if hasattr(data, "shape"):
            self.data = np.array_split(data, max(1, -(-len(data) // 256)))
        self.only_once = iter(self.data) is self.data  # true for iterators
        self.batch_size = 0  # of the mini-batch read last
        # An infinite `tf.data.Dataset` has the cardinality -1.
        cardinality = getattr(data, "cardinality", None)
        if steps is None and cardinality is not None and int(cardinality()) == -1:
            raise ValueError(
                "`steps` must be the number of mini-batches to use if the data set is "
                "infinite. Received: steps=None"
            )

    def first(self) -> Any:
        """Return the inputs of the first mini-batch, which the next iteration keeps."""
        iterator = iter(self.data)
        batch = next(iterator, None)
        if self.only_once and batch is not None:
            self.data = itertools.chain([batch], iterator)
        return batch[0] if isinstance(batch, tuple) else batch

    def __iter__(self) -> Iterator[Any]:
        try:
            length = len(self.data)  # pyright: ignore[reportArgumentType]
        except TypeError:  # a generator, or a data set of unknown or infinite size
            length = None
        sizes = [size for size in (length, self.steps) if size is not None]
        target = min(sizes, default=None)
        bar = keras.utils.Progbar(target, verbose=self.verbose, unit_name="batch")
        step = 0
        for batch in self.data:
            inputs = batch[0] if isinstance(batch, tuple) else batch
            self.batch_size = count_examples(inputs)
            yield inputs
            step += 1
            bar.update(step, finalize=False)
            # Checked here, so that no mini-batch is read without being used.
            if step == self.steps:
                break
        if step == 0:
            raise ValueError(
                "`data` must have at least one mini-batch. Received: an empty or "
                f"used-up {type(self.data).__name__}. Pass a list of mini-batches or a "
                "new iterator."
            )
        bar.update(step, finalize=True)


def count_examples(inputs: Any) -> int:
    """Return the number of examples in the inputs of a mini-batch.

    Args:
        inputs: An array `(batch, ...)` or a structure of them. An input with one row
            may serve all examples, so the largest number counts.

    Raises:
        ValueError: If there is no array with at least one axis.
    """
    shapes = [np.shape(array) for array in keras.tree.flatten(inputs)]
    sizes = [int(shape[0]) for shape in shapes if shape]
    if not sizes:
        raise ValueError(
            "Each mini-batch of `data` must be an array `(batch, ...)`, a structure of "
            f"arrays, or a tuple of inputs and labels. Received: {inputs!r}"
        )
    return max(sizes)
