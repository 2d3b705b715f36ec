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

The embedded server ran in a second process on the loopback interface, with its clients on the same
two cores. The peers ({versions}) answered the same requests in the same run, Ray Serve through
TensorFlow Serving's stubs.

{table(["", *peers.values()], rows)}

BN-Inception at 224 x 224, and its throughput as a share of direct calls from one thread:

{table(network_columns, network_rows)}

One client alone waits for the 0.6 MB of its image to cross two Python processes.

At 80% of the highest throughput, with even and with random arrivals:

{table(load_columns, load_rows)}

{run["minutes"]:.0f} minutes of mixed calls, including calls that must be refused: {run["calls"]:,} calls,
{run["errors"]} errors, {run["growth of resident memory, per cent"]:.1f}% more resident memory
([serving_soak.json](../benchmarks/results/serving_soak.json)).

{source(facts, "serving")}
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
