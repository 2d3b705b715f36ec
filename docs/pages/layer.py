"""The sections on the layer: its speed, memory and second derivatives."""

import bisect
import itertools
import math
import re
import statistics

from docs.pages.markdown import load, number, source, table


def layer_section():
    """Return the section on the speed and memory of the layer."""
    facts, jax, grid = load("layer"), load("layer_jax"), load("layer_grid")

    def ratios(rows, metric, peer):
        return {
            row["case"]: row
            for row in rows
            if row["metric"] == metric and row["peer"] == peer
        }

    keras = ratios(facts["rows"], "ms", "keras")
    peers = {name: ratios(facts["rows"], "ms", name) for name in ("torch", "floor")}
    compiled = ratios(facts["rows"], "ms, XLA", "keras")
    jax_keras = ratios(jax["rows"], "ms", "keras")
    shapes = [case for case in keras if case.startswith("(")]
    rows = [
        [
            f"`{shape}`",
            number(keras[shape]["ours"]),
            number(keras[shape]["peer_value"]),
            f"{keras[shape]['ratio']:.2f}",
            f"{peers['torch'][shape]['ratio']:.2f}",
            f"{peers['floor'][shape]['ratio']:.1f}",
            f"{compiled[shape]['ratio']:.2f}",
            f"{jax_keras[shape]['ratio']:.2f}",
        ]
        for shape in shapes
    ]
    columns = [
        "input",
        "this layer, ms",
        "Keras, ms",
        "of Keras'",
        "of PyTorch's",
        "of one addition",
        "of Keras', XLA",
        "of Keras', JAX",
    ]
    (memory,) = ratios(facts["rows"], "MiB above the floor", "keras").values()
    step = "BN-Inception step, 64x64, batch 64"
    network = {
        row["peer"]: row
        for row in facts["rows"]
        if row["case"] == step and row["metric"] == "ms"
    }
    plain = network["no BN"]["peer_value"]
    slow = max(shapes, key=lambda shape: compiled[shape]["ours"] / keras[shape]["ours"])
    return f"""\
## The layer

One training step of the layer alone, forward and backward, float32, in a TensorFlow
graph unless a column says otherwise. The addition of two tensors of the same shape is
the least memory traffic that an operation on two of them can have.

{table(columns, rows)}

- At `(256, 100)` a step takes as long as dispatching its thirty or so small TensorFlow
  operations; their arithmetic hardly counts.
- Peak memory of a step at `{memory["case"]}`, beyond what the addition needs:
  {number(memory["ours"])} MiB; with Keras' layer {number(memory["peer_value"])} MiB.
- A training step of BN-Inception (64x64 images, batch 64) takes
  {network["keras"]["ours"] / plain:.2f} of the time of the same network without
  normalization; with Keras' layer {network["keras"]["peer_value"] / plain:.2f}.
- XLA is slow on this CPU: at `{slow}` this layer takes
  {number(compiled[slow]["ours"])} ms compiled and {number(keras[slow]["ours"])} ms otherwise,
  Keras' layer {number(compiled[slow]["peer_value"])} and
  {number(keras[slow]["peer_value"])} ms.
- Nothing here was measured on a GPU.

Beside Keras' layer in every mode, in a graph whose batch size is unknown, as in `fit`, by the number of
values in a batch. Geometric means of the ratios of processor times, over batches of 1 to 512, 1 to
4,096 channels, and 1, 49 and 1,024 positions:

{_grid_table(grid)}

An unknown batch counts as 64 examples when a kernel is chosen. The fused kernel repays its start-up
from some 130,000 values on; a batch of a few examples may take half a millisecond longer than with
Keras' layer. Keras' layer has no virtual batches: it is compared with its plain mode.

{source(facts, "layer")}
{source(jax, "layer_jax")}
{source(grid, "layer_grid")}
"""


def _grid_table(grid):
    """Return the geometric means of the grid's ratios, by mode and size."""
    limits = [2**12, 2**17, 2**20, 2**63]
    heads = ["under 4,096", "to 130,000", "to a million", "a million and more", "all"]
    rows = []
    for metric in dict.fromkeys(row["metric"] for row in grid["rows"]):
        ratios = [[] for _ in limits]
        for row in grid["rows"]:
            if row["metric"] == metric:
                values = math.prod(map(int, re.findall(r"\d+", row["case"])))
                ratios[bisect.bisect_right(limits, values)].append(row["ratio"])
        means = [statistics.geometric_mean(x) if x else None for x in ratios]
        means.append(statistics.geometric_mean(itertools.chain(*ratios)))
        name = metric.removeprefix("ms, ").replace("ghost", "virtual batches")
        rows.append([name, *(f"{x:.2f}" if x else "" for x in means)])
    return table(["mode", *heads], rows)


def derivatives_section():
    """Return the section on second derivatives."""
    facts = load("second_derivatives")
    pairs = {}
    for row in facts["rows"]:
        pairs.setdefault((row["case"], row["weight"]), {})[row["layer"]] = row
    rows = []
    for (case, weight), layers in pairs.items():
        truth = layers["keras"]["largest derivative"]
        errors = [_error(layers[name]) for name in ("bn_keras", "keras")]
        rows.append([case, f"`{weight}`", number(truth), *errors])
    return f"""\
## Second derivatives

A gradient penalty and a MAML step differentiate a gradient. On TensorFlow the gradient of
`tf.nn.moments`, which Keras' layer uses, leaves a term out when it is differentiated again
([tensorflow#19609](https://github.com/tensorflow/tensorflow/issues/19609)). The network
has two normalizations and computes in float64; errors are differences from central differences.

{
        table(
            [
                "derivative of",
                "with respect to",
                "largest value",
                "error of this layer",
                "error of Keras' layer",
            ],
            rows,
        )
    }

{source(facts, "second_derivatives")}
"""


def _error(row):
    """Return an error in percent, or as it is where the derivative is zero."""
    relative = row["relative error"]
    if relative is not None:
        return f"{relative:.0%}" if relative >= 1e-5 else "below 0.001%"
    error = row["largest error"]
    return f"{error:.2g} instead of 0" if error >= 1e-10 else "below 1e-10"
