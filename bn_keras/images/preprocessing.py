"""The preprocessing and augmentation of images, as plain data."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

RESIZES = ("bilinear", "nearest", "bicubic", "lanczos3")


@dataclass(frozen=True)
class Preprocessing:
    """The way from a decoded image to an input of a model.

    The image is resized, with its aspect ratio, until it just covers
    `size / crop_fraction` pixels. Its center of `size` pixels is cropped. A value from
    0 to 255 becomes `value * scale + offset`.

    Args:
        size: The size of the input, `(height, width)` in pixels. None for the model's.
        scale: The factor, one number or one for each channel.
        offset: The number that is then added: one, or one for each channel.
        resize: The method, `"bilinear"`, `"nearest"`, `"bicubic"` or `"lanczos3"`.
            Images are reduced with antialiasing.
        crop_fraction: The fraction of the resized image's shorter side that is kept,
            above 0 and at most 1. 0.875 crops 224 of 256 pixels.
        channels: 1 (gray) or 3 (red, green, blue). None for the model's.

    Raises:
        ValueError: If an argument is not one of these values.

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
    scale: float | Sequence[float] = 1 / 255
    offset: float | Sequence[float] = 0.0
    resize: str = "bilinear"
    crop_fraction: float = 1.0
    channels: int | None = None

    def __post_init__(self) -> None:
        """Check and standardize the fields."""
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
            if len(self.size) != 2 or not all(
                isinstance(side, int) and side > 0 for side in self.size
            ):
                raise ValueError(
                    "`size` must be None or (height, width) in positive integers. "
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
                    f"`{name}` must be a finite number, or one for each channel. "
                    f"Received: {name}={value!r}"
                )
            object.__setattr__(self, name, numbers)
            if (
                isinstance(numbers, tuple)
                and self.channels is not None
                and len(numbers) != self.channels
            ):
                raise ValueError(
                    f"`{name}` must be a number, or {self.channels} numbers, one for "
                    f"each channel. Received: {name}={value!r}"
                )

    @property
    def resized_size(self) -> tuple[int, int] | None:
        """The `(height, width)` that the resized image covers, or None without size."""
        if self.size is None:
            return None
        height, width = (round(side / self.crop_fraction) for side in self.size)
        return height, width

    def resolve(self, shape: Sequence[int | None]) -> "Preprocessing":
        """Return the same preprocessing with the size and channels of a model's input.

        Args:
            shape: The input shape `(batch, height, width, channels)`, with None for
                unknown sizes.

        Returns:
            A `Preprocessing`. Its size is still None if the model's height or width is
            unknown and this preprocessing has no size.

        Raises:
            ValueError: If the model does not take images, or takes images of another
                size or number of channels.
        """
        if not is_image_shape(shape):
            raise ValueError(
                "A model with `preprocessing` must have a single input of shape "
                "(batch, height, width, 1 or 3). Received: an input of shape "
                f"{tuple(shape)}"
            )
        sides, channels = tuple(shape[1:3]), shape[3]
        size = self.size
        if size is None and None not in sides:
            size = sides
        if self.channels not in (None, channels) or (
            size is not None
            and any(
                model_side not in (None, side)
                for model_side, side in zip(sides, size, strict=True)
            )
        ):
            raise ValueError(
                "`preprocessing` must have the size and channels of the model's input, "
                f"{tuple(shape)}. Received: size={self.size}, channels={self.channels}."
                " Leave them out to use the model's."
            )
        return replace(self, size=size, channels=channels)


def _finite_numbers(value: Any) -> float | tuple[float, ...] | None:
    """Return a number, or a sequence of numbers, as floats; None for anything else."""
    # NumPy would do this in one line. But the command line lists the recipes, which
    # contain preprocessing, and its help must not wait for the import of NumPy.
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
    """The random changes of a training image.

    A part of random area and aspect ratio is cropped and resized to the model's size.
    Half of the images are mirrored. Brightness, contrast and color are changed.

    Args:
        area: The smallest and largest fraction of the image's area, from above 0 to 1.
        aspect: The smallest and largest aspect ratio (width / height) of the part.
        mirror: Whether half of the images are mirrored, left to right.
        photometric: The strength of the photometric distortion, from 0 to 2. With 1
            brightness, contrast and color are multiplied by 0.5 to 1.5.

    Raises:
        ValueError: If an argument is not one of these values.

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

    def __post_init__(self) -> None:
        """Check and standardize the fields."""
        for name, limit, bounds in (
            ("area", 1, "above 0 and at most 1"),
            ("aspect", math.inf, "above 0"),
        ):
            value = tuple(getattr(self, name))
            if len(value) != 2 or not 0 < value[0] <= value[1] <= limit:
                raise ValueError(
                    f"`{name}` must be (smallest, largest), both {bounds}. "
                    f"Received: {name}={value!r}"
                )
            object.__setattr__(self, name, value)
        if not 0 <= self.photometric <= 2:
            raise ValueError(
                "`photometric` must be from 0 to 2. "
                f"Received: photometric={self.photometric!r}"
            )


def is_image_shape(shape: Sequence[int | None]) -> bool:
    """Return whether `(batch, height, width, channels)` is that of images."""
    return len(shape) == 4 and shape[-1] in (1, 3)
