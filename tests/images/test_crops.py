"""Where 144 and 10 crops lie, and which pixels they hold."""

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

# By hand, for a picture of 375 x 500 pixels and a model of 224: the shorter side, the
# longer one (500 * shorter / 375, rounded), offsets of the three squares along it.
LONGER = {
    256: (341, (0, 42, 85)),
    288: (384, (0, 48, 96)),
    320: (427, (0, 53, 107)),
    352: (469, (0, 58, 117)),
}
# Of each shorter side, the room beside 224 pixels.
ROOM = {256: 32, 288: 64, 320: 96, 352: 128}


def expected_crops(orientation, scales=(256, 288, 320, 352), squares=(0, 1, 2)):
    """Every `(resized, box)`, box as (left, top, right, bottom), unmirrored."""
    found = []
    for shorter in scales:
        longer, offsets = LONGER[shorter]
        if orientation == "square":
            longer, offsets = shorter, (0, 0, 0)
        for square in squares:
            along = offsets[square]
            room = ROOM[shorter]
            for x, y in ((0, 0), (room, 0), (0, room), (room, room), (room // 2,) * 2):
                left, top = x + along, y
                if orientation == "portrait":
                    left, top = x, y + along
                resized = (
                    (longer, shorter)
                    if orientation != "portrait"
                    else (shorter, longer)
                )
                found.append((resized, (left, top, left + 224, top + 224)))
            if len(scales) == 4:
                left, top = (0, along) if orientation == "portrait" else (along, 0)
                found.append((resized, (left, top, left + shorter, top + shorter)))
    return found


SIDES = {"landscape": (375, 500), "portrait": (500, 375), "square": (400, 400)}


def as_pil(crop):
    (height, width), (top, left, rows, columns) = crop.resized_size, crop.box
    return (width, height), (left, top, left + columns, top + rows)


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("crops", [10, 144])
def test_every_crop_is_where_the_paper_puts_it(orientation, crops):
    found = locate_crops(*SIDES[orientation], 224, crops)
    arguments = ((256,), (1,)) if crops == 10 else ()
    expected = expected_crops(orientation, *arguments)
    assert len(found) == crops == 2 * len(expected)
    for mirrored in (False, True):
        these = [as_pil(crop) for crop in found if crop.mirrored == mirrored]
        assert sorted(these) == sorted(expected)


def test_144_crops_are_four_scales_three_squares_six_parts_and_their_mirrors():
    found = locate_crops(375, 500, 224, 144)
    assert len(set(found)) == 144
    assert {crop.shorter_side for crop in found} == {256, 288, 320, 352}
    whole = [crop for crop in found if crop.box[2:] != (224, 224)]
    assert len(whole) == 4 * 3 * 2
    assert all(crop.box[2:] == (crop.shorter_side,) * 2 for crop in whole)


@pytest.mark.parametrize(
    ("side", "shorter"), [(32, {37, 41, 46, 50}), (112, {128, 144, 160, 176})]
)
def test_another_side_scales_them(side, shorter):
    found = locate_crops(48, 40, side, 144)
    assert {crop.shorter_side for crop in found} == shorter
    assert {min(crop.resized_size) for crop in found} == shorter
    assert {crop.box[2] for crop in found} == {side, *shorter}


@settings(deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    side=st.integers(1, 300),
    crops=st.sampled_from([10, 144]),
)
def test_every_crop_lies_in_a_picture_of_the_same_aspect(height, width, side, crops):
    for shorter, resized, (top, left, rows, columns), _ in locate_crops(
        height, width, side, crops
    ):
        assert min(resized) == shorter
        ratio = shorter / min(height, width)
        assert abs(max(resized) - max(height, width) * ratio) <= 0.5 + 1e-9
        assert 0 <= top <= top + rows <= resized[0]
        assert 0 <= left <= left + columns <= resized[1]


def pil_crops(picture, side, crops):
    """The crops as PIL resizes and cuts them, for a side that divides by 14."""
    height, width = picture.shape[:2]
    scales = (256, 288, 320, 352) if crops == 144 else (256,)
    found = []
    for scale in scales:
        shorter = side * scale // 224
        ratio = shorter / min(height, width)
        size = (round(width * ratio), round(height * ratio))
        for part in (0, 0.5, 1) if crops == 144 else (0.5,):
            left, top = (int((length - shorter) * part) for length in size)
            room = shorter - side
            for x, y in ((0, 0), (room, 0), (0, room), (room, room), (room // 2,) * 2):
                corner = (left + x, top + y)
                box = (*corner, corner[0] + side, corner[1] + side)
                found.append([band.crop(box) for band in bands(picture, size)])
            if crops == 144:
                box = (left, top, left + shorter, top + shorter)
                found.append(
                    [
                        band.crop(box).resize((side, side), Image.Resampling.BILINEAR)
                        for band in bands(picture, size)
                    ]
                )
    pixels = np.array([np.stack([np.array(b) for b in crop], -1) for crop in found])
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def bands(picture, size):
    for channel in range(picture.shape[-1]):
        band = Image.fromarray(np.ascontiguousarray(picture[..., channel]))
        yield band.resize(size, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("sides", [(45, 60), (60, 45), (40, 40), (9, 31)])
@pytest.mark.parametrize("crops", [10, 144])
def test_the_pixels_are_those_of_pil(sides, crops):
    picture = np.random.default_rng(0).uniform(0, 1, (*sides, 3)).astype("float32")
    preprocessing = Preprocessing(
        size=(14, 14), scale=(2 / 255, 1 / 255, 3 / 255), offset=-1
    )
    found = extract_crops(tf.constant(picture), preprocessing, crops)
    expected = pil_crops(picture, 14, crops) * np.array([2, 1, 3]) - 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(375, 500), (500, 375)])
def test_the_pixels_of_every_crop_tell_where_it_lies(sides):
    rows, columns = np.mgrid[: sides[0], : sides[1]]
    # Far from its border a resized ramp is a ramp: pixel centres keep their place.
    ramp = np.stack([rows, columns, 0 * rows], -1).astype("float32") / 512
    found = extract_crops(
        tf.constant(ramp), Preprocessing(size=(224, 224), scale=512 / 255), 144
    )
    found = np.array(found)
    middle = found[:, 111:113, 111:113, :2].mean((1, 2))
    slope = found[:, 112, 150, 1] - found[:, 112, 100, 1]
    orientation = "landscape" if sides[0] < sides[1] else "portrait"
    for number, (resized, box) in enumerate(expected_crops(orientation)):
        left, top, right, bottom = box
        ratio = 375 / min(resized)
        centre = ((top + bottom) / 2 * ratio - 0.5, (left + right) / 2 * ratio - 0.5)
        # The longer side is rounded to whole pixels.
        for index in (number, number + 72):
            np.testing.assert_allclose(middle[index], centre, atol=0.75)
        step = ratio * (right - left) / 224 * 50
        np.testing.assert_allclose(slope[number], step, rtol=0.005)
        np.testing.assert_allclose(slope[number + 72], -step, rtol=0.005)


@pytest.mark.parametrize("sides", [(375, 500), (400, 301)])
def test_the_centre_of_ten_is_the_single_crop_of_seven_eighths(sides):
    picture = np.random.default_rng(0).uniform(0, 1, (*sides, 3)).astype("float32")
    preprocessing = Preprocessing(size=(224, 224), scale=1.0, crop_fraction=0.875)
    ten = extract_crops(tf.constant(picture), preprocessing, 10)
    single = resize_and_center_crop(tf.constant(picture), preprocessing) * 255
    np.testing.assert_array_equal(ten[4], single)
    np.testing.assert_array_equal(ten[9], single[:, ::-1])


def test_a_picture_too_long_to_be_resized_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        extract_crops(tf.zeros((1, 17, 3)), Preprocessing(size=(8, 8)), 10)
