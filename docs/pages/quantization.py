"""The section on int8 and bfloat16."""

from docs.pages.markdown import load, number, source, table

_BATCHES = (1, 8)


def quantization_section():
    """Return the section on exports in fewer bits, beside other runtimes."""
    facts = load("quantization")
    results = facts["BN-Inception"]
    rows = [
        [
            f"**{name}**" if name.startswith("bn_keras") else name,
            *(
                f"{figures[f'{kind}, batch {batch}, over {base}']:.2f}"
                for base, kind in (
                    ("bn_keras", "processor"),
                    ("bn_keras", "clock"),
                    ("Keras", "clock"),
                )
                for batch in _BATCHES
            ),
            f"{figures['size']:.2f}",
        ]
        for name, figures in results.items()
    ]
    columns = [
        "contender",
        *(
            f"{what}, batch {batch}"
            for what in ("processor time", "latency", "latency over Keras'")
            for batch in _BATCHES
        ),
        "size",
    ]
    networks = [
        [
            name,
            f"{figures['processor']:.2f}",
            f"{figures['clock']:.2f}",
            f"{figures['size']:.2f}",
            f"{figures['int8 share']:.1%}",
        ]
        for name, figures in facts["networks, batch 8"].items()
    ]
    seconds = facts["export seconds"]["int8"]
    requests = facts["request seconds"]
    answers = {name: number(1e3 * value) for name, value in requests.items()}
    return f"""\
## int8 and bfloat16

BN-Inception, 224 x 224, exported by this package in three precisions and by Keras, and the same folded
network in other runtimes, quantized by their own tools with the same 64 images. Each contender
has its own process, and they take turns, one request each. Figures are relative to this package's
float32 export unless a column says otherwise; smaller is better. The processor: {
        facts["processor"]
    }.

{table(columns, rows)}

TensorFlow computes an int8 network operation by operation, in images whose channels are the last
axis; the other runtimes fuse more of them and choose the order of each tensor.

{
        facts[
            "int8 share"
        ]:.1%} of the network's multiply-adds are in int8, counted from the published file. The int8
export with {facts["examples"]} images takes {
        number(seconds["clock seconds"])
    } s. A request through the
server takes {answers["int8"]} ms in int8 and {
        answers["float32"]
    } ms in float32 (median, one client).

Networks of `keras.applications` at batch 8, int8 over float32:

{
        table(
            ["network", "processor time", "latency", "size", "multiply-adds in int8"],
            networks,
        )
    }

What int8 costs in accuracy on trained networks: [export in int8](how-to/quantize.md).

{source(facts, "quantization")}
"""
