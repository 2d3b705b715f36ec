"""Time the layer against its peers: `python -m benchmarks.layer --json FILE`.

Forward and backward in training mode, float32, one process, interleaved, medians of the
contenders' times and their ratios. With `KERAS_BACKEND=jax` the layers run compiled by
JAX. The floor is one addition of two tensors of the layer's size: the least memory
traffic that an operation on two of them can have.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.timing import medians, provenance
from bn_keras import BatchNormalization
from bn_keras.models import BNInception

CASES = [
    (32, 56, 56, 64),
    (32, 28, 28, 256),
    (32, 14, 14, 576),
    (128, 32, 32, 16),
    (256, 100),
]
GROWTH = {
    "batch": [(batch, 28, 28, 64) for batch in (8, 16, 32, 64, 128)],
    "channels": [(32, 28, 28, channels) for channels in (16, 32, 64, 128, 256)],
}
LAYERS = {"ours": BatchNormalization, "keras": keras.layers.BatchNormalization}
BACKEND = keras.backend.backend()


def tensors(shape):
    """Two random float32 tensors of NumPy."""
    draw = np.random.default_rng(0)
    return [draw.normal(size=shape).astype("float32") for _ in range(2)]


def tensorflow_step(forward, weights, shape, compiled=False):
    """A function that runs `forward` and its gradients once."""
    import tensorflow as tf

    x, dy = map(tf.constant, tensors(shape))

    @tf.function(jit_compile=compiled)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            y = forward(x)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    # CPU functions return when their work is done.
    return partial(step, x, dy)


def tensorflow_layer(layer, shape, compiled=False):
    """A Keras layer's step."""
    layer.build(shape)
    weights = [layer.gamma.value, layer.beta.value]
    return tensorflow_step(partial(layer, training=True), weights, shape, compiled)


def addition(shape):
    """The floor."""
    import tensorflow as tf

    add = tf.function(lambda x, dy: x + dy)
    return partial(add, *map(tf.constant, tensors(shape)))


def tensorflow_contenders(shape, compiled=False):
    """Every contender that runs on TensorFlow, as functions to time."""
    import tensorflow as tf

    contenders: dict[str, Any] = {
        name: tensorflow_layer(layer(), shape, compiled)
        for name, layer in LAYERS.items()
    }
    if compiled:
        return contenders
    gamma, beta = tf.ones(shape[-1]), tf.zeros(shape[-1])

    def fused(x):
        flat = x if len(shape) == 4 else tf.reshape(x, (-1, 1, 1, shape[-1]))
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(flat, gamma, beta, epsilon=1e-3)
        return tf.reshape(y, shape)

    contenders["fused op"] = tensorflow_step(fused, [gamma, beta], shape)
    contenders["floor"] = addition(shape)
    if importlib.util.find_spec("torch"):
        contenders["torch"] = torch_step(shape)
    if importlib.util.find_spec("jax"):
        contenders["jax"] = jax_step(plain_jax(shape), shape)
    return contenders


def torch_step(shape):
    """PyTorch's layer on channels-last memory."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(2)
    last = {"memory_format": torch.channels_last} if len(shape) == 4 else {}
    order = (0, 3, 1, 2) if len(shape) == 4 else (0, 1)
    x, dy = (torch.tensor(a.transpose(order)).to(**last) for a in tensors(shape))
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    layer = kind(shape[-1]).to(**last)
    x.requires_grad_()

    def step():
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    return step


def plain_jax(shape):
    """Batch normalization as jax.numpy has it, with its moving averages."""
    import jax.numpy as jnp

    axes = tuple(range(len(shape) - 1))
    state = jnp.ones((4, shape[-1]))

    def forward(x, state):
        gamma, beta, *moving = state
        mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
        y = (x - mean) * (gamma / jnp.sqrt(variance + 1e-3)) + beta
        new = [
            0.99 * a + 0.01 * b for a, b in zip(moving, (mean, variance), strict=True)
        ]
        return y, new

    return forward, state


def jax_step(layer, shape):
    """A compiled forward and backward pass of `(function, state)`."""
    import jax

    forward, state = layer
    x, dy = map(jax.numpy.asarray, tensors(shape))

    @jax.jit
    def step(x, state, dy):
        y, backward, new = jax.vjp(forward, x, state, has_aux=True)
        return y, new, backward(dy)

    return lambda: jax.block_until_ready(step(x, state, dy))


def jax_contenders(shape):
    """Both Keras layers on JAX, and the same in jax.numpy."""
    import jax

    contenders = {}
    for name, layer in LAYERS.items():
        layer = layer()
        layer.build(shape)

        def forward(x, state, layer=layer):
            y, new = layer.stateless_call(*state, x, training=True)
            return y, new

        state = (
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
        )
        contenders[name] = jax_step((forward, state), shape)
    contenders["jax"] = jax_step(plain_jax(shape), shape)
    x, dy = map(jax.numpy.asarray, tensors(shape))
    add = jax.jit(lambda x, dy: x + dy)
    contenders["floor"] = lambda: jax.block_until_ready(add(x, dy))
    return contenders


def compare(case, metric, figures, unit=1.0):
    """Rows of ours against every peer."""
    return [
        {
            "case": case,
            "metric": metric,
            "ours": round(figures["ours"] * unit, 3),
            "peer": name,
            "peer_value": round(value * unit, 3),
            "ratio": round(figures["ours"] / value, 3),
        }
        for name, value in figures.items()
        if name != "ours"
    ]


def layer_rows(rounds):
    """Times of the layer alone."""
    contenders = tensorflow_contenders if BACKEND == "tensorflow" else jax_contenders
    rows = []
    for shape in CASES:
        count = rounds if len(shape) == 4 else 20 * rounds
        rows += compare(str(shape), "ms", medians(contenders(shape), count), 1e3)
        if BACKEND == "tensorflow":
            compiled = medians(tensorflow_contenders(shape, compiled=True), count)
            rows += compare(str(shape), "ms, XLA", compiled, 1e3)
    return rows


def growth_rows(rounds):
    """How the time grows with the batch and with the channels."""
    contenders = tensorflow_contenders if BACKEND == "tensorflow" else jax_contenders
    rows = []
    for what, shapes in GROWTH.items():
        for shape in shapes:
            chosen = contenders(shape)
            chosen = {name: chosen[name] for name in ("ours", "keras", "floor")}
            figures = medians(chosen, rounds)
            rows += compare(str(shape), f"ms, growth with {what}", figures, 1e3)
    return rows


def training_rows(rounds):
    """A whole BN-Inception training step at 64x64, batch 64, with and without BN."""
    import tensorflow as tf

    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(size=(64, 64, 64, 3)).astype("float32"))
    labels = tf.constant(draw.integers(0, 100, 64))
    loss = keras.losses.SparseCategoricalCrossentropy()

    def contender(normalization):
        keras.utils.set_random_seed(0)
        model = BNInception(
            input_shape=(64, 64, 3),
            classes=100,
            stem="small",
            normalization=normalization,
        )
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                value: Any = loss(labels, model(images, training=True))
            weights: Any = [v.value for v in model.trainable_variables]
            gradients = tape.gradient(value, weights)
            optimizer.apply(gradients, model.trainable_variables)
            return value

        return step

    contenders = {name: contender(layer) for name, layer in LAYERS.items()}
    contenders["no BN"] = contender(None)
    figures = medians(contenders, rounds)
    rows = compare("BN-Inception step, 64x64, batch 64", "ms", figures, 1e3)
    keras_ratio = figures["keras"] / figures["no BN"]
    print(f"Keras' layer against no BN: {keras_ratio:.2f}")
    return rows


def memory_rows():
    """Peak memory of a process that runs one layer's step, above one that only adds."""
    figures = {
        name: int(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.layer", "--peak-memory-of", name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for name in ("ours", "keras", "floor")
    }
    floor = figures.pop("floor")
    above = {name: value - floor for name, value in figures.items()}
    return compare(str(CASES[0]), "MiB above the floor", above, 2**-10)


def peak_memory(name):
    """Kilobytes that this process needed at its peak to run one contender."""
    shape = CASES[0]
    run = (
        addition(shape) if name == "floor" else tensorflow_layer(LAYERS[name](), shape)
    )
    for _ in range(5):
        run()
    # Not ru_maxrss: a new process begins with its parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def plot(rows, path):
    """Bars of each case's ratios to Keras' layer and to the floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    cases = [str(shape) for shape in CASES]
    for ax, peer in zip(axes, ("keras", "floor"), strict=True):
        ratios = {
            row["case"]: row["ratio"]
            for row in rows
            if row["peer"] == peer and row["metric"] == "ms" and row["case"] in cases
        }
        ax.barh(cases[::-1], [ratios[case] for case in cases[::-1]])
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xlabel(f"time / {peer}")
    figure.savefig(path, dpi=120)


def main():
    """Run, print a table, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--peak-memory-of", choices=["ours", "keras", "floor"])
    options = parser.parse_args()
    if options.peak_memory_of:
        print(peak_memory(options.peak_memory_of))
        return
    rows = layer_rows(options.rounds) + growth_rows(options.rounds)
    if BACKEND == "tensorflow":
        rows += memory_rows() + training_rows(max(3, options.rounds // 5))
    for row in rows:
        print(
            f"{row['case']:36} {row['metric']:20} ours {row['ours']:9.3f}  "
            f"{row['peer']:9} {row['peer_value']:9.3f}  ratio {row['ratio']:.2f}"
        )
    if options.json:
        result = {**provenance("benchmarks.layer"), "backend": BACKEND, "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
