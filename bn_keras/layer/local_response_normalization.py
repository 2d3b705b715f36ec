"""Local response normalization across channels, for which Keras has no layer."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bn_keras")
class LocalResponseNormalization(keras.Layer):
    """Divide each value by the energy of the neighboring channels.

    `y_i = x_i / (bias + alpha * sum_j x_j^2) ** beta`, where the sum is over the
    `depth` channels centered at `i`. Channels beyond the ends count as zero.

    The defaults are those of AlexNet (k = 2, n = 5, alpha = 1e-4, beta = 0.75).
    GoogLeNet's paper has this layer in its figure 3 but does not state its constants,
    and neither does the paper on batch normalization. Unlike this layer, Caffe's
    divides `alpha` by `depth` and has a bias of 1.

    Args:
        depth: The number of channels in the window, which must be odd.
        bias: The constant k, which must be positive.
        alpha: The factor of the sum of squares. It is not divided by `depth`.
        beta: The exponent.
        data_format: `"channels_last"` for `(batch, ..., channels)` or
            `"channels_first"` for `(batch, channels, ...)`. None means
            `keras.config.image_data_format()`.
        **kwargs: The arguments of every Keras layer, such as `name` and `dtype`.

    Raises:
        ValueError: If `depth` is not odd and positive, `bias` is not positive, or
            `data_format` is unknown.

    Example:
    ```python
    import numpy as np

    from bn_keras.models import LocalResponseNormalization

    layer = LocalResponseNormalization(depth=1, bias=1.0, alpha=1.0, beta=0.5)
    y = layer(np.array([[[[3.0]]]], "float32"))  # 3 / sqrt(1 + 9)
    assert abs(float(y[0, 0, 0, 0]) - 3 / 10**0.5) < 1e-6
    ```

    Reference:
        Krizhevsky, Sutskever & Hinton 2012, section 3.3.
    """

    __call__: Callable[..., Any]  # Keras declares no type for it

    def __init__(
        self,
        depth: int = 5,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if depth < 1 or depth % 2 == 0:
            raise ValueError(
                "`depth` must be odd and positive, so that the window has a center. "
                f"Received: depth={depth}"
            )
        if bias <= 0:
            raise ValueError(
                "`bias` must be positive, to avoid a division by zero. "
                f"Received: bias={bias}"
            )
        self.depth = depth
        self.bias = bias
        self.alpha = alpha
        self.beta = beta
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                '`data_format` must be "channels_last", "channels_first" or None. '
                f"Received: data_format={data_format!r}"
            )

    def call(self, inputs: Any) -> Any:
        """Normalize a batch.

        Args:
            inputs: A tensor `(batch, ..., channels)` or `(batch, channels, ...)`.

        Returns:
            A tensor of the same shape, in the compute dtype.
        """
        # In float32 at least: squares of float16 values overflow from 256 on.
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x: Any = ops.cast(inputs, dtype)
        rank = len(x.shape)
        axis = 1 if self.data_format == "channels_first" else rank - 1
        channels, radius = x.shape[axis], self.depth // 2
        # With zeros at both ends, the sum over the window is a sum of `depth` slices.
        padding = [(radius, radius) if i == axis else (0, 0) for i in range(rank)]
        padded: Any = ops.pad(ops.square(x), padding)
        before = (slice(None),) * axis
        energy = sum(
            padded[(*before, slice(start, start + channels))]
            for start in range(self.depth)
        )
        return ops.cast(
            x / ops.power(self.bias + self.alpha * energy, self.beta),
            self.compute_dtype,
        )

    def compute_output_shape(
        self, input_shape: Sequence[int | None]
    ) -> Sequence[int | None]:
        """Return `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "depth": self.depth,
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
            "data_format": self.data_format,
        }
