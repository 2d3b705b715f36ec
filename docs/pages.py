"""Write the generated pages of the documentation: `python -m docs.pages`.

Every figure on them comes from a file in `benchmarks/results/`. The tests write the
pages again and compare.
"""

# The prose of the pages is not wrapped at the width of code.
# ruff: noqa: E501

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
HEADER = "<!-- Written by `python -m docs.pages` from `benchmarks/results/`. -->\n"
LIBRARIES = ("bn_keras", "Keras", "PyTorch", "Flax")


def load(name):
    """Return the content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(columns, rows):
    """Return a Markdown table.

    Args:
        columns: The heads of the columns.
        rows: Sequences of cells, one for each column.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value):
    return str(value).replace("|", "\\|")


def number(value, digits=3):
    """Return a number to some significant digits, whole from 100 on."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):g}"


def source(facts, name):
    """Return the sentence that says where the figures of a section come from."""
    versions = facts.get("versions", {})
    named = {
        "keras": "Keras",
        "tensorflow": "TensorFlow",
        "jax": "JAX",
        "torch": "PyTorch",
        "flax": "Flax",
    }
    libraries = [f"{named[key]} {versions[key]}" for key in named if key in versions]
    return (
        f"Measured with `{facts['command']}` on {facts['machine']}"
        f"{'; ' if libraries else ''}{', '.join(libraries)} "
        f"([{name}.json](../benchmarks/results/{name}.json))."
    )


def layer_section():
    """Return the section on the speed and memory of the layer."""
    facts, jax = load("layer"), load("layer_jax")

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

- At `(256, 100)` the thirty or so small TensorFlow operations that a step dispatches
  take the time, not their arithmetic.
- Peak memory of a step at `{memory["case"]}`, beyond what the addition needs:
  {number(memory["ours"])} MiB, Keras' layer {number(memory["peer_value"])} MiB.
- A training step of BN-Inception (64x64 images, batch 64) takes
  {network["keras"]["ours"] / plain:.2f} of the time of the same network without
  normalization; with Keras' layer {network["keras"]["peer_value"] / plain:.2f}.
- XLA is slow on this CPU: at `{slow}` this layer takes
  {number(compiled[slow]["ours"])} ms compiled and {number(keras[slow]["ours"])} ms not,
  Keras' layer {number(compiled[slow]["peer_value"])} and
  {number(keras[slow]["peer_value"])} ms.
- Nothing here was measured on a GPU, and TensorFlow's fused kernel is used on CPUs only.

{source(facts, "layer")}
{source(jax, "layer_jax")}
"""


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
        return f"{relative:.0%}" if relative >= 0.001 else "below 0.001 %"
    error = row["largest error"]
    return f"{error:.2g} instead of 0" if error >= 1e-6 else "below 1e-10"


def folding_section():
    """Return the section on folding `keras.applications`."""
    facts = load("folding")
    rows = [
        [
            row["network"],
            row["folded"],
            row["left"],
            f"{row['difference']:.0e}",
            f"{row['seconds']:.1f}",
        ]
        for row in facts["rows"]
        if row["folded"] + row["left"]
    ]
    left = [row for row in facts["rows"] if row["left"]]
    names = " and ".join(row["network"] for row in left)
    columns = ["network", "folded", "multiply-adds left", "difference", "seconds"]
    return f"""\
## Folding

The smallest network of each family of `keras.applications` with batch normalization, and
BN-Inception, with random weights and statistics. The difference is the largest one of an
output, in units of the output's largest value.

{table(columns, rows)}

In {names} some batch normalizations follow an output that is also used elsewhere, or a
padding with zeros, and precede a ReLU. No linear layer can absorb those; each becomes one
multiply-add.

{source(facts, "folding")}
"""


def export_section():
    """Return the section on exports."""
    facts = load("export")
    runtimes = facts["results"]
    names = {"bn_keras": "this package's export", "Keras": "Keras' export"}
    measures = {
        "latency, batch 1": ("latency at batch 1, ms", 1e3),
        "latency, batch 8": ("latency at batch 8, ms", 1e3),
        "bytes": ("size, MB", 1e-6),
        "load seconds": ("seconds to load", 1),
        "load and first answer, seconds": ("seconds to the first answer", 1),
        "load peak MB": ("peak memory of loading, MB", 1),
        "load and first answer, peak MB": ("peak memory to the first answer, MB", 1),
    }
    rows = [
        [words, *(number(values[key] * factor) for values in runtimes.values())]
        for key, (words, factor) in measures.items()
        if all(key in values for values in runtimes.values())
    ]
    columns = ["", *(names.get(name, name) for name in runtimes)]
    ours, keras = runtimes["bn_keras"], runtimes["Keras"]
    peak = "load and first answer, peak MB"
    return f"""\
## Export

![Latency and size of both exports](pictures/export.svg)

BN-Inception, 224 x 224, as TensorFlow SavedModels; ONNX Runtime and OpenVINO run the folded
network. Each runtime has a process of its own, and they take turns, one request each.

{table(columns, rows)}

Convolutions take about 95 % of a request, all of them fused with bias and ReLU, in the same oneDNN
kernels that Keras' export uses. ONNX Runtime and OpenVINO also keep activations in blocks of
channels, which TensorFlow's kernels do not.

The folded export needs {ours[peak] / keras[peak]:.1f} times the memory of Keras' export at its
first answer: constants are copied by the session, by the graph optimizer and into the
executor, where variables are held once.

{source(facts, "export")}
"""


def serving_section():
    """Return the sections on serving."""
    facts, soak = load("serving"), load("serving_soak")
    peers = {"bn_keras": "this server", "ray": "Ray Serve", "kserve": "KServe"}

    def rate(model, by, concurrency):
        (row,) = (
            row
            for row in facts["peers"]
            if (row["model"], row["by"], row["concurrency"], row["batch"])
            == (model, by, concurrency, 1)
        )
        return row

    direct = rate("tiny", "direct", 1)["p50 ms"]
    rows = [
        [
            "tiny model, 1 client: median over the direct call, ms",
            *(f"{rate('tiny', by, 1)['p50 ms'] - direct:.2f}" for by in peers),
        ],
        [
            "tiny model, 16 clients: requests a second",
            *(number(rate("tiny", by, 16)["a second"]) for by in peers),
        ],
        *(
            [
                f"BN-Inception, {clients} client{'s' * (clients > 1)}: images a second",
                *(
                    number(rate("bn_inception", by, clients)["a second"])
                    for by in peers
                ),
            ]
            for clients in (1, 8, 64)
        ),
    ]
    processes = {row["by"]: row for row in facts["peers_processes"]}
    for key in ("processes", "seconds to the first answer", "resident MB"):
        rows.append([key, *(number(processes[by][key]) for by in peers)])
    load_rows = [
        [
            {"tiny": "tiny model", "bn_inception": "BN-Inception"}[row["model"]],
            row["arrivals"],
            number(row["a second"]),
            number(row["p50 ms"]),
            number(row["p99 ms"]),
            f"{row['p99 / p50']:.1f}",
            f"{row['p99 / p50, perfect queue']:.1f}",
        ]
        for row in facts["load"]
    ]
    load_columns = [
        "model",
        "arrivals",
        "requests a second",
        "median, ms",
        "99th percentile, ms",
        "their ratio",
        "ratio of a perfect queue",
    ]
    network_rows = [
        [
            f"`{row['signature']}`",
            row["batch"],
            row["concurrency"],
            number(row["a second"] * row["batch"]),
            number(row["p50 ms"]),
            f"{row['of direct, one thread']:.2f}",
        ]
        for row in facts["network"]
        if row["by"] == "served" and row["concurrency"] in (1, 2, 8, 64)
    ]
    network_columns = [
        "signature",
        "batch",
        "clients",
        "images a second",
        "median, ms",
        "of direct calls",
    ]
    versions = ", ".join(
        f"{peers[by]} {processes[by]['version']}" for by in peers if by != "bn_keras"
    )
    run = soak["soak"]
    return f"""\
## Serving

The embedded server in a second process on the loopback interface, its clients on the same two
cores. The peers ({versions}) answered the same requests in the same run, Ray Serve through
TensorFlow Serving's stubs.

{table(["", *peers.values()], rows)}

BN-Inception at 224 x 224, and its throughput as a share of direct calls from one thread:

{table(network_columns, network_rows)}

One client alone waits for the 0.6 MB of its image to cross two Python processes.

At 80 % of the highest throughput, with even and with random arrivals:

{table(load_columns, load_rows)}

{run["minutes"]:.0f} minutes of mixed calls, refused ones among them: {run["calls"]:,} calls,
{run["errors"]} errors, {run["growth of resident memory, per cent"]:.1f} % more resident memory
([serving_soak.json](../benchmarks/results/serving_soak.json)).

{source(facts, "serving")}
"""


def training_section():
    """Return the sections on data, evaluation and training."""
    data, evaluation, training = load("data"), load("evaluation"), load("training")
    recipes = load("recipes")
    pipeline_rows = [
        [
            row["pipeline"],
            number(row["images a second"]),
            number(row["training images a second"]),
            number(row["ratio"], 2),
        ]
        for row in data["rows"]
    ]
    recipe_rows = [
        [
            f"`{name}`",
            result["learning_rate"],
            f"{result['training_loss']:.3f}",
            "{:.1%} ({:.1%} to {:.1%})".format(
                result["test_accuracy"], *result["test_interval"]
            ),
        ]
        for name, result in recipes["results"].items()
    ]
    crops = ", ".join(
        f"{row['ratio']:.2f} ({row['case']})" for row in evaluation["rows"]
    )
    paper_rows = [
        [
            f"`{row['recipe']}`",
            row["images a second"],
            f"{row['steps of 32'] / 1e6:.1f} million",
            f"{row['epochs']:,}",
            f"{row['hours']:,}",
            row["machines for two weeks"],
        ]
        for row in training["rows"]
    ]
    paper_columns = [
        "recipe",
        "images a second",
        "steps of 32 images",
        "epochs",
        "hours",
        "such machines for two weeks",
    ]
    files = {row["pipeline"]: row["images a second"] for row in data["rows"]}
    folder = next(value for key, value in files.items() if "JPEG" in key)
    records = next(value for key, value in files.items() if "of the same" in key)
    return f"""\
## Data, training and evaluation

Input pipelines with training's augmentation, beside the training step of BN-Inception that
they feed:

{table(["pipeline", "images a second", "the training step's", "ratio"], pipeline_rows)}

TFRecord shards are faster where files are read over a network. On a local disk a folder of JPEG
files is faster than records of the same files: {number(folder)} and {
        number(records)
    } images a
second. {source(data, "data")}

The recipes after 600 steps on CIFAR-10 at a quarter of the width, one seed, the paper's own
learning rates. Chance is 10 %; so few steps show how the networks behave, not their maxima.

{
        table(
            ["recipe", "learning rate", "training loss", "test accuracy (95 %)"],
            recipe_rows,
        )
    }

{source(recipes, "recipes")}

Evaluating 144 crops of a picture takes, for each crop, {
        crops
    } of the time of a single crop.
{source(evaluation, "evaluation")}

The full ImageNet runs of the paper's figure 3, on paper: at the training steps measured at
224 x 224, if adding machines cost nothing.

{table(paper_columns, paper_rows)}

{source(training, "training")}
"""


def capacity_section():
    """Return the section on the size of a fleet."""
    from benchmarks import capacity

    rate = load("serving")[capacity.KEY]
    return f"""\
## Capacity, on paper

What 1,000 to 1,000,000 images a second take, computed from the {rate:.1f} images a second and
core that BN-Inception answered (`predict_uint8`, 224 x 224, batches of 8, the work of the
client on the same cores included). `python -m benchmarks.capacity
--images-per-second-per-core X` makes the table for a figure of your own. Network columns: uint8
pixels / float32.

{capacity.table(rate)}

{capacity.describe(rate)}
"""


def performance_page():
    """Return the page on performance."""
    sections = [
        layer_section(),
        derivatives_section(),
        folding_section(),
        export_section(),
        serving_section(),
        training_section(),
        capacity_section(),
    ]
    return f"""\
{HEADER}
# Performance

Everything here was measured on two shared CPU cores, without a GPU. Each section names the
command that repeats it; figures of your own machine will differ, ratios less so.

{chr(10).join(sections)}"""


def comparison_page():
    """Return the page that compares four libraries."""
    facts, jax = load("comparison"), load("comparison_jax")
    rows = [
        [row["question"], *(row[library] for library in LIBRARIES)]
        for row in [*facts["rows"], *jax["rows"]]
    ]
    versions = facts["versions"]
    columns = [
        "",
        "bn-keras",
        f"Keras {versions['keras']}",
        f"PyTorch {versions['torch']}",
        f"Flax {versions['flax']}",
    ]
    return f"""\
{HEADER}
# Comparison with Keras, PyTorch and Flax

Every cell of this table was written by a program, `python -m benchmarks.comparison`
([its source](../benchmarks/comparison.py)), which does the same with each library. Keras and this package ran on TensorFlow {versions["tensorflow"]}, the last
row on JAX {versions["jax"]}.

{table(columns, rows)}

Documented by each library, not run here:

| | bn-keras | Keras | PyTorch | Flax |
| --- | --- | --- | --- | --- |
| statistics over several replicas | `synchronized=True`: merges count, mean and squared distances, so masks and unequal replicas are exact; tested with two processes | [`synchronized=True`](https://keras.io/api/layers/normalization_layers/batch_normalization/), TensorFlow only | [`SyncBatchNorm`](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html), GPUs only | [`axis_name`](https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html) |

What the differences mean in practice:

- **Variance at a large mean.** Keras computes the variance of few channels through
  `tf.nn.moments` in one pass; with eight channels or more it is right. This layer subtracts
  first, whatever the shape.
- **Unbiased statistics.** The paper stores `m / (m - 1)` times the biased variance.
  `BatchNormalization(unbiased=False)` stores Keras' value.
- **Second derivatives.** See [the measurements](performance.md#second-derivatives).
- **Forward mode.** `jax.jvp` and `jax.jacfwd` do not work through this layer in training mode;
  `jax.grad` any number of times and `jax.hessian` do.
"""


def papers_page():
    """Return the page that summarizes all experiments."""
    from bn_keras.experiments.catalog import EXPERIMENTS
    from bn_keras.experiments.rows import cells

    overview, others = [], []
    for name in EXPERIMENTS:
        facts = load(f"reproduce/{name}")
        rows = [cells(row) for row in facts["rows"]]
        verdicts = [verdict for *_, verdict in rows]
        decided = len(verdicts) - verdicts.count("-")
        link = f"[{facts['title']}](results/{name}.md)"
        overview.append(
            [
                link,
                f"{verdicts.count('yes')} of {decided}" if decided else "no claim",
                f"{facts['seconds'] / 60:.0f}",
                f"`bn-keras reproduce {name}`",
            ]
        )
        others += [[link, *row[:-1]] for row in rows if row[-1] == "no"]
    columns = ["experiment", "claims confirmed", "minutes", "command"]
    return f"""\
{HEADER}
# The papers, measured again

Experiments of Ioffe & Szegedy 2015
([Batch Normalization](https://arxiv.org/abs/1502.03167)) and Santurkar et al. 2018
([How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604)), at sizes
that two CPU cores can train.

![Figure 1(a) of the paper, measured again](pictures/figure_1.svg)

{table(columns, overview)}

Each page has the set-up, the figure, every claim with what was measured, and what it means.
Measured values are means over the seeds, with the least and the most. A claim is confirmed if
every seed shows what the paper says; for the ensemble, if the 95 % interval over the test pictures
does. "As BN" means at least three quarters of the way from the network without batch
normalization to the one with it.

`bn-keras reproduce all --jobs 2` repeats everything; see
[Repeat the experiments](how-to/reproduce.md).

## Claims that were not confirmed

{table(["experiment", "claim", "paper", "measured"], others)}

The pages of the experiments discuss the reasons. The papers' networks were much larger and were
trained for much longer.
"""


PAGES = {
    "comparison.md": comparison_page,
    "papers.md": papers_page,
    "performance.md": performance_page,
}


def main():
    """Write them all."""
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
