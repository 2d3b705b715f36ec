"""Turn the text of one argument into its value, or into the words of its error.

Knows what values make sense, in `argparse`'s terms; no command and no option.
"""

import argparse
import functools
import math
import re
from pathlib import Path


def path(text):
    """A path whose name is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, received an empty one")
    return Path(text)


def path_or_none(text):
    """A path; None for an empty name, as TensorFlow Serving's flags have it."""
    return Path(text) if text else None


def _whole(least, most, bounds, text):
    try:
        if least <= int(text) <= most:
            return int(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {bounds}, received {text}")


positive = functools.partial(_whole, 1, 2**63 - 1, "1 or more")
pixels = functools.partial(_whole, 1, 16384, "1 to 16384")
port = functools.partial(_whole, 0, 65535, "0 to 65535")
waiting = functools.partial(_whole, 0, 10**6, "0 or more seconds")
counted = functools.partial(_whole, 1, 2**31 - 1, f"1 to {2**31 - 1}")
# NumPy's bounds, which keras.utils.set_random_seed hands on.
seed = functools.partial(_whole, 0, 2**32 - 1, f"0 to {2**32 - 1}")


def _above_zero(what, text):
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {what} above 0, received {text}")


seconds = functools.partial(_above_zero, "a number of seconds")
above_zero = functools.partial(_above_zero, "a number")


def address(text):
    """`HOST:PORT`, an IPv6 host in brackets."""
    found = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[^\s\[\]]+\]):([0-9]{1,5})", text)
    if not found or not 1 <= int(found[1]) <= 65535:
        raise argparse.ArgumentTypeError(
            f"expected HOST:PORT with a port from 1 to 65535, received {text!r}"
        )
    return text


def switch(text):
    """`true` or `false`, as a flag's value."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(
        f"expected true or false, with = before it, received {text!r}"
    )


def pairs(text):
    """`KEY=VALUE,...` as a dict, whole numbers as such."""
    found = {}
    for one in filter(None, text.split(",")):
        key, separator, value = one.partition("=")
        if not key or not separator:
            raise argparse.ArgumentTypeError(f"expected KEY=VALUE, received {one!r}")
        found[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return found
