"""Replacement of the batch-normalization layers of a model."""

import inspect
from typing import Any

import keras

from bn_keras.folding.algebra import affine_from_statistics
from bn_keras.folding.linear_rules import to_float64
from bn_keras.keras_graph import Replacer, sublayers
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS, BatchNormalization
from bn_keras.layer.scale_shift import ScaleShift

_TARGETS = (*BATCH_NORMALIZATIONS, keras.layers.GroupNormalization, "affine")
# What decides which numbers a batch normalization computes.
_METHODS = ("__call__", "call", "build")
_WEIGHTS = (
    *("gamma", "beta", "moving_mean", "moving_variance"),
    *("moving_stddev", "renorm_mean", "renorm_stddev", "updates"),
)


def replace_batch_normalization(
    model: keras.Model,
    to: type[keras.layers.Layer] | str = BatchNormalization,
    **arguments: Any,
) -> keras.Model:
    """Return a copy of a model with other layers in place of batch normalization.

    The model may be of any kind: nested, subclassed, with its own `train_step`, with
    wrappers such as `TimeDistributed`, with `Lambda` layers. The copy has the class of
    the model, the names and weights of its layers, and no variable of the original,
    which does not change.

    - `bn_keras.BatchNormalization` and `keras.layers.BatchNormalization`: the outputs
      are the same, too, in inference mode. Arguments that Keras' layer does not have
      are dropped: in further training its moving variance is biased, and its averages
      are plain moving averages.
    - `keras.layers.GroupNormalization`: `gamma` and `beta` are kept, but outputs
      differ, so the model must be trained further. By default the number of groups is
      the largest one up to 32 that divides the channels.
    - `"affine"`: a `bn_keras.layer.ScaleShift`, which is not trained. The outputs of
      inference mode stay, also in training.

    Args:
        model: A built model.
        to: One of the above.
        **arguments: Arguments of the new layers, in place of those of the old ones, as
            `synchronized=True`, `unbiased=False` or `virtual_batch_size=32`. `axis` and
            `name` are always those of the old ones, and `"affine"` takes none.

    Returns:
        A new model of the same class. If the original is compiled, the new one is
        compiled with the same arguments and a new optimizer.

    Raises:
        ValueError: If `to` is anything else, or does not take one of the arguments; the
            model is not built; or a layer cannot be replaced, because an argument does
            not suit it, such as `groups` that do not divide its channels, it has
            several axes, which only this package's layer and `"affine"` support, or is
            of a subclass that computes something else. The error names it.

    Example:
    ```python
    import keras
    import numpy as np
    import bn_keras

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.BatchNormalization(name="bn")]
    )
    ours = bn_keras.replace_batch_normalization(model, synchronized=True)
    assert isinstance(ours.get_layer("bn"), bn_keras.BatchNormalization)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_allclose(ours(images), model(images), atol=1e-6)
    ```
    """
    if not isinstance(to, str | type) or to not in _TARGETS:
        raise ValueError(
            "`to` must be bn_keras.BatchNormalization, "
            "keras.layers.BatchNormalization, keras.layers.GroupNormalization or "
            f"'affine'. Received: to={to!r}"
        )
    if not isinstance(model, keras.Layer):
        raise ValueError(f"`model` must be a Keras model. Received: {model!r}")
    unknown = set(arguments) - (_arguments_of(to) - {"axis", "name"})
    if unknown:
        raise ValueError(
            f"`arguments` must be arguments of {_name(to)}. Received: "
            f"{', '.join(sorted(unknown))}. `axis` and `name` stay as they are"
        )
    for layer in [model, *sublayers(model)]:
        unbuilt = isinstance(layer, BATCH_NORMALIZATIONS) and not layer.built
        if not layer.built and (unbuilt or layer is model):
            raise ValueError(
                f"`model` must be built. Received: {layer.name!r}, which is not. Call "
                "the model once."
            )
    return Replacer(lambda layer: _replace(layer, to, arguments)).copy_model(model)


def _replace(layer: Any, to: Any, arguments: dict[str, Any]) -> Any:
    """Return the layer that takes the place of a layer, None if it is to stay."""
    base = next((x for x in BATCH_NORMALIZATIONS if isinstance(layer, x)), None)
    if base is None or (type(layer) is to and not arguments):
        return None
    changed = [x for x in _METHODS if getattr(type(layer), x) is not getattr(base, x)]
    if changed:
        raise ValueError(
            "Every batch normalization must compute what its base class computes. "
            f"Received: {layer.path!r} of class {type(layer).__name__}, which has its "
            f"own {', '.join(changed)}. Replace it in the code of the model."
        )
    shape = layer.get_build_config()["input_shape"]
    if to == "affine":
        replacement = _make_affine(layer)
        replacement.build(shape)
    else:
        config = _translate_config(layer, base, to) | arguments
        try:
            replacement = to(**config)
            replacement.build(shape)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`arguments` must suit every batch normalization. Received: "
                f"{layer.path!r} of shape {tuple(shape)} and {arguments}. {error}"
            ) from None
    if to == "affine":
        affine = affine_from_statistics(
            None if layer.gamma is None else to_float64(layer.gamma),
            None if layer.beta is None else to_float64(layer.beta),
            to_float64(layer.moving_mean),
            to_float64(layer.moving_variance),
            layer.epsilon,
            replacement.axes,
        )
        replacement.scale.assign(affine.scale)
        replacement.shift.assign(affine.shift)
        return replacement
    for name in _WEIGHTS:
        old, new = (getattr(x, name, None) for x in (layer, replacement))
        if old is not None and new is not None:
            new.assign(old.value)
    return replacement


def _make_affine(layer: Any) -> ScaleShift:
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    rank = len(layer.get_build_config()["input_shape"])
    axes = sorted(axis % rank for axis in axes)
    return ScaleShift(axes, name=layer.name, dtype=layer.dtype_policy)


def _translate_config(layer: Any, base: Any, to: Any) -> dict[str, Any]:
    """Return the part of a layer's configuration that the class `to` accepts."""
    config = base.get_config(layer)
    config = {key: config[key] for key in config if key in _arguments_of(to)}
    if to is BatchNormalization:
        return config
    axes = config["axis"]
    if isinstance(axes, list | tuple):
        if len(axes) != 1:
            raise ValueError(
                f"{_name(to)} supports only one axis. Received: layer {layer.name!r} "
                f"with axis={axes}"
            )
        config["axis"] = axes[0]
    if to is keras.layers.GroupNormalization:
        channels = layer.moving_mean.shape[0]
        groups = [n for n in range(1, 33) if channels % n == 0]
        config["groups"] = max(groups)
    return config


def _arguments_of(to: Any) -> set[str]:
    """Return the names of the arguments that the layers can be given."""
    if to == "affine":
        return set()
    names = set(inspect.signature(to.__init__).parameters)
    # Of every layer: `name`, `dtype`, `trainable`.
    return names - {"self", "kwargs"} | set(keras.layers.Layer().get_config())


def _name(to: Any) -> str:
    return to if isinstance(to, str) else to.__name__
