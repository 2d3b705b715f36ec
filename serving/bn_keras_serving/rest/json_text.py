"""Read a JSON document of any origin, and say what is wrong with it.

Knows no tensor, no model and no transport.
"""

import binascii
import json

from bn_keras_serving.common.errors import InvalidRequestError

# As much of a client's document as an error repeats (util/json_tensor.cc).
MAXIMUM_SHOWN = 256

_TOO_DEEP = "JSON Parse error: Lists or objects are nested too deep"
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_KINDS = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}


def parse(body: bytes) -> dict:
    """Read a request's document, an object.

    As TensorFlow Serving does, this takes `NaN`, `Infinity` and `-Infinity` for
    numbers and leaves unread what follows the object. Unlike it, nesting beyond
    Python's own bound, about a thousand, is refused wherever it stands.

    Args:
        body: JSON in UTF-8.

    Raises:
        InvalidRequestError: It is no JSON, or no object.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"JSON Parse error: Invalid UTF-8 at offset: {error.start}; send binary "
            'values as {"b64": ...}'
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
    except ValueError:  # Python's bound on the digits of an integer
        raise InvalidRequestError(
            "JSON Parse error: Number too big to be stored"
        ) from None
    if b"\\ud" in body or b"\\uD" in body:
        _check_surrogates(document)
    if type(document) is not dict:
        raise refused(document, "Is not object")
    return document


def refused(value: object, why: str) -> InvalidRequestError:
    """Return an error that repeats the beginning of a value, and tells why."""
    return InvalidRequestError(f"JSON Value: {shown(value)} {why}")


def shown(value: object) -> str:
    """Return the beginning of a value as JSON."""
    text = ""
    # The encoder yields part by part: a long or deep value is not written whole.
    for part in _ENCODER.iterencode(value):
        text += part[: MAXIMUM_SHOWN + 1]
        if len(text) > MAXIMUM_SHOWN:
            return text[:MAXIMUM_SHOWN] + "..."
    return text


def kind(value: object) -> str:
    """Return what JSON calls the type of a value: `Number`, `Array`, `True`, ..."""
    return str(value) if isinstance(value, bool) else _KINDS[type(value)]


def is_binary(value: object) -> bool:
    """Whether a value is `{"b64": "..."}`, the form of bytes that are no text."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


def to_bytes(value: object) -> bytes:
    """Return the bytes of a string or of a binary value.

    Raises:
        InvalidRequestError: Neither, or not in base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or not is_binary(value):
        raise refused(value, "not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise InvalidRequestError("Unable to base64 decode") from None


def _check_surrogates(document: dict) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "JSON Parse error: The surrogate pair in string is invalid"
        ) from None
    except RecursionError:
        raise InvalidRequestError(_TOO_DEEP) from None
