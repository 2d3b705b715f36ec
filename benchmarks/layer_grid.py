"""The grid of `benchmarks.layer --grid`, and the measurements behind its constants.

A training step of the layer in every mode, against that of Keras' layer (masked, frozen
or synchronized, too, where it has the mode), in a TensorFlow graph whose batch size is
unknown, as in `fit`. Processor time, because other programs disturb it less.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from bn_keras import BatchNormalization

KERAS = keras.layers.BatchNormalization
BATCHES = (1, 8, 64, 512)
POSITIONS = ((), (7, 7), (32, 32))
CHANNELS = (1, 2, 3, 4, 6, 13, 22, 33, 64, 256, 1001, 4096)
LARGEST = 2**22  # values
MODES = {
    "plain": ({}, {}),
    "masked": ({}, {}),
    "frozen": ({"frozen_statistics": True}, {}),
    "ghost": ({"virtual_batch_size": 16}, {}),
    "synchronized": ({"synchronized": True}, {"synchronized": True}),
}


def processor_times(
    contenders: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """Return the median processor time of each contender in seconds, in turns."""
    seconds = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            run()  # brings caches and the allocator to the contender's own state
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def training_step(layer: Any, shape: tuple[int, ...], mode: str) -> Callable[[], Any]:
    """Return a function that runs the layer and its gradients once."""
    import tensorflow as tf

    layer.build((None, *shape[1:]))
    weights = [variable.value for variable in layer.trainable_variables]
    draw = np.random.default_rng(0)
    x, dy = (tf.constant(draw.normal(size=shape).astype("float32")) for _ in range(2))
    mask = tf.constant(draw.random(shape[:-1]) < 0.7) if mode == "masked" else None
    spec = tf.TensorSpec([None, *shape[1:]])

    @tf.function(input_signature=[spec, spec])
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            y = layer(x, training=True, mask=mask)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    if mode != "synchronized":
        return lambda: step(x, dy)
    strategy = tf.distribute.get_strategy()

    @tf.function
    def synchronized():
        return strategy.run(step, (x, dy))

    return synchronized


def contenders(shape: tuple[int, ...], mode: str) -> dict[str, Callable[[], Any]]:
    """Return the layer and Keras' layer in a mode."""
    ours, theirs = MODES[mode]
    return {
        "ours": training_step(BatchNormalization(**ours), shape, mode),
        "keras": training_step(KERAS(**theirs), shape, mode),
    }


def grid_rows(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each shape and mode, and the geometric mean of the ratios."""
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rows = []
    for mode in MODES:
        for batch, positions, channels in itertools.product(
            BATCHES, POSITIONS, CHANNELS
        ):
            shape = (batch, *positions, channels)
            if math.prod(shape) > LARGEST or (mode == "masked" and not positions):
                continue
            # Two replicas wait for each other: a few shapes say enough.
            if mode == "synchronized" and (batch != 64 or channels not in (3, 64)):
                continue
            scope = tf.distribute.get_strategy()
            if mode == "synchronized":
                scope = mirrored
            with scope.scope():
                figures = processor_times(contenders(shape, mode), rounds)
            rows.append(
                {
                    "case": str(shape),
                    "metric": f"ms, {mode}",
                    "ours": round(figures["ours"] * 1e3, 3),
                    "peer": "keras",
                    "peer_value": round(figures["keras"] * 1e3, 3),
                    "ratio": round(figures["ours"] / figures["keras"], 3),
                }
            )
            print(rows[-1]["case"], mode, rows[-1]["ratio"], flush=True)
    for mode in MODES:
        ratios = [row["ratio"] for row in rows if row["metric"] == f"ms, {mode}"]
        mean = math.exp(np.mean(np.log(ratios)))
        print(f"{mode}: geometric mean {mean:.2f}, largest {max(ratios):.2f}")
    mean = math.exp(np.mean([np.log(row["ratio"]) for row in rows]))
    print(f"all: geometric mean {mean:.2f} of {len(rows)}")
    return rows


def kernel_rows(rounds: int) -> list[dict[str, Any]]:
    """Return the times behind the constants of the TensorFlow kernels.

    A training step of the layer by the fused kernel against one by the formula, for
    growing batches of unknown size, and the fused kernel's own time for each number of
    channels, for the same number of values.
    """
    import tensorflow as tf

    from bn_keras.layer import tensorflow_kernels

    rows = []
    for positions, exponent in itertools.product(
        ((8, 8, 64), (32, 32, 4), (32, 32, 1)), range(13, 21)
    ):
        shape = (2**exponent // math.prod(positions), *positions)
        if shape[0] < 1:
            continue
        runs = {}
        for name, fewest in (("fused", 0), ("formula", 2**62)):
            # It is read while the function is traced.
            tensorflow_kernels.FEWEST_VALUES = fewest
            runs[name] = training_step(BatchNormalization(), shape, "plain")
            runs[name]()
        figures = processor_times(runs, rounds)
        rows.append(_row(str(shape), "ms, fused and formula", figures))
    for channels in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 22, 33, 64):
        size = 2**21 // (64 * 64 * channels)
        x = tf.random.normal((size, 64, 64, channels))
        ones, nothing = tf.ones([channels]), tf.zeros([0])

        @tf.function
        def fused(x, ones=ones, nothing=nothing):
            return tf.raw_ops.FusedBatchNormV3(
                x=x, scale=ones, offset=ones, mean=nothing, variance=nothing
            )

        @tf.function
        def add(x):
            return x + x

        runs = {
            "fused": lambda x=x, f=fused: f(x),
            "addition": lambda x=x, f=add: f(x),
        }
        figures = processor_times(runs, rounds)
        rows.append(_row(f"{channels} channels", "ms, fused and addition", figures))
    return rows


def _row(case, metric, figures):
    (_, ours), (peer, value) = figures.items()
    return {
        "case": case,
        "metric": metric,
        "ours": round(ours * 1e3, 3),
        "peer": peer,
        "peer_value": round(value * 1e3, 3),
        "ratio": round(ours / value, 3),
    }
