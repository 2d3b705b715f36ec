"""The fully connected network of the paper's MNIST experiment."""

from collections.abc import Sequence
from functools import partial

import keras

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models.conventions import classify
from bn_keras.models.hidden_layer import (
    Activation,
    Initializer,
    Normalization,
    clone_initializer,
    hidden_layer,
)

# The paper says "small random Gaussian values" without a standard deviation. With 0.05
# or less the network without BN stays at chance for thousands of steps at learning
# rate 0.1.
INITIAL_STDDEV = 0.1


def MLP(  # noqa: N802 (builders are nouns)
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    units: Sequence[int] = (100, 100, 100),
    activation: Activation = "sigmoid",
    normalization: Normalization = BatchNormalization,
    kernel_initializer: Initializer | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "mlp",
) -> keras.Model:
    """Build three hidden layers of 100 sigmoids, each with or without BN.

    Hidden layer `l` is `z_l = g(BN(W_l z_(l-1)))`; the output is `softmax(W z + b)`.

    Args:
        input_shape: Shape of one example, which is flattened, such as
            `(height, width, channels)`.
        classes: Number of outputs.
        units: Number of units of each hidden layer.
        activation: The nonlinearity `g`, a name or a function.
        normalization: Called as `normalization(axis=-1, name=...)` for each hidden
            layer; returns a layer. The hidden layer then has no bias. None for no
            normalization, and layers with a bias.
        kernel_initializer: Initializer of every layer. The default None stands for
            Gaussian values with a standard deviation of 0.1; the paper states no
            number. With a seed, layers of the same shape would start with the same
            weights.
        classifier_activation: Activation of the output; None for logits.
        name: Name of the model.

    Returns:
        A Functional model from `(batch, *input_shape)` to `(batch, classes)`, with the
        layers `hidden_1_dense`, `hidden_1_bn`, `hidden_1_activation`, ...,
        `predictions`.

    Raises:
        ValueError: If `normalization` is neither callable nor None.

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
    for index, unit_count in enumerate(units, start=1):
        dense = partial(
            keras.layers.Dense,
            unit_count,
            kernel_initializer=clone_initializer(kernel_initializer),
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
        kernel_initializer=clone_initializer(kernel_initializer),
    )
    return keras.Model(inputs, outputs, name=name)
