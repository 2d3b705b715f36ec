"""Positions of the crops over which the evaluation of an image is averaged."""

from typing import Any, NamedTuple

# The supported numbers of crops per image. One is the center crop of `Preprocessing`.
CROPS = (1, 10, 144)
# The shorter sides to which an image is resized for a model with inputs of `_SIDE`.
_SIDE = 224
_SHORTER_SIDES = {10: (256,), 144: (256, 288, 320, 352)}
# The positions of a square along the longer side, and of a crop inside the square, in
# halves of the free space: 0 is left or top, 1 the center, 2 right or bottom.
_SQUARES = {10: (1,), 144: (0, 1, 2)}
_CORNERS_AND_CENTER = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))


class Crop(NamedTuple):
    """A part of a resized image.

    Args:
        shorter_side: The shorter side of the resized image, in pixels.
        resized_size: The `(height, width)` of the resized image.
        box: `(top, left, height, width)` in the resized image. A box that is larger
            than the input of the model is resized to it.
        mirrored: Whether the part is then mirrored, left to right.
    """

    shorter_side: int
    resized_size: tuple[Any, Any]
    box: tuple[Any, Any, int, int]
    mirrored: bool


def locate_crops(height: Any, width: Any, side: int, crops: int) -> list[Crop]:
    """Return the positions of the 10 or 144 crops of an image.

    For 144 crops the shorter side is resized to 256, 288, 320 and 352 pixels. Of each
    resized image, the left, center and right square is taken (of a portrait: the top,
    center and bottom one). Of each square, the four corners, the center, and the whole
    square resized to the input are taken. For 10 crops, the four corners and the center
    of the center square at 256 pixels are taken. The second half of the crops mirrors
    the first.

    If `side` is not 224, all sizes are scaled. Where the papers do not specify it, half
    pixels are rounded to the top left, and the longer side to the nearest integer.

    Args:
        height: The height of the image in pixels: an integer or an integer tensor `()`.
        width: The width, likewise.
        side: The side of the model's square input, in pixels.
        crops: 10 or 144.

    Returns:
        A list of `Crop`.

    Example:
    ```python
    from bn_keras.images.crops import locate_crops

    crops = locate_crops(375, 500, side=224, crops=144)
    assert len(crops) == 144
    assert crops[0].resized_size == (256, 341)
    assert crops[0].box == (0, 0, 224, 224)
    ```

    Reference:
        Szegedy et al. 2014, "Going Deeper with Convolutions", section 7 (144);
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 4.1 (10).
    """
    # The minimum of both, in operations that integers and tensors have in common.
    min_side = (height + width - abs(height - width)) // 2
    located = []
    for unscaled_side in _SHORTER_SIDES[crops]:
        shorter_side = round(side * unscaled_side / _SIDE)
        # `length * shorter_side / min_side`, rounded, without floating-point errors.
        resized_size = tuple(
            (2 * length * shorter_side + min_side) // (2 * min_side)
            for length in (height, width)
        )
        for halves in _SQUARES[crops]:
            # Along the shorter side there is no free space, and the offset is 0.
            top, left = (
                (length - shorter_side) * halves // 2 for length in resized_size
            )
            free_space = shorter_side - side
            boxes = [
                (
                    top + free_space * down // 2,
                    left + free_space * right // 2,
                    side,
                    side,
                )
                for down, right in _CORNERS_AND_CENTER
            ]
            if crops == 144:
                boxes.append((top, left, shorter_side, shorter_side))
            located += [Crop(shorter_side, resized_size, box, False) for box in boxes]
    return located + [crop._replace(mirrored=True) for crop in located]
