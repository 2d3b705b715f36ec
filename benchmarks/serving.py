"""Measure the server under load: `python -m benchmarks.serving --json FILE`.

Every server runs in its own processes. This process calls them over loopback, through
one gRPC connection, with requests that were serialized beforehand, and does not parse
the answers, so that mainly the server is measured, although the client uses the same
cores. Direct calls of the same signatures run in another process. All of them take
turns, and each figure is the median over the rounds of one run. `--soak-minutes 30`
runs mixed requests for half an hour instead.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import serving_rest
from benchmarks import serving_sections as sections
from benchmarks.serving_contenders import Contender, Direct, Rest, Served
from benchmarks.serving_requests import NETWORK, PIXELS, TINY, write_models
from benchmarks.timing import provenance
from bn_keras.atomic_files import atomic_write

PROGRAMS = "benchmarks.serving_processes"
SECTIONS = ("overhead", "network", "batching", "tiny", "load", "rest", "peers")
TINY_SECTIONS = ("tiny", "load", "rest")
NETWORKS = {
    "full": {"input_shape": (224, 224, 3)},
    "small": {
        "input_shape": (32, 32, 3),
        "classes": 10,
        "stem": "small",
        "width": 0.25,
    },
}


class Record:
    """Results, written to disk after each round, so that an interrupted run keeps them.

    Args:
        path: File to write. None writes nothing.
    """

    def __init__(self, path):
        self.facts = provenance("benchmarks.serving")
        self._path = path

    def put(self, **facts):
        """Add facts, and write all of them."""
        self.facts |= facts
        if self._path is not None:
            with atomic_write(self._path) as temporary_path:
                temporary_path.write_text(json.dumps(self.facts, indent=1) + "\n")

    def follow(self, name, rounds):
        """Record the rows of a section after each round, then print the last ones."""
        rows, start = [], time.perf_counter()
        for rows in rounds:
            self.put(**{name: rows})
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n\n{table(rows)}")


def table(rows):
    """Return rows as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = (str(row.get(key, "")) for key in keys)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summarize(facts):
    """Return the figures that sum up a run, as far as its sections have them."""
    rows = []
    served = [row for row in facts.get("network", ()) if row["by"] == "served"]
    for signature, batch in sorted({(x["signature"], x["batch"]) for x in served}):
        ratios = {
            row["concurrency"]: row["of direct, one thread"]
            for row in served
            if (row["signature"], row["batch"]) == (signature, batch)
        }
        title = f"BN-Inception, {signature}, batch {batch}: throughput / direct"
        for part, values in (
            ("concurrency 1", [ratios[1]]),
            (
                "lowest from concurrency 2 on",
                [ratio for concurrency, ratio in ratios.items() if concurrency > 1],
            ),
        ):
            if values:
                rows.append((f"{title}, {part}", min(values)))
    for row in facts.get("overhead", ()):
        if row["by"] == "served":
            for title in (
                "p50 over direct, ms",
                "over direct / empty call",
                "over direct and empty call, ms",
            ):
                rows.append((f"{row['model']}: {title}", row[title]))
    for row in facts.get("rest_sizes", ()):
        title = f"REST / gRPC, {row['megabytes']} MB {row['direction']}"
        rows.append((title, row["REST / gRPC"]))
    for row in facts.get("rest_beside", ()):
        if "p99 / alone" in row:
            title = f"tiny gRPC call beside {row['beside']}: p99 / alone"
            rows.append((title, row["p99 / alone"]))
    for row in facts.get("load", ()):
        title = f"{row['model']}, 80% load, {row['arrivals']} arrivals: p99 / p50"
        rows.append((title, row["p99 / p50"]))
    return [{"figure": title, "measured": value} for title, value in rows]


def measure(record, folder, options):
    """Measure the selected sections."""
    effort = sections.QUICK if options.quick else sections.Effort()
    if options.rounds is not None:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    selected = options.sections or SECTIONS
    with_network = not options.tiny_only and not set(selected) <= {"tiny", "rest"}
    name = "small" if options.quick else "full"
    write_models(folder, NETWORKS[name] if with_network else None)
    cases = (TINY, NETWORK) if with_network else (TINY,)
    direct, ours = Direct(folder), start_server(folder, "ours")
    try:
        if "overhead" in selected:
            empty = start_server(folder, "empty")
            rounds = sections.overhead(direct, empty, ours, effort)
            record.follow("overhead", rounds)
            empty.close()
        if "network" in selected:
            record.follow("network", sections.network(direct, ours, effort))
            record.put(images_per_second_per_core=per_core(record.facts["network"]))
        if "tiny" in selected:
            rest = Rest(ours, folder)
            record.follow("tiny", sections.tiny(direct, ours, rest, effort))
        if "load" in selected:
            empty = start_server(folder, "empty")
            record.follow(
                "load", sections.at_load({"ours": ours}, empty, cases, effort)
            )
            empty.close()
        if "rest" in selected:
            record.follow("rest_sizes", serving_rest.sizes(ours, folder, effort))
            record.follow("rest_beside", serving_rest.beside(ours, folder, effort))
        if "batching" in selected:
            parameters = folder / "models" / NETWORK.model / "batching_parameters.txt"
            batched = start_server(folder, "ours-batched", "ours", parameters)
            batched.check(NETWORK)
            record.follow("batching", sections.batching(ours, batched, effort))
            batched.close()
        if "peers" in selected:
            measure_peers(record, folder, options, effort, direct, ours)
    finally:
        direct.close()
        ours.close()
    record.put(summary=summarize(record.facts))
    print(f"\nsummary\n\n{table(record.facts['summary'])}")


def measure_peers(record, folder, options, effort, direct, ours):
    """Compare this server with those others for which there is an interpreter."""
    contenders = {"bn_keras": ours}
    pythons = {"ray": options.ray_python, "kserve": options.peer_python}
    for name, python in pythons.items():
        if python is None:
            print(f"Skipping {name}: pass an interpreter in which it is installed.")
        else:
            contenders[name] = start_server(folder, name, python=python)
    try:
        for served in contenders.values():
            served.check(NETWORK)
        record.follow("peers", sections.peers(direct, contenders, effort))
        # At most two rounds, since this section takes most of the time.
        fewer = dataclasses.replace(effort, rounds=min(2, effort.rounds))
        cases = (TINY, NETWORK)
        empty = start_server(folder, "empty")
        record.follow("peers_load", sections.at_load(contenders, empty, cases, fewer))
        empty.close()
        rows = [
            sections.round_row(
                {
                    "by": name,
                    "version": served.facts.get("version", "this"),
                    "processes": len(served.contender.processes()),
                    "resident MB": served.contender.memory(),
                    "seconds to the first answer": served.seconds_to_first_answer,
                }
            )
            for name, served in contenders.items()
        ]
        record.follow("peers_processes", [rows])
    finally:
        for served in contenders.values():
            if served is not ours:
                served.close()


def start_server(folder, name, program=None, *paths, python=sys.executable):
    """Start a server, and wait for its first answer."""
    command = [PROGRAMS, program or name, folder, *paths]
    return Served(Contender(name, command, folder, python), folder)


def per_core(rows):
    """Return the uint8 images per second and core, including the client's work."""
    rate = max(
        row["a second"] * row["batch"]
        for row in rows
        if row["by"] == "served" and row["signature"] == PIXELS.signature
    )
    return round(rate / len(os.sched_getaffinity(0)), 2)


def main():
    """Print tables, and write the figures as JSON if `--json` is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure two short rounds of a small network",
    )
    parser.add_argument("--rounds", type=int, help="number of rounds; default: 5")
    parser.add_argument(
        "--tiny-only",
        action="store_true",
        help=f"measure {', '.join(TINY_SECTIONS)}, without BN-Inception",
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS)
    parser.add_argument(
        "--ray-python", type=Path, help="interpreter that has Ray Serve"
    )
    parser.add_argument("--peer-python", type=Path, help="interpreter that has KServe")
    parser.add_argument(
        "--soak-minutes", type=float, help="run mixed requests for so long instead"
    )
    options = parser.parse_args()
    if options.tiny_only:
        options.sections = [
            name for name in options.sections or SECTIONS if name in TINY_SECTIONS
        ]
    record = Record(options.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.soak_minutes is None:
            measure(record, folder, options)
            return
        from benchmarks.soak import soak

        write_models(folder, NETWORKS["small"])
        ours = start_server(folder, "ours")
        try:
            rounds = soak(ours, 60 * options.soak_minutes)
            for facts in rounds:
                record.put(soak=facts)
        finally:
            ours.close()
        facts = record.facts["soak"]
        shown = {key: value for key, value in facts.items() if "MB" not in key}
        print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
