"""Convert the text of one argument to its value, for `argparse`."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path


def path(text: str) -> Path:
    """Return a path, which must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, received an empty one")
    return Path(text)


def optional_path(text: str) -> Path | None:
    """Return a path, or None for an empty one as TensorFlow Serving's flags do."""
    return Path(text) if text else None


def _integer(smallest: int, largest: int, bounds: str) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            if smallest <= int(text) <= largest:
                return int(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {bounds}, received {text}")

    return convert


positive_integer = _integer(1, 2**63 - 1, "1 or more")
integer = _integer(-(2**63), 2**63 - 1, "a whole number")
count = _integer(0, 2**31 - 1, f"0 to {2**31 - 1}")
pixels = _integer(1, 16384, "1 to 16384")
port = _integer(0, 65535, "0 to 65535")
whole_seconds = _integer(0, 10**6, "0 or more seconds")
# TensorFlow Serving's limits are 32-bit integers.
limit = _integer(1, 2**31 - 1, f"1 to {2**31 - 1}")
# NumPy, to which keras.utils.set_random_seed passes the seed, takes 32 bits.
seed = _integer(0, 2**32 - 1, f"0 to {2**32 - 1}")


def _positive(quantity: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            if 0 < float(text) < math.inf:
                return float(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(
            f"expected {quantity} above 0, received {text}"
        )

    return convert


seconds = _positive("a number of seconds")
positive_number = _positive("a number")


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        if 0 <= float(text) <= 1:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected 0 to 1, received {text}")


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def address(text: str) -> str:
    """Return `HOST:PORT`, where an IPv6 host is in brackets."""
    match = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[^\s\[\]]+\]):([0-9]{1,5})", text)
    if not match or not 1 <= int(match[1]) <= 65535:
        raise argparse.ArgumentTypeError(
            f"expected HOST:PORT with a port from 1 to 65535, received {text!r}"
        )
    return text


def boolean(text: str) -> bool:
    """Return the value of a flag that is `true` or `false`."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(
        f"expected true or false, with = before it, received {text!r}"
    )


def key_value_pairs(text: str) -> dict[str, int | str]:
    """Return `KEY=VALUE,...` as a dict, whole numbers as integers."""
    pairs: dict[str, int | str] = {}
    for pair in filter(None, text.split(",")):
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise argparse.ArgumentTypeError(f"expected KEY=VALUE, received {pair!r}")
        pairs[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return pairs
