"""Calculate replicas, cores and network links: `python -m benchmarks.capacity`.

The plan extrapolates from the images per second that one core serves. Measure that
figure on the kind of machine that is planned for, with the signature that clients will
call.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEMANDS = (1_000, 100_000, 1_000_000)
KEY = "images_per_second_per_core"
CARDS = (10, 25, 100)  # rates of network cards, Gbit/s


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of a plan.

    Args:
        utilization: Fraction of the cores' measured throughput to use. The rest is a
            reserve for bursts and for the slowest requests.
        cores_per_replica: Cores of a pod of `serving/deploy/kubernetes`.
        zones: Number of zones that the replicas are spread over. While one of them is
            down, the others suffice.
        cores_per_machine: Cores of a node.
        cores_reserved: Cores of a node for the system and its agents.
        uint8_bytes: Bytes of an image sent as uint8, 224 x 224 x 3 of 1 byte.
        float32_bytes: Bytes of an image sent as float32, 224 x 224 x 3 of 4 bytes.
        overhead: Bytes on the wire per byte of image, for gRPC, TCP/IP and Ethernet.
        link_share: Largest fraction of a network link's rate to use.
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
        invalid = [name for name, value in asdict(self).items() if value < 0]
        if not 0 < self.utilization <= 1:
            invalid.append("utilization")
        if self.zones < 2:
            invalid.append("zones")
        if (
            not 0
            < self.cores_per_replica
            <= self.cores_per_machine - self.cores_reserved
        ):
            invalid.append("cores_per_replica")
        if invalid:
            raise ValueError(
                "`utilization` must be above 0 and at most 1, `zones` 2 or more, and a "
                "replica must fit on a machine's unreserved cores. Received: "
                + ", ".join(f"{name}={getattr(self, name)!r}" for name in invalid)
            )


def plan(
    demand: float, per_core: float, assumptions: Assumptions | None = None
) -> dict[str, Any]:
    """Return what serves `demand` images per second while one zone is down.

    Args:
        demand: Images per second.
        per_core: Images per second that one core serves at full load, as measured.
        assumptions: An `Assumptions`. Defaults to `Assumptions()`.

    Returns:
        Dict of `busy_cores`, `replicas_needed`, `replicas` (including spare ones),
        `cores`, `machines`, and for each of `uint8` and `float32` a dict of `gbits`
        (Gbit/s of all images), `gbits_per_machine` (while a zone is down), `card` (the
        slowest of 10, 25, 100 Gbit/s that suffices; None if none does) and `links`
        (number of 100 Gbit/s links into the site).

    Raises:
        ValueError: `demand` or `per_core` is not positive.

    Example:
    ```python
    from benchmarks.capacity import plan

    assert plan(1_000, per_core=20)["replicas"] == 30
    ```
    """
    assumptions = assumptions or Assumptions()
    if not (demand > 0 and per_core > 0):
        raise ValueError(
            "`demand` and `per_core` must be above 0. Received: "
            f"demand={demand!r}, per_core={per_core!r}"
        )
    needed = _ceil(
        demand / (per_core * assumptions.utilization * assumptions.cores_per_replica)
    )
    replicas_per_zone = _ceil(needed / (assumptions.zones - 1))
    replicas_per_machine = (
        assumptions.cores_per_machine - assumptions.cores_reserved
    ) // assumptions.cores_per_replica
    machines = assumptions.zones * _ceil(replicas_per_zone / replicas_per_machine)
    replicas = assumptions.zones * replicas_per_zone
    return {
        "busy_cores": demand / per_core,
        "replicas_needed": needed,
        "replicas": replicas,
        "cores": replicas * assumptions.cores_per_replica,
        "machines": machines,
        "uint8": _network(demand * assumptions.uint8_bytes, machines, assumptions),
        "float32": _network(demand * assumptions.float32_bytes, machines, assumptions),
    }


def _network(
    bytes_per_second: float, machines: int, assumptions: Assumptions
) -> dict[str, Any]:
    gbits = bytes_per_second * assumptions.overhead * 8 / 1e9
    per_machine = gbits / (machines * (assumptions.zones - 1) / assumptions.zones)
    cards = [card for card in CARDS if per_machine <= card * assumptions.link_share]
    return {
        "gbits": gbits,
        "gbits_per_machine": per_machine,
        "card": cards[0] if cards else None,
        "links": _ceil(gbits / (CARDS[-1] * assumptions.link_share)),
    }


def _ceil(number: float) -> int:
    # Rounding may leave 0.65 * 4 * 20 slightly below 52.
    return math.ceil(number - 1e-9)


def table(
    per_core: float,
    assumptions: Assumptions | None = None,
    demands: Sequence[float] = DEMANDS,
) -> str:
    """Return plans as a Markdown table, with a row for each demand.

    Args:
        per_core: Images per second of one core.
        assumptions: An `Assumptions`. Defaults to `Assumptions()`.
        demands: Images per second.

    Returns:
        The table. Cells that depend on the type of the images read `uint8 / float32`.
    """
    assumptions = assumptions or Assumptions()
    rows = [
        "| images/s | busy cores | replicas (spare ones) | cores "
        f"| machines of {assumptions.cores_per_machine} cores | Gbit/s "
        "| Gbit/s per machine | network card, Gbit/s | 100 Gbit/s links |",
        "|---" * 9 + "|",
    ]
    for demand in demands:
        row = plan(demand, per_core, assumptions)
        types = [row["uint8"], row["float32"]]
        network = [
            [_digits(traffic["gbits"]) for traffic in types],
            [_digits(traffic["gbits_per_machine"]) for traffic in types],
            [str(traffic["card"] or "more") for traffic in types],
            [f"{traffic['links']:,}" for traffic in types],
        ]
        spare = row["replicas"] - row["replicas_needed"]
        cells = [
            f"{demand:,}",
            f"{row['busy_cores']:,.0f}",
            f"{row['replicas']:,} ({spare:,})",
            f"{row['cores']:,}",
            f"{row['machines']:,}",
            *(" / ".join(pair) for pair in network),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def describe(per_core: float, assumptions: Assumptions | None = None) -> str:
    """Return the assumptions as a Markdown list.

    Args:
        per_core: Images per second of one core.
        assumptions: An `Assumptions`. Defaults to `Assumptions()`.
    """
    assumptions = assumptions or Assumptions()
    return f"""\
- One core serves {per_core:.1f} images of 224 x 224 x 3 per second, as measured, and n
  cores serve n times as many on every machine. Measure this on the machines to use.
- The plan uses {assumptions.utilization:.0%} of that. The rest is a reserve for bursts
  and the slowest requests. Measure the 99th percentile at this load; it is not
  calculated.
- A replica has {assumptions.cores_per_replica} cores. One of {assumptions.zones} zones
  may be down. On each machine {assumptions.cores_reserved} cores are reserved for the
  system.
- Network: an image takes {assumptions.uint8_bytes:,} bytes as uint8 (`predict_uint8`) /
  {assumptions.float32_bytes:,} bytes as float32, times {assumptions.overhead} for the
  protocols, and at most {assumptions.link_share:.0%} of a link is used. Answers go in
  the other direction and are smaller."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for a measured throughput."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        f"--{KEY.replace('_', '-')}",
        type=float,
        metavar="X",
        dest="per_core",
        help="images per second that one core serves",
    )
    source.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"file of a measurement with the key {KEY}",
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
