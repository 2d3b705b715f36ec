"""Pictures in graphs against PIL and NumPy: decoding, crops, mirrors, colours."""

import numpy as np
import pytest
import tensorflow as tf
from image_files import decode_with_pil, encode, gradient_image
from PIL import Image

from bn_keras.images import augmentation, pixels
from bn_keras.images.preprocessing import Augmentation, Preprocessing

PIXELS = gradient_image()
PICTURE = Image.fromarray(PIXELS)
ALPHA = np.dstack([PIXELS, PIXELS[..., 0]])
DRAWS = 600


def moving_gif():
    turned = PICTURE.rotate(180).quantize(64)
    return encode(
        PICTURE.quantize(64), "GIF", save_all=True, append_images=[turned, turned]
    )


# Name to the file and the largest difference from PIL in steps of 1/255. Both use the
# same libraries, but for CMYK and for grey weights; neither is a matter of taste.
FILES = {
    "JPEG": (encode(PIXELS, "JPEG", quality=90), 0),
    "progressive JPEG": (encode(PIXELS, "JPEG", progressive=True), 0),
    "grey JPEG": (encode(PIXELS, "JPEG", mode="L"), 0),
    "CMYK JPEG": (encode(PIXELS, "JPEG", mode="CMYK", quality=95), 1),
    "PNG": (encode(PIXELS, "PNG"), 0),
    "grey PNG": (encode(PIXELS, "PNG", mode="L"), 0),
    "black and white PNG": (encode(PIXELS, "PNG", mode="1"), 0),
    "palette PNG": (encode(PICTURE.quantize(64), "PNG"), 0),
    "RGBA PNG": (encode(ALPHA, "PNG"), 0),
    "grey PNG with alpha": (encode(PIXELS, "PNG", mode="LA"), 0),
    "BMP": (encode(PIXELS, "BMP"), 0),
    "grey BMP": (encode(PIXELS, "BMP", mode="L"), 0),
    "RGBA BMP": (encode(ALPHA, "BMP"), 0),
    "GIF": (encode(PICTURE.quantize(256), "GIF"), 0),
    "moving GIF": (moving_gif(), 0),
    "GIF of one pixel": (encode(PIXELS[:1, :1], "GIF"), 0),
}


@pytest.fixture(scope="module")
def decode():
    return {
        channels: tf.function(
            lambda content, channels=channels: pixels.decode(content, channels),
            input_signature=[tf.TensorSpec((), tf.string)],
        )
        for channels in (1, 3)
    }


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_becomes_colour_as_in_pil(decode, name):
    content, steps = FILES[name]
    actual = decode[3](content).numpy()
    assert actual.dtype == np.uint8
    np.testing.assert_allclose(
        actual.astype(int), decode_with_pil(content), rtol=0, atol=steps
    )


@pytest.mark.parametrize("name", [name for name in FILES if "CMYK" not in name])
def test_every_kind_of_file_becomes_grey_as_in_pil(decode, name):
    content, _ = FILES[name]
    # Of a colour JPEG both take the file's own brightness; else they round apart.
    np.testing.assert_allclose(
        decode[1](content).numpy().astype(int),
        decode_with_pil(content, "L"),
        rtol=0,
        atol=1,
    )


def test_sixteen_bits_are_cut_to_eight(decode):
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 54
    content = encode(values, "PNG")
    expected = np.repeat((values >> 8)[..., None], 3, -1)
    np.testing.assert_array_equal(decode[3](content), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode(PIXELS, "JPEG")[:-100], "Invalid JPEG"),
        (encode(PIXELS, "PNG")[:-30], "Invalid PNG"),
        (encode(PIXELS, "BMP")[:-100], "Input size should match"),
        (encode(PICTURE.quantize(64), "GIF")[:-100], "GIF"),
        (encode(PIXELS, "JPEG", mode="CMYK")[:-100], "Invalid JPEG"),
        # A wrong picture without a word would be worse.
        (encode(PICTURE.quantize(64), "BMP"), "a palette of colours"),
        (b"", "empty"),
        (b"BM", "Incomplete bmp"),
        (b"no picture at all", "Unknown image file format"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_and_no_pictures_are_errors(decode, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode[3](content)


def coordinates(height, width):
    """Red is the column, green the row, so that pixels say where they come from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)


def draw_inputs(content, distortion, preprocessing, count=DRAWS):
    """Many random inputs made of one picture."""
    content = tf.constant(content)
    fitted = preprocessing.resolve((None, None, None, 3))
    return np.stack(
        list(
            tf.data.Dataset.range(count)
            .map(
                lambda number: augmentation.augment(
                    content, fitted, distortion, tf.stack([number * 0 + 5, number])
                )
            )
            .as_numpy_iterator()
        )
    )


AREA, ASPECT = (0.2, 0.8), (0.75, 4 / 3)


@pytest.fixture(scope="module", params=["PNG", "JPEG"])
def crops(request):
    """Crops of a picture of coordinates: first row, last row, first and last column."""
    pixels = coordinates(180, 240)
    # Whole pixels of one value survive a JPEG file of no loss but rounding.
    options = {"quality": 100, "subsampling": 0} if request.param == "JPEG" else {}
    inputs = draw_inputs(
        encode(pixels, request.param, **options),
        Augmentation(AREA, ASPECT, mirror=True, photometric=0),
        Preprocessing((64, 64), scale=1.0),
    )
    # A pixel of the crop is height / 64 of its own, the outer ones half inside.
    left, right = inputs[:, :, 0, 0].mean(1), inputs[:, :, -1, 0].mean(1)
    top, bottom = inputs[:, 0, :, 1].mean(1), inputs[:, -1, :, 1].mean(1)
    return left, right, top, bottom


def test_the_area_and_aspect_of_crops_fill_the_ranges_asked_for(crops):
    left, right, top, bottom = crops
    width = np.abs(right - left) * 64 / 63
    height = (bottom - top) * 64 / 63
    area, aspect = width * height / (180 * 240), width / height
    # The sides are whole pixels of 70 to 210; a JPEG file rounds once more.
    assert area.min() > AREA[0] * 0.96
    assert area.max() < AREA[1] * 1.04
    assert area.min() < 0.25
    assert area.max() > 0.7
    assert aspect.min() > ASPECT[0] * 0.96
    assert aspect.max() < ASPECT[1] * 1.04
    assert aspect.min() < 0.8
    assert aspect.max() > 1.25
    # Drawn evenly: the mean of n even numbers is within 4 of its own deviations, where
    # no crop is cut by the picture's edge (the largest would be 186 x 186 or so).
    share = (area - AREA[0]) / (AREA[1] - AREA[0])
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(share)) + 0.02


def test_crops_lie_anywhere_and_half_of_them_are_mirrored(crops):
    left, right, top, bottom = crops
    mirrored = (right < left).mean()
    assert abs(mirrored - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    for first, last, side in (
        (np.minimum(left, right), np.maximum(left, right), 240),
        (top, bottom, 180),
    ):
        assert first.min() < 4
        assert last.max() > side - 5
        centre = (first + last) / 2
        spread = centre.std() / np.sqrt(DRAWS)
        assert abs(centre.mean() - (side - 1) / 2) < 4 * spread


def test_without_mirrors_none_is_mirrored():
    distortion = Augmentation(AREA, ASPECT, mirror=False, photometric=0)
    inputs = draw_inputs(
        coordinates(60, 80), distortion, Preprocessing((16, 16), scale=1.0), 50
    )
    assert (inputs[:, :, -1, 0] > inputs[:, :, 0, 0]).all()


def test_a_mirrored_crop_is_that_crop_mirrored():
    settings = {"area": AREA, "aspect": ASPECT, "photometric": 0}
    preprocessing = Preprocessing((16, 16), scale=1.0)
    pixels = gradient_image(60, 80)
    plain = draw_inputs(
        pixels, Augmentation(mirror=False, **settings), preprocessing, 30
    )
    mirrored = draw_inputs(
        pixels, Augmentation(mirror=True, **settings), preprocessing, 30
    )
    same = np.isclose(plain, mirrored, atol=1e-3).all((1, 2, 3))
    turned = np.isclose(plain[:, :, ::-1], mirrored, atol=1e-3).all((1, 2, 3))
    assert (same ^ turned).all()
    assert 5 < turned.sum() < 25


def test_the_whole_picture_is_a_crop_too():
    distortion = Augmentation((1.0, 1.0), (1.0, 1.0), mirror=False, photometric=0)
    preprocessing = Preprocessing((32, 32), scale=2.0, offset=-1.0)
    pixels = gradient_image(32, 32)
    inputs = draw_inputs(pixels, distortion, preprocessing, 3)
    np.testing.assert_allclose(inputs, [pixels * 2.0 - 1] * 3, atol=1e-3)


def mixtures(pixels, factors, order, largest):
    """Howard's changes in float64."""
    grey = np.array([0.299, 0.587, 0.114])
    pixels = pixels.astype(np.float64)
    for turn in order:
        brightness = pixels @ grey if pixels.shape[-1] == 3 else pixels[..., 0]
        other = (
            np.zeros_like(pixels),
            np.full_like(pixels, brightness.mean()),
            np.repeat(brightness[..., None], pixels.shape[-1], -1),
        )[turn]
        pixels = factors[turn] * pixels + (1 - factors[turn]) * other
        pixels = pixels.clip(0, largest)
    return pixels


@pytest.mark.parametrize(("channels", "largest"), [(3, 255.0), (3, 1.0), (1, 1.0)])
def test_colours_are_the_mixtures_of_the_formula_in_every_order(channels, largest):
    pixels = gradient_image(9, 7)[..., :channels] * np.float32(largest / 255)
    seen = set()
    for number in range(40):
        seed = tf.constant([7, number], tf.int64)
        order_seed, factor_seed = tf.unstack(tf.random.split(seed))
        factors = tf.random.stateless_uniform((3,), factor_seed, 0.6, 1.4).numpy()
        order = tf.random.experimental.stateless_shuffle(tf.range(3), order_seed)
        seen.add(tuple(order.numpy().tolist()))
        np.testing.assert_allclose(
            augmentation.distort_colors(tf.constant(pixels), 0.8, largest, seed),
            mixtures(pixels, factors, order.numpy(), largest),
            atol=3e-6 * largest,
        )
    assert len(seen) == 6


def test_the_strength_of_the_colours_bounds_what_brightness_does():
    # Of one grey value neither contrast nor colour changes anything.
    pixels = np.full((8, 8, 3), 100, np.uint8)
    for strength in (0.0, 0.5, 1.0):
        distortion = Augmentation(photometric=strength)
        inputs = draw_inputs(pixels, distortion, Preprocessing((4, 4), scale=1.0), 300)
        factors = inputs[:, 0, 0, 0] / 100
        spread = strength / np.sqrt(12 * 300)
        assert abs(factors.mean() - 1) <= 4 * spread + 1e-6
        assert factors.min() >= 1 - strength / 2 - 1e-6
        assert factors.max() <= 1 + strength / 2 + 1e-6
        assert factors.max() - factors.min() >= 0.95 * strength


def test_a_picture_far_too_long_is_not_blown_up():
    content = encode(np.zeros((1, 600, 3), np.uint8), "PNG")
    preprocessing = Preprocessing((32, 32)).resolve((None, None, None, 3))
    with pytest.raises(tf.errors.InvalidArgumentError):
        pixels.preprocess(tf.constant(content), preprocessing)


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_the_middle_is_what_pil_cuts_out(crop_fraction):
    pixels = gradient_image(50, 90)
    preprocessing = Preprocessing((28, 28), 1.0, crop_fraction=crop_fraction)
    fitted = preprocessing.resolve((None, None, None, 3))
    actual = pixels.preprocess(tf.constant(pixels), fitted).numpy()
    side = fitted.resized_size[0]
    width = round(90 * side / 50)
    resized = Image.fromarray(pixels).resize((width, side), Image.Resampling.BILINEAR)
    top, left = (side - 28) // 2, (width - 28) // 2
    expected = np.asarray(resized)[top : top + 28, left : left + 28]
    # PIL rounds to whole numbers, once for each axis.
    np.testing.assert_allclose(actual, expected, atol=1.0)
