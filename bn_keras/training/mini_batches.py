"""The mini-batches of a training run."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bn_keras.data import Arrays, Data, Files, Shuffling
from bn_keras.training.run_record import Run

if TYPE_CHECKING:
    import tensorflow as tf

# The number of images on which TensorBoard's percentiles are computed.
SUMMARY_IMAGES = 32


def training_batches(
    run: Run,
    data: Data,
    part: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    **position: Any,
) -> "tf.data.Dataset[Any]":
    """Return the run's training mini-batches from a position of their stream.

    Args:
        run: The `Run`.
        data: Its examples.
        part: As in `Split.batches`.
        batch_size: The number of examples in a mini-batch; `None` is the recipe's.
        **position: Where the stream begins and ends, as in `Split.batches`.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, with the weight of each example as a
        third if the recipe weights classes.

    Raises:
        ValueError: If classes are to be weighted whose sizes are unknown.
    """
    recipe = run.recipe
    batches = data.train.batches(
        batch_size or recipe.batch_size,
        Shuffling(recipe.seed, recipe.within_shards),
        run.preprocessing,
        recipe.distortion,
        part=part,
        **position,
    )
    if not recipe.class_weights:
        return batches
    weights = compute_class_weights(data)

    def add_weights(images, labels):
        import tensorflow as tf

        return images, labels, tf.gather(weights, labels)

    return batches.map(add_weights)


def compute_class_weights(data: Data) -> np.ndarray:
    """Return float32 weights by class, whose mean over the training examples is 1."""
    if not isinstance(data.train, Files | Arrays):
        raise ValueError(
            "`class_weights` must be False for a data set of records, whose labels "
            f"are not known before they are read. Received: {data.train!r}. Leave it "
            "out (--class-weights)."
        )
    classes = len(data.class_names)
    counts = np.bincount(data.train.labels, minlength=classes)
    return (counts.sum() / (classes * counts.clip(1))).astype(np.float32)


def sample_images(run: Run, data: Data) -> "tf.Tensor":
    """Return test images of all classes, on which activations are summarized."""
    batches = data.test.batches(SUMMARY_IMAGES, Shuffling(0), run.preprocessing)
    images, _ = next(iter(batches))
    return images
