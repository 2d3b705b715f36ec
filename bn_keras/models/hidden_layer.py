"""One hidden layer: a linear map, its normalization and its nonlinearity."""

from collections.abc import Callable
from typing import Any

import keras

Normalization = Callable[..., keras.Layer] | None
Activation = str | Callable[..., Any] | None
Initializer = str | keras.Initializer | Callable[..., Any]
Regularizer = str | keras.Regularizer | Callable[..., Any] | None


def hidden_layer(
    inputs: keras.KerasTensor,
    linear: Callable[..., keras.Layer],
    kind: str,
    name: str,
    *,
    normalization: Normalization,
    activation: Activation,
    axis: int = -1,
) -> keras.KerasTensor:
    """Apply a linear layer, normalize it before the nonlinearity, and activate it.

    `z = g(BN(W u))`, or `z = g(W u + b)` without normalization. With BN there is no
    bias, because `beta` takes its place.

    Args:
        inputs: The symbolic input `u`.
        linear: Called as `linear(use_bias=..., name=...)`; returns the layer of `W`.
        kind: The kind of linear layer, which becomes part of its name: `"dense"` or
            `"conv"`.
        name: Prefix of the layers `<name>_<kind>`, `<name>_bn` and
            `<name>_activation`.
        normalization: Called as `normalization(axis=..., name=...)`; returns a layer.
            None for no normalization.
        activation: The nonlinearity `g`, a name or a function.
        axis: Axis of the channels, passed to `normalization`.

    Returns:
        The symbolic output `z`.

    Raises:
        ValueError: If `normalization` is a layer, or neither callable nor None.

    Example:
    ```python
    from functools import partial

    import keras

    from bn_keras.models.hidden_layer import hidden_layer

    inputs = keras.Input((4,))
    outputs = hidden_layer(
        inputs,
        partial(keras.layers.Dense, 3),
        "dense",
        "first",
        normalization=keras.layers.BatchNormalization,
        activation="relu",
    )
    model = keras.Model(inputs, outputs)
    assert [layer.name for layer in model.layers[1:]] == [
        "first_dense", "first_bn", "first_activation"
    ]
    ```

    Reference:
        Ioffe & Szegedy 2015, section 3.2.
    """
    # A layer is callable too, but one layer cannot be used in several places.
    if isinstance(normalization, keras.Layer) or not (
        normalization is None or callable(normalization)
    ):
        raise ValueError(
            "`normalization` must be None or a function of `axis` and `name` that "
            "returns a new layer, for example the class `BatchNormalization`. "
            f"Received: normalization={normalization!r}"
        )
    outputs = linear(use_bias=normalization is None, name=f"{name}_{kind}")(inputs)
    if normalization is not None:
        outputs = normalization(axis=axis, name=f"{name}_bn")(outputs)
    return keras.layers.Activation(activation, name=f"{name}_activation")(outputs)


def clone_initializer(initializer: Initializer) -> Initializer:
    """Return the initializer for one more layer.

    Keras gives layers of the same shape that share an initializer object the same
    weights. A clone draws its own random numbers, unless the initializer has a `seed`.

    Args:
        initializer: A Keras initializer, its name, or a function.

    Returns:
        A clone of a Keras initializer; anything else unchanged.

    Example:
    ```python
    import keras

    from bn_keras.models.hidden_layer import clone_initializer

    normal = keras.initializers.RandomNormal()
    assert clone_initializer(normal) is not normal
    ```
    """
    if isinstance(initializer, keras.Initializer):
        return initializer.clone()
    return initializer
