"""How the pixels of a picture become the numbers that a model takes.

Knows sizes and factors; no pixels and no backend.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

RESIZES = ("bilinear", "nearest", "bicubic", "lanczos3")


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture to one input of a model.

    The picture is resized, its aspect ratio kept, until it just covers
    `size / crop_fraction` pixels; the middle of `size` is cut out; a value from 0 to
    255 becomes `value * scale + offset`.

    Args:
        size: `(height, width)` in pixels; None for the model's own.
        scale: factor, one number or one for each channel.
        offset: added after it, one number or one for each channel.
        resize: `"bilinear"`, `"nearest"`, `"bicubic"` or `"lanczos3"`; a smaller
            picture is made with antialiasing.
        crop_fraction: share of the resized picture's shorter side that is kept, above
            0, at most 1; 0.875 cuts 224 pixels out of 256.
        channels: 1 (grey) or 3 (red, green, blue); None for the model's own.

    Raises:
        ValueError: for a value that is none of these.

    Example:
    ```python
    from bn_keras.images.preprocessing import Preprocessing

    inception = Preprocessing(scale=1 / 127.5, offset=-1.0, crop_fraction=0.875)
    assert inception.resolve((None, 224, 224, 3)).resized_size == (256, 256)
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.2 (single crop).
    """

    size: tuple[int, int] | None = None
    scale: float | tuple[float, ...] = 1 / 255
    offset: float | tuple[float, ...] = 0.0
    resize: str = "bilinear"
    crop_fraction: float = 1.0
    channels: int | None = None

    def __post_init__(self):
        """Check every field."""
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
            if len(self.size) != 2 or not all(
                isinstance(side, int) and side > 0 for side in self.size
            ):
                raise ValueError(
                    "`size` must be None or (height, width), positive integers. "
                    f"Received: size={self.size!r}"
                )
        if self.resize not in RESIZES:
            raise ValueError(
                f"`resize` must be one of {', '.join(RESIZES)}. "
                f"Received: resize={self.resize!r}"
            )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(
                "`crop_fraction` must be above 0 and at most 1. "
                f"Received: crop_fraction={self.crop_fraction!r}"
            )
        if self.channels not in (None, 1, 3):
            raise ValueError(
                f"`channels` must be None, 1 or 3. Received: channels={self.channels!r}"
            )
        for name in ("scale", "offset"):
            value = getattr(self, name)
            numbers = _finite_numbers(value)
            if numbers is None:
                raise ValueError(
                    f"`{name}` must be one finite number, or one for each channel. "
                    f"Received: {name}={value!r}"
                )
            object.__setattr__(self, name, numbers)
            if (
                isinstance(numbers, tuple)
                and self.channels is not None
                and len(numbers) != self.channels
            ):
                raise ValueError(
                    f"`{name}` must be one number or {self.channels}, one for each "
                    f"channel. Received: {name}={value!r}"
                )

    @property
    def resized_size(self):
        """Pixels that the resized picture covers, `(height, width)`, or None."""
        if self.size is None:
            return None
        return tuple(round(side / self.crop_fraction) for side in self.size)

    def resolve(self, shape):
        """The same preprocessing with the size and channels of a model's input.

        Args:
            shape: `(batch, height, width, channels)`, None for unknown.

        Returns:
            A `Preprocessing`; its size is still None where a side is unknown and no
            size was given.

        Raises:
            ValueError: where the model takes no images, or other ones.
        """
        if not is_image_shape(shape):
            raise ValueError(
                "`preprocessing` needs a model whose only input is (batch, height, "
                f"width, 1 or 3). Received: an input of shape {tuple(shape)}"
            )
        sides, channels = tuple(shape[1:3]), shape[3]
        size = self.size
        if size is None and None not in sides:
            size = sides
        if self.channels not in (None, channels) or (
            size is not None
            and any(
                side not in (None, given)
                for side, given in zip(sides, size, strict=True)
            )
        ):
            raise ValueError(
                "`preprocessing` must have the size and channels of the model's input, "
                f"{tuple(shape)}: leave them out. Received: size={self.size}, "
                f"channels={self.channels}"
            )
        return replace(self, size=size, channels=channels)


def _finite_numbers(value: Any) -> float | tuple[float, ...] | None:
    """Return one number or a sequence of them as plain floats, None if it is neither.

    NumPy would say the same in one line, but the help of the command line lists the
    recipes, which hold preprocessing, and must not wait for NumPy.
    """
    try:
        if isinstance(value, Iterable) and getattr(value, "ndim", 1):
            numbers = tuple(map(_finite_number, value))
            return numbers or None
        return _finite_number(value)
    except (TypeError, ValueError):
        return None


def _finite_number(value: Any) -> float:
    if isinstance(value, str) or getattr(value, "ndim", 0) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


@dataclass(frozen=True)
class Augmentation:
    """What chance does to a training picture.

    A part of random area and aspect ratio is cut out, resized to the model's size,
    mirrored half of the time, and its colours are changed.

    Args:
        area: least and largest share of the picture's area, above 0 to 1.
        aspect: least and largest width / height of the part.
        mirror: whether left and right change places half of the time.
        photometric: strength of the changes of brightness, contrast and colour, 0 to
            2; 1 multiplies each by 0.5 to 1.5.

    Raises:
        ValueError: for a value that is none of these.

    Example:
    ```python
    from bn_keras.images.preprocessing import Augmentation

    assert Augmentation(area=(0.5, 1.0), photometric=0.5).mirror
    ```

    Reference:
        Ioffe & Szegedy 2015, section 4.2.1; Szegedy et al. 2014; Howard 2013.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: bool = True
    photometric: float = 1.0

    def __post_init__(self):
        """Check every field."""
        for name, most, bounds in (
            ("area", 1, "above 0 and at most 1"),
            ("aspect", math.inf, "above 0"),
        ):
            value = tuple(getattr(self, name))
            if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
                raise ValueError(
                    f"`{name}` must be (least, largest), {bounds}. "
                    f"Received: {name}={value!r}"
                )
            object.__setattr__(self, name, value)
        if not 0 <= self.photometric <= 2:
            raise ValueError(
                "`photometric` must be from 0 to 2. "
                f"Received: photometric={self.photometric!r}"
            )


def is_image_shape(shape):
    """Whether `(batch, height, width, channels)` is of grey or colour images."""
    return len(shape) == 4 and shape[-1] in (1, 3)
