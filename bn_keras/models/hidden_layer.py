"""One hidden layer: a linear map, its normalization, its nonlinearity.

Knows no network, and of the normalization only how it is called.
"""

from collections.abc import Callable
from typing import Any

import keras

Normalization = Callable[..., keras.Layer] | None


def hidden_layer(
    inputs: Any,
    linear: Callable[..., keras.Layer],
    kind: str,
    name: str,
    *,
    normalization: Normalization,
    activation: Any,
    axis: int = -1,
) -> Any:
    """Apply a linear layer, normalize it before the nonlinearity, and activate it.

    `z = g(BN(W u))`; without normalization `z = g(W u + b)`. Under BN the bias is
    left out, because `beta` takes its place.

    Args:
        inputs: the symbolic input `u`.
        linear: called as `linear(use_bias=..., name=...)`; returns the layer of `W`.
        kind: what the linear layer is called, `"dense"` or `"conv"`.
        name: prefix of the layers `<name>_<kind>`, `<name>_bn`, `<name>_activation`.
        normalization: called as `normalization(axis=..., name=...)`; returns a
            layer. None: no normalization.
        activation: name of the nonlinearity `g`, or a function.
        axis: the axis of channels, handed to `normalization`.

    Returns:
        The symbolic output `z`.

    Raises:
        ValueError: if `normalization` is a layer, or neither callable nor None.

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
    # A layer is callable too, but one layer cannot stand in several places.
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


def fresh_initializer(initializer: Any) -> Any:
    """Return the initializer as one more layer may use it.

    Args:
        initializer: a Keras initializer, its name, or a function.

    Returns:
        A copy that draws its own numbers. Keras would give layers of one shape that
        share an initializer the same weights; with a `seed` they are still the same.

    Example:
    ```python
    import keras

    from bn_keras.models.hidden_layer import fresh_initializer

    normal = keras.initializers.RandomNormal()
    assert fresh_initializer(normal) is not normal
    ```
    """
    if isinstance(initializer, keras.Initializer):
        return initializer.clone()
    return initializer
