"""Small pictures in files for the tests of data sets, made with PIL."""

import io

import numpy as np
from PIL import Image

# Left to right red grows, top to bottom green does, and blue shrinks to the right.
HEIGHT, WIDTH = 30, 40


def slopes(height=HEIGHT, width=WIDTH):
    """A smooth picture, uint8 `(height, width, 3)`, in which no two corners agree."""
    green, red = np.mgrid[0 : 255 : height * 1j, 0 : 255 : width * 1j]
    return np.stack([red, green, 255 - red], -1).round().astype(np.uint8)


def encoded(pixels, file_format, mode=None, **options):
    """The bytes of a picture file."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(
        file, file_format, **options
    )
    return file.getvalue()


def opened(content, mode="RGB"):
    """What PIL reads, `(height, width, channels)`."""
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content)).convert(mode)))


def write_folder(folder, classes, count, size=(8, 8), file_format="PNG"):
    """`count` pictures of random pixels in a folder for each class; gives their paths.

    The first value of every picture is its number.
    """
    draw = np.random.default_rng(len(str(folder)))
    paths = []
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (*size, 3)).astype(np.uint8)
            pixels[0, 0] = len(paths) % 256
            path = folder / name / f"{number:03}.{file_format.lower()}"
            path.write_bytes(encoded(pixels, file_format))
            paths.append(path)
    return paths
