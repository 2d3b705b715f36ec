"""Removal of file system paths from the texts that clients receive."""

import re
from collections.abc import Iterable

REPLACEMENT = "<path>"

# Things with slashes that are no paths of this machine, and stay as they are.
_HARMLESS = (
    r"\{\{\w*node [^{}]*\}\}",  # a node of the graph, as in {{node /a/b}}
    r"https?://[\w\[][^\s'\"]*",
    # A device: /job:localhost/replica:0/task:0/device:CPU:0
    r"(?<![\w/])(?:/(?:job|replica|task|device|cpu|gpu|tpu):[\w*.-]+(?::[\d*]+)?)+"
    r"(?![\w/*-]|[.:]\w)",
    # The server's own URLs.
    r"(?<![\w:/])/v1/models(?:/[\w-]+(?:/(?:versions|labels)/[\w-]+)?"
    r"(?:/metadata|:\w+)?)?(?![\w/-]|[.:]\w)",
    r"(?<![\w:/])/monitoring/prometheus/metrics(?![\w/.-])",
)
# The rest of a path, up to a space or a quotation mark; `\ ` is an escaped space.
_REST = r"(?:\\.|[^\s'\"\\])*"
_PATHS = (
    # In quotation marks directly before it, a path may contain spaces.
    r"(?P<quote>['\"])(?:[A-Za-z][\w.+-]*:)?//*[^\s/*'\"](?:(?!(?P=quote)).)*(?P=quote)",
    r"(?<!\w)[A-Za-z][\w.+-]*://" + _REST,  # gs://bucket/model, file:///etc/passwd
    # Not and/or, 1/2, text/plain, (a)/b, ./b, 50%/s, +/-, a*/b.
    r"(?<![\w.)\]}%*+~/-])/+[^\s/*'\"]" + _REST,
)
_PATTERN = re.compile(f"(?P<harmless>{'|'.join(_HARMLESS)})|{'|'.join(_PATHS)}")
# What a sentence adds to a path, as in `(see /etc/passwd).`
_PUNCTUATION = re.compile(r"[]).,:;!?]*\Z")


def redact_paths(text: str, base_paths: Iterable[str] = ()) -> str:
    """Replace the paths in a text with `<path>`.

    These are absolute paths and URLs such as `gs://bucket/model`. Names of devices and
    of graph nodes, web addresses, fractions and the like stay.

    Args:
        text: Any text.
        base_paths: Paths that are recognized even if they contain spaces.

    Example:
        ```python
        from bn_keras_serving.dispatch.redaction import redact_paths

        text = "error:/etc/passwd on /device:CPU:0 and/or {{node a/b}}"
        assert redact_paths(text) == "error:<path> on /device:CPU:0 and/or {{node a/b}}"
        ```
    """
    for path in sorted(base_paths, key=len, reverse=True):
        path = path.rstrip("/")
        if path and path in text:
            # /models/a is also a part of the URL /v1/models/a, and stays there.
            pattern = rf"(?<!\w){re.escape(path)}(?![\w-]){_REST}"
            text = re.sub(pattern, _redact, text)
    return _PATTERN.sub(_redact, text)


def _redact(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if groups.get("harmless") is not None:
        return match[0]
    if groups.get("quote") is not None:
        return f"{groups['quote']}{REPLACEMENT}{groups['quote']}"
    punctuation = _PUNCTUATION.search(match[0])
    assert punctuation is not None
    return REPLACEMENT + punctuation[0]
