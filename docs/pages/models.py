"""The sections on folding and exporting a model."""

from docs.pages.markdown import load, number, source, table


def folding_section():
    """Return the section on folding `keras.applications` and keras-hub."""
    facts = load("folding")
    rows = [
        [
            row["network"],
            row["folded"],
            row["left"],
            f"{row['difference']:.0e}",
            f"{row['seconds']:.1f}",
            f"{row['seconds without comparison']:.1f}",
        ]
        for row in facts["rows"]
        if row["folded"] + row["left"]
    ]
    left = [row for row in facts["rows"] if row["left"]]
    names = " and ".join(row["network"] for row in left)
    columns = ["network", "folded", "multiply-adds left", "difference", "seconds"]
    columns.append("without the comparison")
    return f"""\
## Folding

The smallest network of each family of `keras.applications` with batch normalization,
BN-Inception, and four small backbones of keras-hub, with random weights and statistics. The
difference is the largest between the outputs before and after, relative to the largest
output. Seconds are those of the processor, with the comparison that ends each fold (two
examples through both networks) and without it.

{table(columns, rows)}

In {names} some batch normalizations follow an output that is also used elsewhere, or a
padding with zeros, and precede a ReLU. No linear layer can absorb them; each becomes one
multiply-add.

{source(facts, "folding")}
"""


def export_section():
    """Return the section on exports."""
    facts = load("export")
    runtimes = facts["results"]
    names = {
        "bn_keras": "this package's export",
        "bn_keras, constants": "with `constants=True`",
        "Keras": "Keras' export",
    }
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
    return f"""\
## Export

![Latency and size of both exports](pictures/export.svg)

BN-Inception, 224 x 224, as TensorFlow SavedModels; ONNX Runtime and OpenVINO run the folded
network. Each runtime has its own process, and they take turns, one request each.

{table(columns, rows)}

Convolutions take about 95% of a request, all of them fused with bias and ReLU, in the same oneDNN
kernels that Keras' export uses. ONNX Runtime and OpenVINO also keep activations in blocks of
channels, which TensorFlow's kernels do not. Filters that are constants are brought into the
order of the kernel once, those that are variables for every answer.

{_memory(facts, names) if "memory, MB" in facts else ""}\
{source(facts, "export")}
"""


def _memory(facts, names):
    """Return the table of memory by signature, and of exporting."""
    memory = facts["memory, MB"]
    measures = {
        "loaded": "loaded",
        "serving_default": "after an answer of `serving_default`",
        "predict_uint8": "... and of `predict_uint8`",
        "predict_encoded": "... and of `predict_encoded`",
        "classify": "... and of `classify`",
        "server, warmed": "this package's server, warmed up",
        "exporting, MB": "exporting, peak",
        "exporting, seconds": "exporting, seconds of the processor",
    }
    rows = [
        [words, *(number(x[key]) if key in x else "" for x in memory.values())]
        for key, words in measures.items()
    ]
    columns = ["", *(names.get(name, name) for name in memory)]
    return f"""\
Each signature is run by an executor of its own. It copies constants, so weights of 16 kB and
more are variables, which all of them share. MB above a process without the model:

{table(columns, rows)}

"""
