"""Small image files for tests, written with PIL."""

import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 40


def gradient_image(height=HEIGHT, width=WIDTH):
    """Return a smooth uint8 image `(height, width, 3)` with four different corners.

    Red increases to the right, green to the bottom, and blue decreases to the right.
    """
    green, red = np.mgrid[0 : 255 : height * 1j, 0 : 255 : width * 1j]
    return np.stack([red, green, 255 - red], -1).round().astype(np.uint8)


def encode(pixels, file_format, mode=None, **options):
    """Return the bytes of an image file of an array or a PIL image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(file, file_format, **options)
    return file.getvalue()


def decode_with_pil(content, mode="RGB"):
    """Return the pixels that PIL reads from a file, `(height, width, channels)`."""
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content)).convert(mode)))


def write_image_folder(folder, classes, count, size=(8, 8), file_format="PNG"):
    """Write `count` random images to a folder for each class, and return their paths.

    The first pixel of each image has the number of the image as its value.
    """
    draw = np.random.default_rng(len(str(folder)))
    paths = []
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (*size, 3)).astype(np.uint8)
            pixels[0, 0] = len(paths) % 256
            path = folder / name / f"{number:03}.{file_format.lower()}"
            path.write_bytes(encode(pixels, file_format))
            paths.append(path)
    return paths
