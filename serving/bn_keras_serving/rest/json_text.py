"""Parsing of JSON documents from any client, and descriptions of what is invalid."""

import binascii
import json
from typing import Any

from bn_keras_serving.common.errors import InvalidRequestError

# Characters of a client's document that an error quotes (util/json_tensor.cc).
MAXIMUM_EXCERPT = 256

_TOO_DEEP = "JSON Parse error: Lists or objects are nested too deep"
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_TYPE_NAMES = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}


def parse(body: bytes) -> dict[str, Any]:
    """Parse the body of a request, which must be an object.

    As in TensorFlow Serving, `NaN`, `Infinity` and `-Infinity` are numbers, and
    anything after the object is ignored. Unlike there, nesting beyond Python's own
    limit, about a thousand, is an error wherever it occurs.

    Args:
        body: JSON in UTF-8.

    Raises:
        InvalidRequestError: If the body is not valid JSON or not an object.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: Invalid UTF-8 at offset: {error.start}. Send binary "
            'values as {"b64": ...}.'
        ) from None
    start = len(text) - len(text.lstrip(" \t\n\r"))
    if start == len(text):
        raise InvalidRequestError("JSON Parse error: The document is empty")
    try:
        document, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: {error.msg} at offset: {error.pos}"
        ) from None
    except RecursionError:
        raise InvalidRequestError(_TOO_DEEP) from None
    except ValueError:  # Python's limit on the digits of an integer
        raise InvalidRequestError(
            "JSON Parse error: Number too big to be stored"
        ) from None
    # Checking for unpaired surrogates takes a while, and few documents contain any.
    if b"\\ud" in body or b"\\uD" in body:
        _check_surrogates(document)
    if type(document) is not dict:
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
    return str(value) if isinstance(value, bool) else _TYPE_NAMES[type(value)]


def is_binary(value: object) -> bool:
    """Return whether a value is `{"b64": "..."}`, the form of arbitrary bytes."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


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


def _check_surrogates(document: object) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "JSON Parse error: The surrogate pair in string is invalid"
        ) from None
    except RecursionError:
        raise InvalidRequestError(_TOO_DEEP) from None
