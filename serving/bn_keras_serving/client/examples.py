"""Turn what a user has, examples and pictures, into what a request holds.

Knows `tf.train.Example` and how image files begin; no model and no server.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import tensorflow as tf

from bn_keras_serving.client import inputs

_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # JPEG, PNG


def examples(values: Iterable[Any]) -> list[tf.train.Example]:
    """Return `tf.train.Example`s.

    Args:
        values: For each a dictionary of features (numbers, strings or lists of them),
            a serialized `tf.train.Example` or the message itself.

    Raises:
        ValueError: One of them is none of these.
    """
    if isinstance(values, Mapping | bytes | str | tf.train.Example):
        raise ValueError(
            f"`examples` must be a list. Received: one {type(values).__name__}; send "
            "[example]"
        )
    return [_example(index, value) for index, value in enumerate(values)]


def pictures(images: Any) -> tuple[str, Any]:
    """Return the signature for images, and what it takes.

    Args:
        images: Paths or contents of JPEG and PNG files; or uint8 arrays
            `(height, width, channels)`, a list of them or one array.

    Returns:
        `("predict_encoded", contents)` or `("predict_uint8", arrays)`.

    Raises:
        ValueError: A file that is neither JPEG nor PNG; files and arrays mixed.
        OSError: A file that cannot be read.
    """
    if isinstance(images, str | bytes | PurePath):
        raise ValueError(
            "`images` must be a list. Received: one file; send [image] for one image"
        )
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OSU":
        return "predict_uint8", images
    images = list(images)
    files = [isinstance(one, str | bytes | PurePath) for one in images]
    if not any(files):
        return "predict_uint8", images
    if not all(files):
        raise ValueError(
            "`images` must be files alone or arrays alone. Received: both; send them "
            "in two requests"
        )
    return "predict_encoded", [_content(*pair) for pair in enumerate(images)]


def _example(index, value):
    if isinstance(value, tf.train.Example):
        return value
    if isinstance(value, bytes):
        try:
            return tf.train.Example.FromString(value)
        except Exception:  # google.protobuf.message.DecodeError of several backends
            kind = "bytes that are none"
    elif isinstance(value, Mapping):
        return tf.train.Example(
            features=tf.train.Features(
                feature={
                    name: _feature(index, name, one) for name, one in value.items()
                }
            )
        )
    else:
        kind = type(value).__name__
    raise ValueError(
        f"`examples[{index}]` must be a dictionary of features or a serialized "
        f"tf.train.Example. Received: {kind}; build it with tf.train.Example"
    )


def _feature(index, name, value):
    values = inputs.unchecked(value).ravel()
    if values.dtype.kind in "biu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values.tolist()))
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values.tolist()))
    if all(isinstance(one, bytes | str) for one in values):
        strings = [one.encode() if isinstance(one, str) else one for one in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=strings))
    raise ValueError(
        f"`examples[{index}]` must have features of numbers or strings. Received: "
        f"{name} of type {values.dtype.name}; send int, float, bytes or str"
    )


def _content(index, image):
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    if not content.startswith(_PICTURES):
        what = "bytes" if isinstance(image, bytes) else image
        raise ValueError(
            f"`images[{index}]` must be a JPEG or PNG file. Received: {what}, "
            f"beginning with {content[:8]!r}; save it as PNG"
        )
    return content
