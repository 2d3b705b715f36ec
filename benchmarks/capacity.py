"""Replicas, cores and network on paper: `python -m benchmarks.capacity`.

Multiplies what one core does by what is asked. Knows no server and measures nothing:
the images per second of a core come from a measurement on the machine that is planned
with, of the signature that clients will call.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

DEMANDS = (1_000, 100_000, 1_000_000)
KEY = "images_per_second_per_core"
# Gbit/s.
CARDS = (10, 25, 100)


@dataclass(frozen=True)
class Assumptions:
    """What a plan rests on.

    Args:
        utilization: share of the cores' measured throughput that is asked of them; the
            rest is for bursts and for the slowest requests.
        cores_per_replica: of a pod of `serving/deploy/kubernetes`.
        zones: the replicas are spread over; the others suffice while one is down.
        cores_per_machine: of a node.
        cores_reserved: of a node, for the system and its agents.
        uint8_bytes: of one image sent as pixels, 224 x 224 x 3 of 1 byte.
        float32_bytes: of one image sent as numbers, 224 x 224 x 3 of 4 bytes.
        overhead: bytes on the wire for each byte of image: gRPC, TCP/IP and Ethernet.
        link_share: share of a network link's rate that is used at most.
    """

    utilization: float = 0.65
    cores_per_replica: int = 4
    zones: int = 3
    cores_per_machine: int = 64
    cores_reserved: int = 4
    uint8_bytes: int = 150_528
    float32_bytes: int = 602_112
    overhead: float = 1.05
    link_share: float = 0.6

    def __post_init__(self):
        wrong = [name for name, value in asdict(self).items() if value < 0]
        if not 0 < self.utilization <= 1:
            wrong.append("utilization")
        if self.zones < 2:
            wrong.append("zones")
        if (
            not 0
            < self.cores_per_replica
            <= self.cores_per_machine - self.cores_reserved
        ):
            wrong.append("cores_per_replica")
        if wrong:
            raise ValueError(
                "`utilization` must be above 0 and at most 1, `zones` 2 or more, and a "
                "replica must fit on a machine's unreserved cores. Received: "
                + ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            )


def plan(demand, per_core, assumptions=None):
    """What answers `demand` images a second, with one zone down.

    Args:
        demand: images per second.
        per_core: images per second that one core answers, measured, when it does
            nothing else.
        assumptions: an `Assumptions`, None for the defaults.

    Returns:
        Dict of `busy_cores`, `replicas_needed`, `replicas` (spare ones included),
        `cores`, `machines`, and for `uint8` and `float32` each a dict of `gbits`
        (all images), `gbits_per_machine` (while a zone is down), `card` (the smallest
        of 10, 25, 100 Gbit/s that carries it; None for none) and `links` of 100 Gbit/s
        at the entrance.

    Raises:
        ValueError: for a demand or a throughput that is not positive.

    Example:
    ```python
    from benchmarks.capacity import plan

    assert plan(1_000, per_core=20)["replicas"] == 30
    ```
    """
    given = assumptions or Assumptions()
    if not (demand > 0 and per_core > 0):
        raise ValueError(
            "`demand` and `per_core` must be above 0. Received: "
            f"demand={demand!r}, per_core={per_core!r}"
        )
    needed = _ceil(demand / (per_core * given.utilization * given.cores_per_replica))
    in_a_zone = _ceil(needed / (given.zones - 1))
    on_a_machine = (
        given.cores_per_machine - given.cores_reserved
    ) // given.cores_per_replica
    machines = given.zones * _ceil(in_a_zone / on_a_machine)
    replicas = given.zones * in_a_zone
    return {
        "busy_cores": demand / per_core,
        "replicas_needed": needed,
        "replicas": replicas,
        "cores": replicas * given.cores_per_replica,
        "machines": machines,
        "uint8": _network(demand * given.uint8_bytes, machines, given),
        "float32": _network(demand * given.float32_bytes, machines, given),
    }


def _network(bytes_per_second, machines, given):
    gbits = bytes_per_second * given.overhead * 8 / 1e9
    each = gbits / (machines * (given.zones - 1) / given.zones)
    cards = [card for card in CARDS if each <= card * given.link_share]
    return {
        "gbits": gbits,
        "gbits_per_machine": each,
        "card": cards[0] if cards else None,
        "links": _ceil(gbits / (CARDS[-1] * given.link_share)),
    }


def _ceil(number):
    # 0.65 * 4 * 20 may be a hair below 52.
    return math.ceil(number - 1e-9)


def table(per_core, assumptions=None, demands=DEMANDS):
    """Lines of Markdown: one row for each demand, uint8 / float32 where they differ.

    Args:
        per_core: images per second of one core.
        assumptions: an `Assumptions`, None for the defaults.
        demands: images per second, a sequence.

    Returns:
        A string.
    """
    given = assumptions or Assumptions()
    rows = [
        "| images/s | cores at work | replicas (of them spare) | cores "
        f"| machines of {given.cores_per_machine} cores | Gbit/s | a machine's "
        "| its card, Gbit/s | 100 Gbit/s links at the entrance |",
        "|---" * 9 + "|",
    ]
    for demand in demands:
        found = plan(demand, per_core, given)
        ways = [found["uint8"], found["float32"]]
        network = [
            [_digits(way["gbits"]) for way in ways],
            [_digits(way["gbits_per_machine"]) for way in ways],
            [str(way["card"] or "more") for way in ways],
            [f"{way['links']:,}" for way in ways],
        ]
        spare = found["replicas"] - found["replicas_needed"]
        cells = [
            f"{demand:,}",
            f"{found['busy_cores']:,.0f}",
            f"{found['replicas']:,} ({spare:,})",
            f"{found['cores']:,}",
            f"{found['machines']:,}",
            *(" / ".join(pair) for pair in network),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _digits(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def describe(per_core, assumptions=None):
    """The assumptions, one line of text each.

    Args:
        per_core: images per second of one core.
        assumptions: an `Assumptions`, None for the defaults.

    Returns:
        A string of Markdown.
    """
    given = assumptions or Assumptions()
    return f"""\
- One core answers {per_core:.1f} images of 224 x 224 x 3 a second, as measured; n cores
  answer n times as many, on every machine. Measure again on the machines meant.
- {given.utilization:.0%} of that is asked of it. The rest is for bursts and the slowest
  requests; the 99th percentile at that load is to be measured, it is not computed.
- {given.cores_per_replica} cores a replica; {given.zones} zones, one of which may be
  down; {given.cores_reserved} cores of a machine for the system.
- Network: uint8 pixels (`predict_uint8`), {given.uint8_bytes:,} bytes an image, /
  float32 of {given.float32_bytes:,} bytes, times {given.overhead} for the protocols, at
  most {given.link_share:.0%} of a link. Answers go the other way and are smaller."""


def main(arguments=None):
    """Print the table for a measured throughput."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        f"--{KEY.replace('_', '-')}", type=float, metavar="X", dest="per_core"
    )
    source.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"of a measurement, with the key {KEY}",
    )
    options = parser.parse_args(arguments)
    per_core = options.per_core
    try:
        if options.json:
            per_core = json.loads(options.json.read_text(encoding="utf-8"))[KEY]
        print(f"{table(per_core)}\n\n{describe(per_core)}")
    except KeyError:
        parser.error(f"{options.json} must have the key {KEY}")
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
