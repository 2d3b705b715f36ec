"""The fully connected network of the MNIST experiment.

Knows no data set: it flattens whatever shape it is given.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.conventions import classify
from bn_keras.models.hidden_layer import (
    Normalization,
    fresh_initializer,
    hidden_layer,
)

# "Small random Gaussian values": the paper states no standard deviation; chosen.
INITIAL_STDDEV = 0.1


def MLP(  # noqa: N802 (builders are nouns)
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    units: Sequence[int] = (100, 100, 100),
    activation: Any = "sigmoid",
    normalization: Normalization = BatchNormalization,
    kernel_initializer: Any = None,
    classifier_activation: Any = "softmax",
    name: str = "mlp",
) -> keras.Model:
    """Three hidden layers of 100 sigmoids, each with or without BN.

    `z_l = g(BN(W_l z_(l-1)))`, and `softmax(W z + b)` at the end.

    Args:
        input_shape: shape of one example, `(height, width, channels)` or any other;
            it is flattened.
        classes: number of outputs.
        units: width of each hidden layer.
        activation: the nonlinearity `g`.
        normalization: called as `normalization(axis=-1, name=...)` for each hidden
            layer, which then has no bias; None: no normalization, with bias.
        kernel_initializer: of every layer. None: Gaussian of standard deviation 0.1.
            The paper says "small random Gaussian values" and no more; 0.1 is chosen:
            with 0.05 or less the network without BN stays at chance for thousands of
            steps at learning rate 0.1. Give no seed to an initializer: layers of one
            shape would start equal.
        classifier_activation: of the output; None for logits.
        name: name of the model.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, classes)`, with layers
        `hidden_1_dense`, `hidden_1_bn`, `hidden_1_activation`, ..., `predictions`.

    Raises:
        ValueError: if `normalization` is neither callable nor None.

    Example:
    ```python
    from bn_keras.models import MLP

    model = MLP()
    assert model.get_layer("hidden_3_activation").output.shape == (None, 100)
    assert MLP(normalization=None).count_params() == 784 * 100 + 2 * 100**2 + 1310
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.1.
    """
    if kernel_initializer is None:
        kernel_initializer = keras.initializers.RandomNormal(stddev=INITIAL_STDDEV)
    inputs = keras.Input(tuple(input_shape), name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    for index, width in enumerate(units, start=1):
        dense = partial(
            keras.layers.Dense,
            width,
            kernel_initializer=fresh_initializer(kernel_initializer),
        )
        x = hidden_layer(
            x,
            dense,
            "dense",
            f"hidden_{index}",
            normalization=normalization,
            activation=activation,
        )
    outputs = classify(
        x,
        classes,
        classifier_activation,
        kernel_initializer=fresh_initializer(kernel_initializer),
    )
    return keras.Model(inputs, outputs, name=name)
