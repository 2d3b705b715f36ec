"""From the body of a request to what a model takes."""

import gzip
import io
import zlib
from collections.abc import Mapping

from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.common.messages import DEFAULT_SIGNATURE
from bn_keras_serving.rest import json_examples, json_numbers, json_tensors, json_text
from bn_keras_serving.rest.json_tensors import DecodedInputs, InputTypes

# A compressed body of a few bytes can expand to any size.
MAXIMUM_DECOMPRESSED = 2**26


def decode_predict(
    body: bytes, encoding: str, maximum_bytes: int, types: Mapping[str, InputTypes]
) -> tuple[str, DecodedInputs]:
    """Return the signature and the inputs of a request for Predict.

    Args:
        body: The body as received.
        encoding: Its `Content-Encoding`.
        maximum_bytes: Maximum size of the decompressed body.
        types: Signature name to the types of its inputs.

    Returns:
        Name of the signature, "" if the document has none; and the inputs.

    Raises:
        InvalidRequestError: If the body is invalid or does not fit the signature.
        UnsupportedError: If an input's type has no form in JSON.
    """
    body = decompress(body, encoding, maximum_bytes)
    decoded = json_numbers.decode(body, types)
    if decoded is not None:
        return decoded
    document = json_text.parse(body)
    name = json_tensors.signature_name(document)
    signature = name or DEFAULT_SIGNATURE
    if signature not in types:
        raise InvalidRequestError(
            f'Serving signature name: "{signature}" not found in signature def'
        )
    if not types[signature]:
        raise InvalidRequestError(f"Failed to get input map for signature: {signature}")
    return name, json_tensors.decode_inputs(document, types[signature])


def decode_examples(
    body: bytes, encoding: str, maximum_bytes: int
) -> tuple[str, bytes]:
    """Return the signature and the examples of a request for Classify or Regress.

    The arguments are those of `decode_predict`.

    Returns:
        Name of the signature, "" if the document has none; and a serialized
        `tensorflow.serving.Input`.

    Raises:
        InvalidRequestError: If the body is invalid.
    """
    document = json_text.parse(decompress(body, encoding, maximum_bytes))
    name = json_tensors.signature_name(document)
    return name, json_examples.decode_examples(document)


def decompress(body: bytes, encoding: str, maximum_bytes: int) -> bytes:
    """Return a body without its `Content-Encoding`.

    Args:
        body: The body as received. Several gzip members are joined.
        encoding: `identity` or `gzip`.
        maximum_bytes: Maximum size of the decompressed body; `MAXIMUM_DECOMPRESSED`
            applies as well.

    Raises:
        InvalidRequestError: If the encoding is not supported, or the body is damaged or
            too long.
    """
    if encoding.lower() == "identity":
        return body
    if encoding.lower() != "gzip":
        raise InvalidRequestError(
            "The Content-Encoding of a body must be gzip or identity. Received: "
            f"{encoding[:20]!r}. Send the body uncompressed."
        )
    limit = min(maximum_bytes, MAXIMUM_DECOMPRESSED)
    try:
        decompressed = gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1)
    except (OSError, EOFError, zlib.error):
        raise InvalidRequestError(
            "A body with Content-Encoding: gzip must be in gzip format. Received: "
            "other bytes. Send the body uncompressed."
        ) from None
    if len(decompressed) > limit:
        raise InvalidRequestError(
            f"A compressed body must contain at most {limit} bytes. Received: more. "
            "Send the body uncompressed."
        )
    return decompressed
