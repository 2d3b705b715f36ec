"""Random crops, mirroring and photometric distortion, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, gradient_image

from bn_keras.images.augmentation import augment, distort_photometrically
from bn_keras.images.preprocessing import Augmentation, Preprocessing

DRAWS = 600
AREA, ASPECT = (0.2, 0.8), (0.75, 4 / 3)


def coordinates(height, width):
    """Return an image whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)


def draw_inputs(content, augmentation, preprocessing, count=DRAWS):
    """Return many random inputs for the same image."""
    content = tf.constant(content)
    preprocessing = preprocessing.resolve((None, None, None, 3))
    inputs = tf.data.Dataset.range(count).map(
        lambda number: augment(
            content, preprocessing, augmentation, tf.stack([number * 0 + 5, number])
        )
    )
    return np.stack(list(inputs.as_numpy_iterator()))


@pytest.fixture(scope="module", params=["PNG", "JPEG"])
def crops(request):
    """Return the first and last columns, and the first and last rows, of many crops."""
    # At this quality, coordinates survive in a JPEG file except for rounding.
    options = {"quality": 100, "subsampling": 0} if request.param == "JPEG" else {}
    inputs = draw_inputs(
        encode(coordinates(180, 240), request.param, **options),
        Augmentation(AREA, ASPECT, mirror=True, photometric=0),
        Preprocessing((64, 64), scale=1.0),
    )
    # A pixel of the input covers height / 64 rows of the crop; the outer ones have
    # their centers half of that inside.
    left, right = inputs[:, :, 0, 0].mean(1), inputs[:, :, -1, 0].mean(1)
    top, bottom = inputs[:, 0, :, 1].mean(1), inputs[:, -1, :, 1].mean(1)
    return left, right, top, bottom


def test_the_area_and_aspect_ratio_of_crops_cover_their_ranges(crops):
    left, right, top, bottom = crops
    width = np.abs(right - left) * 64 / 63
    height = (bottom - top) * 64 / 63
    area, aspect = width * height / (180 * 240), width / height
    # The sides are 70 to 210 whole pixels; a JPEG file adds another rounding.
    assert area.min() > AREA[0] * 0.96
    assert area.max() < AREA[1] * 1.04
    assert area.min() < 0.25
    assert area.max() > 0.7
    assert aspect.min() > ASPECT[0] * 0.96
    assert aspect.max() < ASPECT[1] * 1.04
    assert aspect.min() < 0.8
    assert aspect.max() > 1.25
    # The mean of n uniform numbers is within 4 of its standard deviations. Only few
    # crops are limited by the image (the largest would be about 186 x 186).
    share = (area - AREA[0]) / (AREA[1] - AREA[0])
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(share)) + 0.02


def test_crops_can_be_anywhere_and_half_of_them_are_mirrored(crops):
    left, right, top, bottom = crops
    mirrored = (right < left).mean()
    assert abs(mirrored - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    for first, last, side in (
        (np.minimum(left, right), np.maximum(left, right), 240),
        (top, bottom, 180),
    ):
        assert first.min() < 4
        assert last.max() > side - 5
        center = (first + last) / 2
        spread = center.std() / np.sqrt(DRAWS)
        assert abs(center.mean() - (side - 1) / 2) < 4 * spread


def test_no_crop_is_mirrored_if_mirror_is_false():
    augmentation = Augmentation(AREA, ASPECT, mirror=False, photometric=0)
    inputs = draw_inputs(
        coordinates(60, 80), augmentation, Preprocessing((16, 16), scale=1.0), 50
    )
    assert (inputs[:, :, -1, 0] > inputs[:, :, 0, 0]).all()


def test_mirroring_does_not_change_which_crop_is_drawn():
    arguments = {"area": AREA, "aspect": ASPECT, "photometric": 0}
    plain, maybe_mirrored = (
        draw_inputs(
            gradient_image(60, 80),
            Augmentation(mirror=mirror, **arguments),
            Preprocessing((16, 16), scale=1.0),
            30,
        )
        for mirror in (False, True)
    )
    equal = np.isclose(plain, maybe_mirrored, atol=1e-3).all((1, 2, 3))
    mirrored = np.isclose(plain[:, :, ::-1], maybe_mirrored, atol=1e-3).all((1, 2, 3))
    assert (equal ^ mirrored).all()
    assert 5 < mirrored.sum() < 25


def test_a_crop_of_the_whole_area_is_the_image_itself():
    augmentation = Augmentation((1.0, 1.0), (1.0, 1.0), mirror=False, photometric=0)
    preprocessing = Preprocessing((32, 32), scale=2.0, offset=-1.0)
    pixels = gradient_image(32, 32)
    inputs = draw_inputs(pixels, augmentation, preprocessing, 3)
    np.testing.assert_allclose(inputs, [pixels * 2.0 - 1] * 3, atol=1e-3)


def distort_oracle(pixels, factors, order, white):
    """Apply Howard's changes in float64."""
    gray_weights = np.array([0.299, 0.587, 0.114])
    pixels = pixels.astype(np.float64)
    for change in order:
        gray = pixels @ gray_weights if pixels.shape[-1] == 3 else pixels[..., 0]
        other = (
            np.zeros_like(pixels),
            np.full_like(pixels, gray.mean()),
            np.repeat(gray[..., None], pixels.shape[-1], -1),
        )[change]
        pixels = factors[change] * pixels + (1 - factors[change]) * other
        pixels = pixels.clip(0, white)
    return pixels


@pytest.mark.parametrize(("channels", "white"), [(3, 255.0), (3, 1.0), (1, 1.0)])
def test_photometric_distortion_follows_its_formula_in_every_order(channels, white):
    pixels = gradient_image(9, 7)[..., :channels] * np.float32(white / 255)
    distort = tf.function(
        lambda pixels, seed: distort_photometrically(pixels, 0.8, white, seed)
    )
    orders = set()
    for number in range(40):
        seed = tf.constant([7, number], tf.int64)
        order_seed, factor_seed = tf.unstack(tf.random.split(seed))
        factors = tf.random.stateless_uniform((3,), factor_seed, 0.6, 1.4).numpy()
        order = tf.random.experimental.stateless_shuffle(tf.range(3), order_seed)
        orders.add(tuple(order.numpy().tolist()))
        np.testing.assert_allclose(
            distort(pixels, seed),
            distort_oracle(pixels, factors, order.numpy(), white),
            atol=3e-6 * white,
        )
    assert len(orders) == 6


def test_the_strength_bounds_the_change_of_brightness():
    # Contrast and color do not change an image of a single gray value.
    pixels = np.full((8, 8, 3), 100, np.uint8)
    for strength in (0.0, 0.5, 1.0):
        inputs = draw_inputs(
            pixels,
            Augmentation(photometric=strength),
            Preprocessing((4, 4), scale=1.0),
            300,
        )
        factors = inputs[:, 0, 0, 0] / 100
        spread = strength / np.sqrt(12 * 300)
        assert abs(factors.mean() - 1) <= 4 * spread + 1e-6
        assert factors.min() >= 1 - strength / 2 - 1e-6
        assert factors.max() <= 1 + strength / 2 + 1e-6
        assert factors.max() - factors.min() >= 0.95 * strength


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("area", (0.0, 0.5)),
        ("area", (0.5, 1.5)),
        ("aspect", (2.0, 1.0)),
        ("photometric", 3.0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` must be .*Received: {field}="):
        Augmentation(**{field: value})
