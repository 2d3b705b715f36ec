"""Where the crops of a picture lie that an evaluation averages over.

Knows sides and offsets, of numbers or of tensors; no pixels and no backend.
"""

from typing import Any, NamedTuple

# Crops of one picture. One is the middle, as a `Preprocessing` has it.
CROPS = (1, 10, 144)
# What the shorter side becomes for a model that takes `_SIDE` pixels.
_SIDE = 224
_SHORTER = {10: (256,), 144: (256, 288, 320, 352)}
# Halves of the room beside a square: left or top, centre, right or bottom.
_SQUARES = {10: (1,), 144: (0, 1, 2)}
_CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))


class Crop(NamedTuple):
    """A part of a resized picture.

    Args:
        shorter: the resized picture's shorter side, in pixels.
        resized: its `(height, width)`.
        box: `(top, left, height, width)` in it; a box larger than the model's input
            is resized to that.
        mirrored: whether left and right then change places.
    """

    shorter: int
    resized: tuple[Any, Any]
    box: tuple[Any, Any, int, int]
    mirrored: bool


def locate_crops(height, width, side, crops):
    """The 10 or 144 crops of one picture; the second half mirrors the first.

    144: the shorter side becomes 256, 288, 320, 352; of each the left, centre and right
    square (top, centre, bottom of a portrait); of each square the four corners, the
    centre, and the whole square. 10: the four corners and the centre of the centre
    square at 256. For another `side` than 224 all are scaled. Halves of a pixel, on
    which the papers are silent, go to the top left; a longer side is rounded.

    Args:
        height: of the picture, in pixels: an integer, or an integer tensor `()`.
        width: likewise.
        side: of the model's square input, in pixels.
        crops: 10 or 144.

    Returns:
        A list of `Crop`.

    Example:
    ```python
    from bn_keras.images.crops import locate_crops

    crops = locate_crops(375, 500, side=224, crops=144)
    assert len(crops) == 144
    assert crops[0].resized == (256, 341)
    assert crops[0].box == (0, 0, 224, 224)
    ```

    Reference:
        Szegedy et al. 2014, "Going Deeper with Convolutions", section 7 (144);
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 4.1 (10).
    """
    # The minimum, in words that tensors understand too.
    least = (height + width - abs(height - width)) // 2
    located = []
    for wanted in _SHORTER[crops]:
        shorter = round(side * wanted / _SIDE)
        resized = tuple(
            (2 * length * shorter + least) // (2 * least) for length in (height, width)
        )
        for halves in _SQUARES[crops]:
            top, left = ((length - shorter) * halves // 2 for length in resized)
            boxes = [
                (
                    top + (shorter - side) * down // 2,
                    left + (shorter - side) * right // 2,
                    side,
                    side,
                )
                for down, right in _CORNERS
            ]
            if crops == 144:
                boxes.append((top, left, shorter, shorter))
            located += [Crop(shorter, resized, box, False) for box in boxes]
    return located + [crop._replace(mirrored=True) for crop in located]
