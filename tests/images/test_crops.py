"""The positions of 10 and 144 crops, and their pixels."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bn_keras.evaluation.crop_batches import extract_crops
from bn_keras.images.crops import locate_crops
from bn_keras.images.pixels import resize_and_center_crop
from bn_keras.images.preprocessing import Preprocessing

# Computed by hand for an image of 375 x 500 pixels and a model of 224. For each shorter
# side: the longer side (500 * shorter / 375, rounded), and the offsets of the three
# squares along it.
LONGER = {
    256: (341, (0, 42, 85)),
    288: (384, (0, 48, 96)),
    320: (427, (0, 53, 107)),
    352: (469, (0, 58, 117)),
}
# The pixels of each shorter side that a crop of 224 leaves free.
FREE_SPACE = {256: 32, 288: 64, 320: 96, 352: 128}


def expected_crops(orientation, scales=(256, 288, 320, 352), squares=(0, 1, 2)):
    """Return each `(resized size, box)` as PIL has it, width first, unmirrored."""
    expected = []
    for shorter in scales:
        longer, offsets = LONGER[shorter]
        if orientation == "square":
            longer, offsets = shorter, (0, 0, 0)
        for square in squares:
            offset = offsets[square]
            free = FREE_SPACE[shorter]
            for x, y in ((0, 0), (free, 0), (0, free), (free, free), (free // 2,) * 2):
                left, top = x + offset, y
                if orientation == "portrait":
                    left, top = x, y + offset
                resized = (
                    (longer, shorter)
                    if orientation != "portrait"
                    else (shorter, longer)
                )
                expected.append((resized, (left, top, left + 224, top + 224)))
            if len(scales) == 4:
                left, top = (0, offset) if orientation == "portrait" else (offset, 0)
                expected.append((resized, (left, top, left + shorter, top + shorter)))
    return expected


SIDES = {"landscape": (375, 500), "portrait": (500, 375), "square": (400, 400)}


def to_pil(crop):
    (height, width), (top, left, rows, columns) = crop.resized_size, crop.box
    return (width, height), (left, top, left + columns, top + rows)


@pytest.mark.fast
@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("crops", [10, 144])
def test_every_crop_has_the_position_that_the_paper_gives(orientation, crops):
    located = locate_crops(*SIDES[orientation], 224, crops)
    arguments = ((256,), (1,)) if crops == 10 else ()
    expected = expected_crops(orientation, *arguments)
    assert len(located) == crops == 2 * len(expected)
    for mirrored in (False, True):
        boxes = [to_pil(crop) for crop in located if crop.mirrored == mirrored]
        assert sorted(boxes) == sorted(expected)


@pytest.mark.fast
def test_144_crops_are_four_scales_of_three_squares_of_six_crops_and_their_mirrors():
    located = locate_crops(375, 500, 224, 144)
    assert len(set(located)) == 144
    assert {crop.shorter_side for crop in located} == {256, 288, 320, 352}
    squares = [crop for crop in located if crop.box[2:] != (224, 224)]
    assert len(squares) == 4 * 3 * 2
    assert all(crop.box[2:] == (crop.shorter_side,) * 2 for crop in squares)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("side", "shorter_sides"), [(32, {37, 41, 46, 50}), (112, {128, 144, 160, 176})]
)
def test_the_scales_are_proportional_to_the_side_of_the_model(side, shorter_sides):
    located = locate_crops(48, 40, side, 144)
    assert {crop.shorter_side for crop in located} == shorter_sides
    assert {min(crop.resized_size) for crop in located} == shorter_sides
    assert {crop.box[2] for crop in located} == {side, *shorter_sides}


@settings(deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    side=st.integers(1, 300),
    crops=st.sampled_from([10, 144]),
)
def test_every_crop_is_inside_an_image_of_the_same_aspect_ratio(
    height, width, side, crops
):
    for shorter, resized, (top, left, rows, columns), _ in locate_crops(
        height, width, side, crops
    ):
        assert min(resized) == shorter
        ratio = shorter / min(height, width)
        assert abs(max(resized) - max(height, width) * ratio) <= 0.5 + 1e-9
        assert 0 <= top <= top + rows <= resized[0]
        assert 0 <= left <= left + columns <= resized[1]


def pil_crops(image, side, crops):
    """Return the crops as PIL resizes and cuts them; `side` is a multiple of 14."""
    height, width = image.shape[:2]
    scales = (256, 288, 320, 352) if crops == 144 else (256,)
    parts = []
    for scale in scales:
        shorter = side * scale // 224
        ratio = shorter / min(height, width)
        size = (round(width * ratio), round(height * ratio))
        bands = resize_bands(image, size)
        for position in (0, 0.5, 1) if crops == 144 else (0.5,):
            left, top = (int((length - shorter) * position) for length in size)
            free = shorter - side
            for x, y in ((0, 0), (free, 0), (0, free), (free, free), (free // 2,) * 2):
                corner = (left + x, top + y)
                box = (*corner, corner[0] + side, corner[1] + side)
                parts.append([band.crop(box) for band in bands])
            if crops == 144:
                box = (left, top, left + shorter, top + shorter)
                parts.append(
                    [
                        band.crop(box).resize((side, side), Image.Resampling.BILINEAR)
                        for band in bands
                    ]
                )
    pixels = np.array([np.stack([np.array(b) for b in part], -1) for part in parts])
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def resize_bands(image, size):
    """Resize each channel by itself: PIL has no float32 images of three channels."""
    return [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            size, Image.Resampling.BILINEAR
        )
        for channel in range(image.shape[-1])
    ]


@pytest.mark.parametrize("sides", [(45, 60), (60, 45), (40, 40), (9, 31)])
@pytest.mark.parametrize("crops", [10, 144])
def test_the_pixels_of_the_crops_are_those_of_pil(sides, crops):
    image = np.random.default_rng(0).uniform(0, 1, (*sides, 3)).astype("float32")
    preprocessing = Preprocessing(
        size=(14, 14), scale=(2 / 255, 1 / 255, 3 / 255), offset=-1
    )
    inputs = extract_crops(tf.constant(image), preprocessing, crops)
    expected = pil_crops(image, 14, crops) * np.array([2, 1, 3]) - 1
    np.testing.assert_allclose(inputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(375, 500), (500, 375)])
def test_an_image_of_coordinates_shows_the_position_of_every_crop(sides):
    rows, columns = np.mgrid[: sides[0], : sides[1]]
    # Away from the border, a resized ramp is a ramp: pixel centers keep their position.
    ramp = np.stack([rows, columns, 0 * rows], -1).astype("float32") / 512
    inputs = np.array(
        extract_crops(
            tf.constant(ramp), Preprocessing(size=(224, 224), scale=512 / 255), 144
        )
    )
    centers = inputs[:, 111:113, 111:113, :2].mean((1, 2))
    slopes = inputs[:, 112, 150, 1] - inputs[:, 112, 100, 1]
    orientation = "landscape" if sides[0] < sides[1] else "portrait"
    for number, (resized, box) in enumerate(expected_crops(orientation)):
        left, top, right, bottom = box
        ratio = 375 / min(resized)
        center = ((top + bottom) / 2 * ratio - 0.5, (left + right) / 2 * ratio - 0.5)
        # The longer side is rounded to whole pixels.
        for index in (number, number + 72):
            np.testing.assert_allclose(centers[index], center, atol=0.75)
        slope = ratio * (right - left) / 224 * 50
        np.testing.assert_allclose(slopes[number], slope, rtol=0.005)
        np.testing.assert_allclose(slopes[number + 72], -slope, rtol=0.005)


@pytest.mark.parametrize("sides", [(375, 500), (400, 301)])
def test_the_center_of_ten_crops_is_the_single_crop_of_seven_eighths(sides):
    image = np.random.default_rng(0).uniform(0, 1, (*sides, 3)).astype("float32")
    preprocessing = Preprocessing(size=(224, 224), scale=1.0, crop_fraction=0.875)
    ten = extract_crops(tf.constant(image), preprocessing, 10)
    single = resize_and_center_crop(tf.constant(image), preprocessing) * 255
    np.testing.assert_array_equal(ten[4], single)
    np.testing.assert_array_equal(ten[9], single[:, ::-1])


def test_a_very_narrow_image_is_refused_before_it_is_enlarged():
    with pytest.raises(tf.errors.InvalidArgumentError):
        extract_crops(tf.zeros((1, 17, 3)), Preprocessing(size=(8, 8)), 10)
