"""Our server under load: `python -m benchmarks.serving --json FILE`.

Every server has processes of its own; this one asks over loopback, through one gRPC
connection, with requests serialized beforehand and answers left as bytes: it is the
server that is measured, though the client works on the same cores. Direct calls of the
same signatures run in one more process. All take turns, and figures are medians of the
rounds of one run. `--soak-minutes 30` asks for half an hour instead.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks import serving_sections as sections
from benchmarks.serving_contenders import Contender, Direct, Rest, Served
from benchmarks.serving_requests import NETWORK, PIXELS, TINY, write_models
from benchmarks.timing import provenance
from bn_keras.atomic_files import atomic_write

PROGRAMS = "benchmarks.serving_processes"
SECTIONS = ("network", "batching", "tiny", "load", "peers")
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
    """Results, on disk after each round: what is interrupted keeps what it has.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path):
        self.facts = provenance("benchmarks.serving")
        self._path = path

    def put(self, **facts):
        """Set facts, and write all of them."""
        self.facts |= facts
        if self._path is not None:
            with atomic_write(self._path) as temporary_path:
                temporary_path.write_text(json.dumps(self.facts, indent=1) + "\n")

    def follow(self, name, rounds):
        """Keep the newest rows of a section, then print them."""
        rows, start = [], time.perf_counter()
        for rows in rounds:
            self.put(**{name: rows})
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n\n{table(rows)}")


def table(rows):
    """Rows as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = (str(row.get(key, "")) for key in keys)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def targets(facts):
    """What was asked for, and what came, as far as it was measured."""
    found = []
    served = [row for row in facts.get("network", ()) if row["by"] == "served"]
    for signature, batch in sorted({(x["signature"], x["batch"]) for x in served}):
        chosen = {
            row["concurrency"]: row["of direct, one thread"]
            for row in served
            if (row["signature"], row["batch"]) == (signature, batch)
        }
        title = f"BN-Inception, {signature}, batch {batch}: throughput / direct"
        for part, values in (
            ("concurrency 1", [chosen[1]]),
            ("lowest from concurrency 2 on", [chosen[x] for x in chosen if x > 1]),
        ):
            if values:
                found.append((f"{title}, {part}", "at least 0.97", min(values)))
    for row in facts.get("tiny", ()):
        if row["by"] == "gRPC" and row["concurrency"] == 1:
            title = "tiny model: p50 over the direct call, ms"
            found.append((title, "at most 0.8", row["p50 over direct, ms"]))
    for row in facts.get("load", ()):
        title = f"{row['model']}, 80 % load, {row['arrivals']} arrivals: p99 / p50"
        found.append((title, "at most 3", row["p99 / p50"]))
    return [dict(zip(("figure", "to reach", "found"), x, strict=True)) for x in found]


def measure(record, folder, options):
    """Measure the sections that are asked for."""
    effort = sections.QUICK if options.quick else sections.Effort()
    if options.rounds is not None:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    chosen = options.sections or SECTIONS
    with_network = set(chosen) != {"tiny"} and not options.tiny_only
    name = "small" if options.quick else "full"
    write_models(folder, NETWORKS[name] if with_network else None)
    cases = (TINY, NETWORK) if with_network else (TINY,)
    direct, ours = Direct(folder), server(folder, "ours")
    try:
        if "network" in chosen:
            record.follow("network", sections.network(direct, ours, effort))
            record.put(images_per_second_per_core=per_core(record.facts["network"]))
        if "tiny" in chosen:
            rest = Rest(ours, folder)
            record.follow("tiny", sections.tiny(direct, ours, rest, effort))
        if "load" in chosen:
            record.follow("load", sections.at_load({"ours": ours}, cases, effort))
        if "batching" in chosen:
            parameters = folder / "models" / NETWORK.model / "batching_parameters.txt"
            batched = server(folder, "ours-batched", "ours", parameters)
            batched.check(NETWORK)
            record.follow("batching", sections.batching(ours, batched, effort))
            batched.close()
        if "peers" in chosen:
            measure_peers(record, folder, options, effort, direct, ours)
    finally:
        direct.close()
        ours.close()
    record.put(targets=targets(record.facts))
    print(f"\ntargets\n\n{table(record.facts['targets'])}")


def measure_peers(record, folder, options, effort, direct, ours):
    """Measure the servers side by side whose interpreters are given."""
    contenders = {"bn_keras": ours}
    pythons = {"ray": options.ray_python, "kserve": options.peer_python}
    for name, python in pythons.items():
        if python is None:
            print(f"{name} is left out: no interpreter that has it was given.")
        else:
            contenders[name] = server(folder, name, python=python)
    try:
        for one in contenders.values():
            one.check(NETWORK)
        record.follow("peers", sections.peers(direct, contenders, effort))
        # Two rounds: most of the time goes by here.
        fewer = dataclasses.replace(effort, rounds=min(2, effort.rounds))
        cases = (TINY, NETWORK)
        record.follow("peers_load", sections.at_load(contenders, cases, fewer))
        rows = [
            sections.rounded(
                {
                    "by": name,
                    "version": one.facts.get("version", "this"),
                    "processes": len(one.contender.processes()),
                    "resident MB": one.contender.memory(),
                    "seconds to the first answer": one.seconds_to_first_answer,
                }
            )
            for name, one in contenders.items()
        ]
        record.follow("peers_processes", [rows])
    finally:
        for one in contenders.values():
            if one is not ours:
                one.close()


def server(folder, name, program=None, *paths, python=None):
    """Start a server, and wait for its first answer."""
    command = [PROGRAMS, program or name, folder, *paths]
    chosen = {} if python is None else {"python": python}
    return Served(Contender(name, command, folder, **chosen), folder)


def per_core(rows):
    """Images a second that a core serves, of pixels, the client's work included."""
    most = max(
        row["a second"] * row["batch"]
        for row in rows
        if row["by"] == "served" and row["signature"] == PIXELS.signature
    )
    return round(most / len(os.sched_getaffinity(0)), 2)


def main():
    """Print tables, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds of a small network"
    )
    parser.add_argument("--rounds", type=int, help="turns of everything; default: 5")
    parser.add_argument(
        "--tiny-only", action="store_true", help="without BN-Inception: tiny and load"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--ray-python", type=Path, help="interpreter with Ray Serve")
    parser.add_argument("--peer-python", type=Path, help="interpreter with KServe")
    parser.add_argument("--soak-minutes", type=float, help="soak instead")
    options = parser.parse_args()
    if options.tiny_only:
        options.sections = [
            name for name in options.sections or SECTIONS if name in ("tiny", "load")
        ]
    record = Record(options.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.soak_minutes is None:
            measure(record, folder, options)
            return
        from benchmarks.soak import soak

        write_models(folder, NETWORKS["small"])
        ours = server(folder, "ours")
        try:
            rounds = soak(ours, 60 * options.soak_minutes)
            for facts in rounds:
                record.put(soak=facts)
        finally:
            ours.close()
        facts = record.facts["soak"]
        print(json.dumps({x: facts[x] for x in facts if "MB" not in x}, indent=1))


if __name__ == "__main__":
    main()
