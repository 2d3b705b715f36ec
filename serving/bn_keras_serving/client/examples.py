"""Turn examples and images as users have them into what a request holds."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from bn_keras_serving.client.inputs import as_array
from bn_keras_serving.common import messages

# What users call an image: a file's path or content, or an array of pixels.
ImageLike = str | Path | bytes | np.ndarray
# What users call an example: features by name, or a `tf.train.Example`, serialized or
# not. The message has no type here, since TensorFlow need not be installed.
ExampleLike = Mapping[str, Any] | bytes | Any

_MESSAGE = "tensorflow.Example"
_HEADERS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG


def to_examples(values: Iterable[ExampleLike]) -> list[Any]:
    """Return `tf.train.Example` messages.

    Args:
        values: For each example a dictionary of features (numbers, strings or lists of
            them), a serialized `tf.train.Example`, or the message itself.

    Raises:
        ValueError: A value is not one of these.
    """
    if isinstance(values, Mapping | bytes | str) or _is_example(values):
        raise ValueError(
            "`examples` must be a list. Received: a single "
            f"{type(values).__name__}. Send [example]."
        )
    return [_to_example(index, value) for index, value in enumerate(values)]


def to_image_inputs(images: Any) -> tuple[str, Any]:
    """Return the signature that accepts some images, and its input.

    Args:
        images: Paths or contents of JPEG and PNG files; or uint8 arrays
            `(height, width, channels)`, as a list or as one array.

    Returns:
        `("predict_encoded", contents)` or `("predict_uint8", arrays)`.

    Raises:
        ValueError: A file is neither JPEG nor PNG, or files and arrays are mixed.
        OSError: A file cannot be read.
    """
    if isinstance(images, str | bytes | PurePath):
        raise ValueError(
            "`images` must be a list. Received: a single file. Send [image]."
        )
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OSU":
        return "predict_uint8", images
    images = list(images)
    are_files = [isinstance(image, str | bytes | PurePath) for image in images]
    if not any(are_files):
        return "predict_uint8", images
    if not all(are_files):
        raise ValueError(
            "`images` must be all files or all arrays. Received: both. Send them in "
            "two requests."
        )
    return "predict_encoded", [_content(*pair) for pair in enumerate(images)]


def _is_example(value: Any) -> bool:
    # By name: TensorFlow's class of the message is another than ours.
    descriptor = getattr(value, "DESCRIPTOR", None)
    return getattr(descriptor, "full_name", None) == _MESSAGE


def _to_example(index: int, value: Any) -> Any:
    if _is_example(value):
        return messages.Example.FromString(value.SerializeToString())
    if isinstance(value, bytes):
        try:
            return messages.Example.FromString(value)
        except DecodeError:
            kind = "bytes of something else"
    elif isinstance(value, Mapping):
        example = messages.Example()
        for name, feature in value.items():
            _fill_feature(example.features.feature[name], feature, name, index)
        return example
    else:
        kind = type(value).__name__
    raise ValueError(
        f"`examples[{index}]` must be a dictionary of features or a serialized "
        f"tf.train.Example. Received: {kind}. Build it with tf.train.Example."
    )


def _fill_feature(feature: Any, value: Any, name: str, index: int) -> None:
    values = as_array(value).ravel()
    # An empty list, too, selects its kind: `extend` alone would leave it unset.
    if values.dtype.kind in "biu":
        feature.int64_list.SetInParent()
        feature.int64_list.value.extend(values.tolist())
    elif values.dtype.kind == "f":
        feature.float_list.SetInParent()
        feature.float_list.value.extend(values.tolist())
    elif all(isinstance(element, bytes | str) for element in values):
        feature.bytes_list.SetInParent()
        feature.bytes_list.value.extend(
            element.encode() if isinstance(element, str) else element
            for element in values
        )
    else:
        raise ValueError(
            f"`examples[{index}]` must have features of numbers or strings. Received: "
            f"{name} of type {values.dtype.name}. Send int, float, bytes or str."
        )


def _content(index: int, image: str | PurePath | bytes) -> bytes:
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    if not content.startswith(_HEADERS):
        source = "bytes" if isinstance(image, bytes) else image
        raise ValueError(
            f"`images[{index}]` must be a JPEG or PNG file. Received: {source}, "
            f"starting with {content[:8]!r}. Save it as PNG."
        )
    return content
