"""The warning of section 2: normalization outside the gradient step."""

from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.experiment import Experiment, measure_seeds
from bn_keras.experiments.layers.outside_normalization import OutsideNormalization
from bn_keras.experiments.rows import Row, mean_and_range, round_digits
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import MLP


class Section2Plan(NamedTuple):
    """The sizes of a scale."""

    seeds: int  # of the initial weights
    steps: int  # of gradient descent on one layer, each on all training digits
    rates: tuple[float, ...]  # learning rates of the network
    epochs: int  # of the network, in mini-batches of 60


PLANS = {
    "smoke": Section2Plan(seeds=1, steps=40, rates=(2.0,), epochs=2),
    "default": Section2Plan(seeds=5, steps=500, rates=(0.5, 2.0), epochs=20),
    "full": Section2Plan(seeds=10, steps=2000, rates=(0.1, 0.5, 1.0, 2.0), epochs=60),
}
# The learning rate of the one layer, and its epsilon. Section 2 has no epsilon; it only
# keeps the division defined.
RATE, EPSILON = 0.02, 1e-6
# The approximate number of points of the layer's curves.
CURVE_POINTS = 100
# The network counts as blown up if the norm of layer 1's weights has grown by this
# factor.
BLOWN_UP = 10
# The labels and line styles of the normalizations.
STYLES = {
    "bn": ("With BN", "-"),
    "scaled": ("E[x], Var[x] outside the step", "--"),
    "centred": ("E[x] outside the step", ":"),
}


def _rounds(plan):
    """Train the layer and the network with each normalization.

    The measurements hold what `_measure_layer` and `_measure_network` returned for each
    seed.

    Reference:
        Ioffe & Szegedy 2015, section 2.
    """
    trainings = {}
    for kind in STYLES:
        trainings[f"layer-{kind}"] = (
            _measure_layer,
            {"kind": kind, "steps": plan.steps},
        )
        for rate in plan.rates:
            trainings[f"network-{kind}-rate{rate}"] = (
                _measure_network,
                {"kind": kind, "rate": rate, "epochs": plan.epochs},
            )
    results = yield from measure_seeds(plan.seeds, trainings)
    return {
        "steps": plan.steps,
        "rates": list(plan.rates),
        "layer": {kind: results[f"layer-{kind}"] for kind in STYLES},
        "network": {
            kind: {
                str(rate): results[f"network-{kind}-rate{rate}"] for rate in plan.rates
            }
            for kind in STYLES
        },
    }


def _measure_layer(directories, folder, kind, seed, steps):
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


def _measure_network(directories, folder, kind, seed, rate, epochs):
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


def _plot(measurements):
    """Plot the layer's bias and loss above the network's weights and loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    (bias, loss), (weights, descent) = figure.subplots(2, 2)
    rate = measurements["rates"][-1]
    for kind, (label, style) in STYLES.items():
        layer = measurements["layer"][kind]
        network = measurements["network"][kind][str(rate)]
        epochs = range(1, len(network[0]["loss"]) + 1)
        for axes, steps, seeds, name in (
            (bias, layer[0]["steps"], layer, "bias"),
            (loss, layer[0]["steps"], layer, "loss"),
            (weights, epochs, network, "weights"),
            (descent, epochs, network, "loss"),
        ):
            draw_seeds(axes, steps, [seed[name] for seed in seeds], style, label)
    bias.set(xlabel="steps", ylabel="bias b", title="one layer: its bias")
    loss.set(xlabel="steps", ylabel="loss", title="one layer: its loss", ylim=(0, None))
    title = f"3 x 100 sigmoid units, learning rate {rate:g}"
    weights.set(xlabel="epochs", ylabel="norm of layer 1's weights", title=title)
    descent.set(xlabel="epochs", ylabel="training loss", title=title)
    for axes in (weights, descent):
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (bias, loss, weights, descent):
        axes.grid(alpha=0.3)
    bias.legend(loc="upper left")
    return figure


def _rows(measurements):
    layer = measurements["layer"]
    scaled, centred = (
        {name: [seed[name] for seed in layer[kind]] for name in layer[kind][0]}
        for kind in ("scaled", "centred")
    )
    table = [
        Row(
            f"one layer, E[x] outside: bias after {measurements['steps']} steps",
            f"grows indefinitely (formula: {centred['formula'][0]:.2f})",
            mean_and_range(centred["end"], digits=2),
            bool(np.allclose(centred["end"], centred["formula"], rtol=1e-4)),
        ),
        Row(
            "one layer, E[x] outside: relative change of the loss due to the bias",
            "none",
            f"{max(centred['change']):.0e} at most",
            max(centred["change"]) < 1e-4,
        ),
        Row(
            "one layer, Var[x] outside too: bias / deviation of x, second half",
            "worse",
            f"{mean_and_range(scaled['deviations'])}; E[x] alone outside "
            f"{mean_and_range(centred['deviations'])}",
            min(scaled["deviations"]) > max(centred["deviations"]),
        ),
    ]
    for rate in map(str, measurements["rates"]):
        # With both moments outside the step, then with BN.
        networks = [measurements["network"][kind][rate] for kind in ("scaled", "bn")]
        growth = [
            [_largest(seed["weights"]) / seed["initial"] for seed in seeds]
            for seeds in networks
        ]
        accuracy = [[seed["accuracy"][-1] for seed in seeds] for seeds in networks]
        network = f"network at rate {float(rate):g}, E[x], Var[x] outside the step"
        table += [
            Row(
                f"{network}: growth of layer 1's weights",
                f"blows up (here: more than {BLOWN_UP} times)",
                "{} times; with BN {}".format(*map(mean_and_range, growth)),
                min(growth[0]) > BLOWN_UP,
            ),
            Row(
                f"{network}: training accuracy (%)",
                "-",
                f"{mean_and_range(accuracy[0], 100)}; "
                f"with BN {mean_and_range(accuracy[1], 100)}",
            ),
        ]
    return table


def _largest(norms):
    """Return the largest norm, or infinity if one is not finite."""
    values = np.array(norms, float)
    return float(values.max()) if np.isfinite(values).all() else np.inf


EXPERIMENT = Experiment(
    "section2",
    "Section 2: normalization outside the gradient step",
    PLANS,
    _rounds,
    _rows,
    _plot,
)
