"""The sections on serving: measured rates, and the size of a fleet."""

from docs.pages.markdown import load, number, source, table


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
            "tiny model, 1 client: median latency added to a direct call, ms",
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
    load_table = _load_table(
        facts["load"],
        {"tiny": "tiny model", "bn_inception": "BN-Inception"},
        ("perfect queue", "ratio of a perfect queue"),
    )
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

The embedded server ran in a second process on the loopback interface, with its clients on the same
two cores. The peers ({versions}) answered the same requests in the same run, Ray Serve through
TensorFlow Serving's stubs.

{table(["", *peers.values()], rows)}

BN-Inception at 224 x 224, and its throughput as a share of direct calls from one thread:

{table(network_columns, network_rows)}

One client alone waits for the 0.6 MB of its image to cross two Python processes.

At 80% of the highest throughput, with even and with random arrivals:

{load_table}

{run["minutes"]:.0f} minutes of mixed calls, including calls that must be refused: {run["calls"]:,} calls,
{run["errors"]} errors, {run["growth of resident memory, per cent"]:.1f}% more resident memory
([serving_soak.json](../benchmarks/results/serving_soak.json)).

{source(facts, "serving")}
"""


def overhead_section():
    """Return the section on what the server adds to a model."""
    facts = load("serving_overhead")
    models = {"tiny": "tiny model", "bn_inception": "BN-Inception, one image"}
    rows = []
    for model, title in models.items():
        by = {row["by"]: row for row in facts["overhead"] if row["model"] == model}
        served = by["served"]
        rows.append(
            [
                title,
                f"{by['direct']['p50 ms']:.2f}",
                f"{by['direct after a pause']['p50 ms']:.2f}",
                f"{by['empty call']['p50 ms']:.2f}",
                f"{served['p50 ms']:.2f}",
                f"{served['p50 over direct, ms']:.2f}",
            ]
        )
    columns = [
        "model",
        "direct call, ms",
        "direct after a pause, ms",
        "empty gRPC call, ms",
        "served, ms",
        "served over direct, ms",
    ]
    load_table = _load_table(
        facts["load"], models, ("empty call", "ratio of empty calls")
    )
    size_rows = [
        [
            f"{row['megabytes']} MB",
            row["direction"],
            number(row["REST p50 ms"]),
            number(row["gRPC p50 ms"]),
            f"{row['REST / gRPC']:.1f}",
        ]
        for row in facts["rest_sizes"]
    ]
    size_columns = ["document", "direction", "REST, ms", "gRPC, ms", "ratio"]
    beside_rows = [
        [
            row["beside"],
            number(row["p50 ms"]),
            number(row["p99 ms"]),
            f"{row['p99 / alone']:.1f}",
        ]
        for row in facts["rest_beside"]
    ]
    beside_columns = ["beside", "median, ms", "99th percentile, ms", "of alone"]
    return f"""\
## What the server adds

Median latencies of one client. A direct call runs the same graph through TensorFlow's session; an
empty call is answered by gRPC's own Python server with the same bytes and no model. In a server a model
runs after a pause, while the answer is sent and the next request comes: its threads and caches have gone
cold, which takes as long as the second column says. Differences of some milliseconds of BN-Inception are
within the noise of the model's own time.

{table(columns, rows)}

At 80% of the highest throughput:

{load_table}

A JSON document and a gRPC request with the same numbers:

{table(size_columns, size_rows)}

Large documents are converted in processes of their own. The tiny model over gRPC, while documents
are posted one after the other:

{table(beside_columns, beside_rows)}

{source(facts, "serving_overhead")}
"""


def capacity_section():
    """Return the section on the size of a fleet."""
    from benchmarks import capacity

    rate = load("serving")[capacity.KEY]
    return f"""\
## Capacity estimates

What 1,000 to 1,000,000 images per second need, calculated from the {rate:.1f} images per second and
core measured with BN-Inception (`predict_uint8`, 224 x 224, batches of 8, including the work of the
client on the same cores). `python -m benchmarks.capacity --images-per-second-per-core X` makes the
table for a figure of your own. The network columns are for uint8 pixels / float32.

{capacity.table(rate)}

{capacity.describe(rate)}
"""


def _load_table(load, models, reference):
    """Return the table of latencies under load.

    Args:
        load: The rows of the result file.
        models: A dict from the name of a model to its title.
        reference: What the ratio of the percentiles is compared with: the end of its
            key, and the head of its column.
    """
    key, head = reference
    columns = ["model", "arrivals", "requests a second", "median, ms"]
    columns += ["99th percentile, ms", "their ratio", head]
    rows = [
        [
            models[row["model"]],
            row["arrivals"],
            *(number(row[name]) for name in ("a second", "p50 ms", "p99 ms")),
            *(f"{row[name]:.1f}" for name in ("p99 / p50", f"p99 / p50, {key}")),
        ]
        for row in load
    ]
    return table(columns, rows)
