"""The sections on folding and exporting a model."""

from docs.pages.markdown import load, number, source, table


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
BN-Inception, with random weights and statistics. The difference is the largest between the
outputs before and after, relative to the largest output.

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
network. Each runtime has its own process, and they take turns, one request each.

{table(columns, rows)}

Convolutions take about 95% of a request, all of them fused with bias and ReLU, in the same oneDNN
kernels that Keras' export uses. ONNX Runtime and OpenVINO also keep activations in blocks of
channels, which TensorFlow's kernels do not.

The folded export needs {ours[peak] / keras[peak]:.1f} times the memory of Keras' export at its
first answer: constants are copied by the session, by the graph optimizer and into the
executor, where variables are held once.

{source(facts, "export")}
"""
