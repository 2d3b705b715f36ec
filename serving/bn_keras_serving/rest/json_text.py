"""Parsing of JSON documents from any client, and descriptions of what is invalid."""

import binascii
import json
import math
import re
from typing import Any

from bn_keras_serving.common.errors import InvalidRequestError

# Characters of a client's document that an error quotes (util/json_tensor.cc).
MAXIMUM_EXCERPT = 256

_TOO_DEEP = "JSON Parse error: Lists or objects are nested too deep"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# A byte order mark and white space.
_START = re.compile(r"\ufeff?[ \t\n\r]*")
_STRING_OR_NUMBER = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?'
)
# What RapidJSON reads as numbers, in addition to those that Python's parser reads; the
# first alternative is for strings, which may contain anything. One that does not end is
# matched too, or a search from each quotation mark in it would take hours.
_STRING_OR_SHORT_NUMBER = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|Inf(?!inity)|-(?=NaN)', re.DOTALL
)
# Only a number with one of these parts, once its digits are replaced by zeros, can be
# beyond the range of float64. Parsing with a look at each number takes twice as long.
_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_PARTS_OF_LARGE_NUMBERS = (b"e000", b"e+000", 200 * b"0")
_TYPE_NAMES = {
    type(None): "Null",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}


class RepeatedKeys(dict[str, Any]):
    """An object in which a key occurs more than once: the first value counts.

    Attributes:
        pairs: All keys and values.
    """

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(reversed(pairs))
        self.pairs = pairs


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """Parse the body of a request, which must be an object.

    As in TensorFlow Serving, `NaN`, `Inf` and `Infinity` are numbers, also with a minus
    sign, and anything after the object is ignored. Unlike there, nesting beyond
    Python's own limit, about a thousand, is an error wherever it occurs.

    Args:
        body: JSON in UTF-8.

    Raises:
        InvalidRequestError: If the body is not valid JSON or not an object.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: Invalid UTF-8 at offset: {error.start}. Send binary "
            'values as {"b64": ...}.'
        ) from None
    start = _START.match(text).end()
    if start == len(text):
        raise InvalidRequestError("JSON Parse error: The document is empty")
    zeros = body.translate(_ZEROS)
    may_overflow = any(part in zeros for part in _PARTS_OF_LARGE_NUMBERS)
    decoder = _EXACT_DECODER if may_overflow else _DECODER
    try:
        document = _decode(decoder, text, start)
    except RecursionError:
        raise InvalidRequestError(_TOO_DEEP) from None
    except OverflowError:
        numbers = _STRING_OR_NUMBER.finditer(text, start)
        position = next(number.start() for number in numbers if _is_too_big(number[0]))
        raise _parse_error(
            "Number too big to be stored in double.", text, position
        ) from None
    # Checking for unpaired surrogates takes a while, and few documents contain any.
    if b"\\ud" in body or b"\\uD" in body:
        _check_surrogates(document)
    if not isinstance(document, dict):
        raise invalid_value(document, "Is not object")
    return document


def invalid_value(value: object, problem: str) -> InvalidRequestError:
    """Return an error that quotes the beginning of a value and states the problem."""
    return InvalidRequestError(f"JSON Value: {excerpt(value)} {problem}")


def excerpt(value: object) -> str:
    """Return the beginning of a value as JSON."""
    text = ""
    # The encoder yields small parts, so that a long or deeply nested value is not
    # written as a whole.
    for part in _ENCODER.iterencode(value):
        text += part[: MAXIMUM_EXCERPT + 1]
        if len(text) > MAXIMUM_EXCERPT:
            return text[:MAXIMUM_EXCERPT] + "..."
    return text


def json_type(value: object) -> str:
    """Return the name of a value's type: `Number`, `Array`, `True`, ..."""
    if isinstance(value, dict):
        return "Object"
    return str(value) if isinstance(value, bool) else _TYPE_NAMES[type(value)]


def is_binary(value: object) -> bool:
    """Return whether a value is `{"b64": "..."}`, the form of arbitrary bytes."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def to_bytes(value: object) -> bytes:
    """Return the bytes of a string or a binary value.

    Raises:
        InvalidRequestError: If the value is neither, or is not valid base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or not is_binary(value):
        raise invalid_value(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise InvalidRequestError("Unable to base64 decode") from None


def _decode(decoder: json.JSONDecoder, text: str, start: int) -> Any:
    try:
        return decoder.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        expanded, ends = _expand_short_numbers(text)
        if expanded == text:
            raise _parse_error(error.msg, text, error.pos) from None
    try:
        return decoder.raw_decode(expanded, start)[0]
    except json.JSONDecodeError as error:
        # The position in what the client has sent.
        position = error.pos
        for end in reversed(ends):
            position -= len("inity") * (position > end)
        raise _parse_error(error.msg, text, position) from None


def _expand_short_numbers(text: str) -> tuple[str, list[int]]:
    """Replace `Inf` by `Infinity` and `-NaN` by ` NaN`, outside of strings.

    Returns:
        The new text, and where in it each `Inf` ends.
    """
    ends: list[int] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "Inf":
            ends.append(match.end() + len("inity") * len(ends))
            return "Infinity"
        return " " if match[0] == "-" else match[0]

    return _STRING_OR_SHORT_NUMBER.sub(replace, text), ends


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else RepeatedKeys(pairs)


def _is_too_big(text: str) -> bool:
    return text[0] != '"' and math.isinf(float(text))


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise OverflowError
    return value


def _parse_int(text: str) -> int:
    _parse_float(text)
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_parse_float, parse_int=_parse_int
)


def _parse_error(problem: str, text: str, position: int) -> InvalidRequestError:
    offset = len(text[:position].encode())
    return InvalidRequestError(f"JSON Parse error: {problem} at offset: {offset}")


def _check_surrogates(document: object) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "JSON Parse error: The surrogate pair in string is invalid"
        ) from None
    except RecursionError:
        raise InvalidRequestError(_TOO_DEEP) from None
