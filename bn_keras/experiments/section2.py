"""Section 2's warning: what happens when normalization stays outside the gradient step.

Knows one layer and one small network on the bundled digits; not how results are shown
beside those of other experiments.
"""

from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from bn_keras.experiments.drawing import draw_seeds
from bn_keras.experiments.parts import Part, check_scale, load_data, measure
from bn_keras.experiments.rows import Row, rounded, spread
from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import MLP

TITLE = "Section 2: normalization outside the gradient step"


class Plan(NamedTuple):
    """The sizes of a run.

    Args:
        seeds: of the initial weights.
        steps: of gradient descent on one layer, each on all training digits.
        rates: learning rates of the network.
        epochs: of the network, in mini-batches of 60.
    """

    seeds: int
    steps: int
    rates: tuple[float, ...]
    epochs: int


PLANS = {
    "smoke": Plan(seeds=1, steps=40, rates=(2.0,), epochs=2),
    "default": Plan(seeds=5, steps=500, rates=(0.5, 2.0), epochs=20),
    "full": Plan(seeds=10, steps=2000, rates=(0.1, 0.5, 1.0, 2.0), epochs=60),
}
# Of the one layer. Section 2 has no epsilon; here it keeps the division defined.
RATE, EPSILON = 0.02, 1e-6
# Points of its curves, about.
CURVE = 100
# Times the initial norm of layer 1's weights, for the network to count as blown up.
BLOWN = 10
# What `measure_layer` returns beside its curves.
_NUMBERS = ("end", "formula", "change", "deviations")
# Labels and styles of what normalizes.
STYLES = {
    "bn": ("With BN", "-"),
    "scaled": ("E[x], Var[x] outside the step", "--"),
    "centred": ("E[x] outside the step", ":"),
}
REMARK = """\
The paper tells of this without a figure, a rate or a data set. Chosen here: one \
activation x = wu + b that tells even from odd digits of 8x8 pixels by least squares, \
plain gradient descent on all of them at once at rate 0.02, w and b both trained; and \
section 4.1's 3 x 100 sigmoid units on the same digits, without gamma and beta. With a \
trained beta behind it the bias would stop where that one does.\
"""
OUTCOME = """\
In the layer the bias grows as the paper's own argument has it, to the digit, and it \
changes the loss by rounding alone. With Var[x] outside as well, least squares pulls \
the weights together; the smaller the deviation, the larger the next step, which \
throws them back: the loss leaps for ever. It stays bounded, as normalized outputs \
are; so the layer decides nothing of "blows up".

The network is no such clear case. At rate 2 it blows up as the paper has it: its \
weights grow many times over and it stays at chance, where BN learns. At rate 0.5 it \
learns, only less well than with BN: what the paper tells of needs a high rate here. \
With E[x] alone outside, the figure's third curve, it stays near chance at rate 2.\
"""


class OutsideNormalization(keras.layers.Layer):
    """Normalize by the mini-batch, which the gradient takes for constants.

    `y = x - E[x]`, or `scaled`: `y = (x - E[x]) / sqrt(Var[x] + epsilon)`. Nothing is
    kept for inference.

    Args:
        scaled: whether the deviation is normalized too.
        epsilon: as `BatchNormalization` has it.
        **kwargs: `name` and other arguments of a Keras layer.

    Reference:
        Ioffe & Szegedy 2015, section 2.
    """

    def __init__(self, scaled, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.scaled, self.epsilon = scaled, epsilon

    def call(self, inputs):  # noqa: D102 (as Keras has it)
        # Not E[x^2] - E[x]^2: a bias that has grown would leave nothing of it.
        centred = inputs - ops.stop_gradient(ops.mean(inputs, axis=0))
        if not self.scaled:
            return centred
        variance = ops.mean(ops.square(centred), axis=0)
        return centred / ops.stop_gradient(ops.sqrt(variance + self.epsilon))


def run(workdir=None, scale="default", directories=None, jobs=1, on_part=None):
    """Train the layer and the network with each normalization.

    Args:
        workdir: folder for what was measured; None keeps nothing.
        scale: a key of `PLANS`.
        directories: not used; the digits are bundled.
        jobs: processes side by side.
        on_part: as `parts.measure` has it.

    Returns:
        A dict that JSON can hold, for `plot` and `rows`.

    Raises:
        ValueError: for an unknown scale.
    """
    check_scale(scale, PLANS)
    plan = PLANS[scale]
    parts = []
    for seed in range(plan.seeds):
        for kind in STYLES:
            name, arguments = f"layer-{kind}-seed{seed}", {"kind": kind, "seed": seed}
            parts.append(Part(name, measure_layer, arguments | {"steps": plan.steps}))
            for rate in plan.rates:
                name = f"network-{kind}-rate{rate}-seed{seed}"
                more = {"rate": rate, "epochs": plan.epochs}
                parts.append(Part(name, measure_network, arguments | more))
    measured = measure(parts, workdir, directories, jobs, on_part)

    def seeds(name):
        return [measured.results[f"{name}-seed{seed}"] for seed in range(plan.seeds)]

    return {
        "scale": scale,
        "seconds": round(measured.seconds, 1),
        "steps": plan.steps,
        "rates": list(plan.rates),
        "layer": {kind: seeds(f"layer-{kind}") for kind in STYLES},
        "network": {
            kind: {
                str(rate): seeds(f"network-{kind}-rate{rate}") for rate in plan.rates
            }
            for kind in STYLES
        },
    }


def measure_layer(kind, seed, steps, directories=None, folder=None):
    """Train one activation `x = wu + b` to tell even digits from odd ones.

    `u` is the digit, each pixel less its mean; the loss `E[(xhat - t)^2]` with `t` 0 or
    1; plain gradient descent of `w` and `b` on all training digits at once.

    Args:
        kind: a key of `STYLES`.
        seed: of the initial `w`, Gaussian of deviation 1/8; `b` begins at 0.
        steps: of gradient descent.
        directories: not used.
        folder: not used.

    Returns:
        A dict: `steps`, `bias`, `loss` are curves of about 100 points; `end`
        the last bias; `formula` what section 2's argument foretells of it where E[x] is
        outside, `2 * rate * steps * E[t]`; `change` the relative change of the loss
        when the last bias is set to 0; `deviations` the bias in standard deviations of
        `x`, its median over the second half.
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
        # Else the loss would be the mean of all steps; the callback's model brings the
        # variables up to date in JAX.
        note.model.reset_metrics()
        kernel, offset = (ops.convert_to_numpy(one) for one in dense.weights)
        bias.append(offset.item())
        deviation.append((inputs @ kernel).std().item())

    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=before_step,
        on_train_batch_end=lambda batch, logs: loss.append(logs["loss"]),
    )
    # One step more: its loss is that of the last bias noted.
    batches = (batch for batch in repeat((inputs, targets), steps + 1))
    model.fit(
        batches, steps_per_epoch=steps + 1, shuffle=False, callbacks=[note], verbose=0
    )
    # Training mode: BN takes the statistics of the digits, as in a step.
    with_bias = _loss(model, inputs, targets)
    dense.bias.assign(ops.zeros_like(dense.bias))
    without_bias = _loss(model, inputs, targets)
    shown = range(0, steps + 1, max(1, steps // CURVE))
    return {
        "steps": list(shown),
        "bias": rounded(bias)[:: shown.step],
        "loss": rounded(loss)[:: shown.step],
        "end": bias[-1],
        "formula": 2 * RATE * steps * float(targets.mean(dtype=float)),
        "change": rounded(abs(with_bias / without_bias - 1)),
        "deviations": rounded(np.median(np.divide(bias, deviation)[steps // 2 :])),
    }


def _loss(model, inputs, targets):
    outputs = ops.convert_to_numpy(model(inputs, training=True))
    return np.mean((outputs - targets) ** 2, dtype=float)


def measure_network(kind, seed, rate, epochs, directories=None, folder=None):
    """Train the paper's 3 x 100 sigmoid units on the digits, by mini-batches of 60.

    Args:
        kind: a key of `STYLES`.
        seed: of the initial weights and the order of the digits.
        rate: the learning rate.
        epochs: passes over the digits.
        directories: not used.
        folder: not used.

    Returns:
        A dict from `loss` and `accuracy`, of training, and `weights`, the norm of the
        first hidden layer's ones, to a value an epoch; and `initial`, that norm at the
        beginning.
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
    weights = [_norm(kernel)]
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(_norm(kernel))
    )
    history = model.fit(
        digits.images,
        digits.labels,
        batch_size=60,
        epochs=epochs,
        callbacks=[note],
        verbose=0,
    ).history
    return {
        "loss": rounded(history["loss"]),
        "accuracy": rounded(history["accuracy"]),
        "weights": weights[1:],
        "initial": weights[0],
    }


def plot(measurements):
    """The layer's bias and loss against steps, the network's weights and loss below.

    Args:
        measurements: what `run` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
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
            draw_seeds(axes, steps, [one[name] for one in seeds], style, label)
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


def rows(measurements):
    """Section 2's sentences beside what was measured.

    Args:
        measurements: what `run` returned.

    Returns:
        A list of `Row`.
    """
    layer = {
        kind: {name: [one[name] for one in seeds] for name in _NUMBERS}
        for kind, seeds in measurements["layer"].items()
    }
    scaled, centred = layer["scaled"], layer["centred"]
    steps = measurements["steps"]
    found = [
        Row(
            f"one layer, E[x] outside the step: bias after {steps} steps",
            f"grows indefinitely (by formula {centred['formula'][0]:.2f})",
            spread(centred["end"], digits=2),
            bool(np.allclose(centred["end"], centred["formula"], rtol=1e-4)),
        ),
        Row(
            "one layer, E[x] outside the step: relative change of the loss by the bias",
            "none",
            f"{max(centred['change']):.0e} at most",
            max(centred["change"]) < 1e-4,
        ),
        Row(
            "one layer, Var[x] outside too: bias in deviations of x, later half",
            "worse",
            f"{spread(scaled['deviations'])}; E[x] alone outside "
            f"{spread(centred['deviations'])}",
            min(scaled["deviations"]) > max(centred["deviations"]),
        ),
    ]
    for rate in map(str, measurements["rates"]):
        seeds = [measurements["network"][kind][rate] for kind in ("scaled", "bn")]
        growth = [
            [_largest(one["weights"]) / one["initial"] for one in of] for of in seeds
        ]
        accuracy = [[one["accuracy"][-1] for one in of] for of in seeds]
        network = f"network at rate {float(rate):g}, E[x], Var[x] outside the step"
        found += [
            Row(
                f"{network}: growth of layer 1's weights",
                f"blows up (here: over {BLOWN} times)",
                f"{spread(growth[0])} times; with BN {spread(growth[1])}",
                min(growth[0]) > BLOWN,
            ),
            Row(
                f"{network}: training accuracy in %",
                "-",
                f"{spread(accuracy[0], 100)}; with BN {spread(accuracy[1], 100)}",
            ),
        ]
    return found


def _largest(weights):
    """Infinite where one is no number: a network that blew up has such."""
    found = np.array(weights, float)
    return float(found.max()) if np.isfinite(found).all() else np.inf


def _normalization(kind):
    """What builds the normalization of that name, without gamma and beta."""
    if kind == "bn":
        return partial(BatchNormalization, center=False, scale=False)
    return partial(OutsideNormalization, kind == "scaled")


def _norm(weight):
    return rounded(np.linalg.norm(np.asarray(ops.convert_to_numpy(weight))))
