"""Time the layer and its peers: `python -m benchmarks.layer --json FILE`.

A forward and backward pass in training mode, in float32, in one process. The contenders
take turns; the medians of their times are compared. With `KERAS_BACKEND=jax` the layers
are compiled by JAX. The floor is an addition of two tensors of the layer's size: no
operation on two of them needs less memory traffic.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.layer_contenders import (
    BACKEND,
    LAYERS,
    contenders,
    tensorflow_addition,
    tensorflow_contenders,
    tensorflow_layer,
)
from benchmarks.layer_grid import grid_rows, kernel_rows
from benchmarks.timing import medians, provenance
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


def compare(case, metric, figures, unit=1.0):
    """Return a row for each peer, with the ratio of our figure to its figure."""
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
    """Return the times of the layer alone."""
    rows = []
    for shape in CASES:
        count = rounds if len(shape) == 4 else 20 * rounds
        rows += compare(str(shape), "ms", medians(contenders(shape), count), 1e3)
        if BACKEND == "tensorflow":
            compiled = medians(tensorflow_contenders(shape, compiled=True), count)
            rows += compare(str(shape), "ms, XLA", compiled, 1e3)
    return rows


def growth_rows(rounds):
    """Return the times for growing batches and for growing numbers of channels."""
    rows = []
    for what, shapes in GROWTH.items():
        for shape in shapes:
            every = contenders(shape)
            figures = medians(
                {name: every[name] for name in ("ours", "keras", "floor")}, rounds
            )
            rows += compare(str(shape), f"ms, growth with {what}", figures, 1e3)
    return rows


def training_rows(rounds):
    """Return the times of a training step of BN-Inception, with and without BN."""
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

    steps = {name: contender(layer) for name, layer in LAYERS.items()}
    steps["no BN"] = contender(None)
    figures = medians(steps, rounds)
    rows = compare("BN-Inception step, 64x64, batch 64", "ms", figures, 1e3)
    keras_ratio = figures["keras"] / figures["no BN"]
    print(f"Keras' layer, relative to no BN: {keras_ratio:.2f}")
    return rows


def memory_rows():
    """Return the peak memory of a process that runs a step, above that of the floor."""
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
    """Run one contender, and return the peak memory of this process in kilobytes."""
    shape = CASES[0]
    run = (
        tensorflow_addition(shape)
        if name == "floor"
        else tensorflow_layer(LAYERS[name](), shape)
    )
    for _ in range(5):
        run()
    # Not `ru_maxrss`: a new process starts with that of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def plot(rows, path):
    """Draw the ratios to Keras' layer and to the floor as bars, one for each case."""
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
    """Run the benchmark, print a table, and write the JSON file and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="all modes, batches of 1 to 512, 1 to 4,096 channels (TensorFlow)",
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="the measurements behind the constants of the TensorFlow kernels",
    )
    parser.add_argument("--peak-memory-of", choices=["ours", "keras", "floor"])
    options = parser.parse_args()
    if options.peak_memory_of:
        print(peak_memory(options.peak_memory_of))
        return
    if options.grid:
        rows = grid_rows(options.rounds)
    elif options.kernels:
        rows = kernel_rows(options.rounds)
    else:
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
