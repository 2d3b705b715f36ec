"""The trainings of section 2: a layer and a network, moments outside the step."""

from functools import partial
from itertools import repeat
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.layers.outside_normalization import OutsideNormalization
from bn_keras.experiments.rounding import round_digits
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import MLP

# The learning rate of the one layer, and its epsilon. Section 2 has no epsilon; it only
# keeps the division defined.
RATE, EPSILON = 0.02, 1e-6
# The approximate number of points of the layer's curves.
CURVE_POINTS = 100


def measure_layer(
    directories: Any, folder: Any, kind: str, seed: int, steps: int
) -> dict[str, Any]:
    """Train one activation `x = wu + b` to separate even from odd digits.

    `u` is the digit, with the mean of each pixel subtracted; the loss is
    `E[(xhat - t)^2]` with `t` 0 or 1. Plain gradient descent changes `w`, which is
    Gaussian at first, and `b`, which is 0, on all training digits at once.

    Returns a dict. `steps`, `bias` and `loss` are curves of about 100 points. `end` is
    the last bias, and `formula` its value by the argument of section 2 if E[x] is
    outside the step, `2 * rate * steps * E[t]`. `change` is the relative change of the
    loss if the last bias is set to 0. `deviations` is the bias in standard deviations
    of `x`, the median over the second half.
    """
    digits = load_data("digits", None).train
    inputs = digits.images.reshape(len(digits), -1)
    inputs = inputs - inputs.mean(0)
    targets = (digits.labels % 2 == 0).astype("float32")[:, np.newaxis]
    keras.utils.set_random_seed(seed)
    gaussian: Any = keras.initializers.RandomNormal(stddev=1 / 8)
    dense: Any = keras.layers.Dense(1, kernel_initializer=gaussian)
    model: Any = keras.Sequential(
        [keras.Input(inputs.shape[1:]), dense, _normalization(kind)(epsilon=EPSILON)]
    )
    model.compile(keras.optimizers.SGD(RATE), "mean_squared_error", jit_compile=False)
    bias, deviation, loss = [], [], []

    def before_step(batch, logs):
        # Without the reset the loss would be the mean of all steps so far. Reading the
        # metrics through the callback's model also updates the variables under JAX.
        callback.model.reset_metrics()
        kernel, offset = (ops.convert_to_numpy(weight) for weight in dense.weights)
        bias.append(offset.item())
        deviation.append((inputs @ kernel).std().item())

    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=before_step,
        on_train_batch_end=lambda batch, logs: loss.append(logs["loss"]),
    )
    # One more step, whose loss is that of the last recorded bias.
    batches = (batch for batch in repeat((inputs, targets), steps + 1))
    model.fit(
        batches,
        steps_per_epoch=steps + 1,
        shuffle=False,
        callbacks=[callback],
        verbose=0,
    )
    with_bias = _loss(model, inputs, targets)
    dense.bias.assign(ops.zeros_like(dense.bias))
    without_bias = _loss(model, inputs, targets)
    points = range(0, steps + 1, max(1, steps // CURVE_POINTS))
    return {
        "steps": list(points),
        "bias": round_digits(bias)[:: points.step],
        "loss": round_digits(loss)[:: points.step],
        "end": bias[-1],
        "formula": 2 * RATE * steps * float(targets.mean(dtype=float)),
        "change": round_digits(abs(with_bias / without_bias - 1)),
        "deviations": round_digits(np.median(np.divide(bias, deviation)[steps // 2 :])),
    }


def _loss(model, inputs, targets):
    # In training mode BN uses the statistics of these digits, as in a training step.
    outputs = ops.convert_to_numpy(model(inputs, training=True))
    return np.mean((outputs - targets) ** 2, dtype=float)


def measure_network(
    directories: Any, folder: Any, kind: str, seed: int, rate: float, epochs: int
) -> dict[str, Any]:
    """Train the paper's 3 x 100 sigmoid units on the digits, in mini-batches of 60.

    Returns a dict. `loss` and `accuracy`, of training, and `weights`, the norm of the
    first hidden layer's weights, have one value per epoch. `initial` is the norm before
    training.
    """
    digits = load_data("digits", None).train
    keras.utils.set_random_seed(seed)
    model: Any = MLP(
        digits.images.shape[1:],
        normalization=lambda axis, name: _normalization(kind)(name=name),
    )
    model.compile(
        keras.optimizers.SGD(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    kernel = model.get_layer("hidden_1_dense").kernel
    norms = [_norm(kernel)]
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: norms.append(_norm(kernel))
    )
    history = model.fit(
        digits.images,
        digits.labels,
        batch_size=60,
        epochs=epochs,
        callbacks=[callback],
        verbose=0,
    ).history
    return {
        "loss": round_digits(history["loss"]),
        "accuracy": round_digits(history["accuracy"]),
        "weights": norms[1:],
        "initial": norms[0],
    }


def _normalization(kind):
    """Return the constructor of a normalization without gamma and beta."""
    if kind == "bn":
        return partial(BatchNormalization, center=False, scale=False)
    return partial(OutsideNormalization, kind == "scaled")


def _norm(weight):
    return round_digits(np.linalg.norm(np.asarray(ops.convert_to_numpy(weight))))
