"""Decoding, resizing and cropping of images in graphs, compared with PIL."""

import numpy as np
import pytest
import tensorflow as tf
from image_files import decode_with_pil, encode, gradient_image
from PIL import Image

from bn_keras.images.pixels import decode, preprocess
from bn_keras.images.preprocessing import Preprocessing

pytestmark = pytest.mark.fast

PIXELS = gradient_image()
IMAGE = Image.fromarray(PIXELS)
PIXELS_WITH_ALPHA = np.dstack([PIXELS, PIXELS[..., 0]])


def animated_gif():
    rotated = IMAGE.rotate(180).quantize(64)
    return encode(
        IMAGE.quantize(64), "GIF", save_all=True, append_images=[rotated, rotated]
    )


# Each file, and the largest difference from PIL in steps of 1/255. Both use the same
# libraries, except for the conversion of CMYK.
FILES = {
    "JPEG": (encode(PIXELS, "JPEG", quality=90), 0),
    "progressive JPEG": (encode(PIXELS, "JPEG", progressive=True), 0),
    "gray JPEG": (encode(PIXELS, "JPEG", mode="L"), 0),
    "CMYK JPEG": (encode(PIXELS, "JPEG", mode="CMYK", quality=95), 1),
    "PNG": (encode(PIXELS, "PNG"), 0),
    "gray PNG": (encode(PIXELS, "PNG", mode="L"), 0),
    "black and white PNG": (encode(PIXELS, "PNG", mode="1"), 0),
    "palette PNG": (encode(IMAGE.quantize(64), "PNG"), 0),
    "RGBA PNG": (encode(PIXELS_WITH_ALPHA, "PNG"), 0),
    "gray PNG with alpha": (encode(PIXELS, "PNG", mode="LA"), 0),
    "BMP": (encode(PIXELS, "BMP"), 0),
    "gray BMP": (encode(PIXELS, "BMP", mode="L"), 0),
    "RGBA BMP": (encode(PIXELS_WITH_ALPHA, "BMP"), 0),
    "GIF": (encode(IMAGE.quantize(256), "GIF"), 0),
    "animated GIF": (animated_gif(), 0),
    "WebP": (encode(PIXELS, "WEBP", quality=80), 0),
    "WebP with alpha": (
        encode(PIXELS_WITH_ALPHA, "WEBP", lossless=True, exact=True),
        0,
    ),
    "GIF of one pixel": (encode(PIXELS[:1, :1], "GIF"), 0),
}


@pytest.fixture(scope="module")
def decoders():
    """Return the decoder as a graph, by the number of channels."""
    return {
        channels: tf.function(
            lambda content, channels=channels: decode(content, channels),
            input_signature=[tf.TensorSpec((), tf.string)],
        )
        for channels in (1, 3)
    }


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_decoded_to_rgb_as_in_pil(decoders, name):
    content, steps = FILES[name]
    pixels = decoders[3](content).numpy()
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(
        pixels.astype(int), decode_with_pil(content), rtol=0, atol=steps
    )


@pytest.mark.parametrize("name", [name for name in FILES if "CMYK" not in name])
def test_every_kind_of_file_is_decoded_to_gray_as_in_pil(decoders, name):
    content, _ = FILES[name]
    # Both read the luminance of a color JPEG from the file. Other files are converted
    # with the same weights, but rounded differently.
    np.testing.assert_allclose(
        decoders[1](content).numpy().astype(int),
        decode_with_pil(content, "L"),
        rtol=0,
        atol=1,
    )


def test_images_of_16_bits_are_reduced_to_8(decoders):
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 54
    content = encode(values, "PNG")
    expected = np.repeat((values >> 8)[..., None], 3, -1)
    np.testing.assert_array_equal(decoders[3](content), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode(PIXELS, "JPEG")[:-100], "Invalid JPEG"),
        (encode(PIXELS, "PNG")[:-30], "Invalid PNG"),
        (encode(PIXELS, "BMP")[:-100], "Input size should match"),
        (encode(IMAGE.quantize(64), "GIF")[:-100], "GIF"),
        (encode(PIXELS, "JPEG", mode="CMYK")[:-100], "Invalid JPEG"),
        # TensorFlow would return wrong pixels without an error.
        (encode(IMAGE.quantize(64), "BMP"), "a BMP file with a palette of colors"),
        # TensorFlow's decoder would end the process.
        (
            encode(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(180)]),
            "an animated WebP file",
        ),
        (b"", "empty"),
        (b"BM", "Incomplete bmp"),
        (b"not an image", "Unknown image file format"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_and_unsupported_files_are_errors(decoders, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoders[3](content)


def test_a_very_narrow_image_is_refused_before_it_is_enlarged():
    content = encode(np.zeros((1, 600, 3), np.uint8), "PNG")
    preprocessing = Preprocessing((32, 32)).resolve((None, None, None, 3))
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess(tf.constant(content), preprocessing)


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_the_center_crop_is_that_of_pil(crop_fraction):
    pixels = gradient_image(50, 90)
    preprocessing = Preprocessing((28, 28), 1.0, crop_fraction=crop_fraction)
    preprocessing = preprocessing.resolve((None, None, None, 3))
    inputs = preprocess(tf.constant(pixels), preprocessing).numpy()
    side = preprocessing.resized_size[0]
    width = round(90 * side / 50)
    resized = Image.fromarray(pixels).resize((width, side), Image.Resampling.BILINEAR)
    top, left = (side - 28) // 2, (width - 28) // 2
    expected = np.asarray(resized)[top : top + 28, left : left + 28]
    # PIL rounds to integers, once for each axis.
    np.testing.assert_allclose(inputs, expected, atol=1.0)
