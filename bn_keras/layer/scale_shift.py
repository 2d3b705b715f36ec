"""The multiply-add that replaces a batch normalization which cannot be folded."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bn_keras")
class ScaleShift(keras.layers.Layer):
    """Multiply by a constant and add a constant, along some axes.

    `y = scale * x + shift`.

    Args:
        axes: The axes of the input along which the constants vary, in ascending order.
            The batch is axis 0.
        **kwargs: The arguments of every Keras layer, such as `name` and `dtype`.

    Example:
    ```python
    import numpy as np
    from bn_keras.folding import ScaleShift

    layer = ScaleShift(axes=(1,))
    layer.build((None, 2))
    layer.scale.assign([2.0, 3.0])
    layer.shift.assign([1.0, 0.0])
    assert np.array_equal(layer(np.ones((1, 2), "float32")), [[3.0, 3.0]])
    ```
    """

    # `Any`, because Keras declares no types for them.
    __call__: Callable[..., Any]
    scale: Any
    shift: Any

    def __init__(self, axes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "trainable": False})
        self.axes = tuple(axes)
        self.supports_masking = True

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create `scale` and `shift` with the sizes of the axes."""
        shape = tuple(input_shape[axis] for axis in self.axes)
        # In float32 at least: under a float16 policy the scale may exceed 65504.
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        self.scale, self.shift = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                dtype=dtype,
                trainable=False,
                autocast=False,
            )
            for name, initializer in (("scale", "ones"), ("shift", "zeros"))
        )

    def call(self, inputs: Any) -> Any:
        """Return `scale * inputs + shift` in the compute dtype."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        shape = [1] * len(inputs.shape)
        for axis in self.axes:
            shape[axis] = inputs.shape[axis]
        scale, shift = (
            ops.cast(ops.reshape(constant, shape), dtype)
            for constant in (self.scale, self.shift)
        )
        # Not `ops.add`: Keras takes a shift `(1, n, 1)` for a bias, and adds it along
        # the last axis, if that has the same size.
        outputs = ops.cast(inputs, dtype) * scale + shift
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> Sequence[int | None]:
        """Return `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "axes": self.axes}
