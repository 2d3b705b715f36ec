"""Inputs and outputs of a signature have legal and stable names."""

import keras
import numpy as np
import pytest
from export_checks import LoadedExport
from hypothesis import given
from hypothesis import strategies as st

from bn_keras import export_saved_model
from bn_keras.export.naming import legal_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["image", "mask"], ["image", "mask"]),
        (["image-1"], ["image_1"]),
        (["image-1", "image_1"], ["image_1_1", "image_1"]),
        (["dense", "dense", "dense_1"], ["dense", "dense_2", "dense_1"]),
        (["2nd", "_a", ""], ["x2nd", "x_a", "x"]),
        (["class", "größe", "画像", "a/b"], ["class_", "gr__e", "x__", "a_b"]),
    ],
)
@pytest.mark.fast
def test_names_become_legal_and_distinct(names, expected):
    assert legal_names(names) == expected


@pytest.mark.fast
@given(st.lists(st.text("ab_-1/é", max_size=4), max_size=8))
def test_any_names_become_distinct_identifiers(names):
    result = legal_names(names)
    assert len(set(result)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in result)
    assert legal_names(result) == result


def signature_names(model, folder):
    info = LoadedExport(export_saved_model(model, folder)).signatures["serving_default"]
    return sorted(info.inputs), sorted(info.outputs)


def test_names_that_are_not_identifiers_are_replaced(tmp_path):
    a, b = keras.Input((2,), name="image-1"), keras.Input((2,), name="größe")
    outputs = [keras.layers.Dense(2, name="top-1")(a), keras.layers.Dense(2)(b)]
    names = signature_names(keras.Model([a, b], outputs), tmp_path / "m")
    assert names == (["gr__e", "image_1"], ["dense", "top_1"])


def test_two_outputs_of_one_layer_have_different_names(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    shared = keras.layers.Dense(2, name="shared")
    model = keras.Model([a, b], [shared(a), shared(b)])
    path = export_saved_model(model, tmp_path / "m")
    draw = np.random.default_rng(0)
    x, y = draw.random((2, 3, 2)).astype("float32")
    outputs = LoadedExport(path)(a=x, b=y)
    expected = model([x, y])
    np.testing.assert_allclose(outputs["shared"], expected[0], atol=1e-6)
    np.testing.assert_allclose(outputs["shared_1"], expected[1], atol=1e-6)


def test_names_in_dictionaries_are_their_keys(tmp_path):
    a, b = keras.Input((2,), name="left-a"), keras.Input((2,), name="b")
    total = keras.layers.Add()([a, b])
    model = keras.Model({"left-a": a, "b": b}, {"x": {"sum": total}, "y": [a, b]})
    names = signature_names(model, tmp_path / "m")
    assert names == (["b", "left_a"], ["x_sum", "y_0", "y_1"])


def test_names_do_not_depend_on_other_models_of_the_process(tmp_path):
    def build():
        a, b = keras.Input((2,)), keras.Input((2,))
        x = keras.layers.Dense(2)(keras.layers.Add()([a, b]))
        return keras.Model([a, b], [x, keras.layers.Dense(2)(x), keras.ops.relu(x)])

    first = signature_names(build(), tmp_path / "m")
    assert first == (
        ["input_layer", "input_layer_1"],
        ["dense", "dense_1", "relu"],
    )
    assert signature_names(build(), tmp_path / "m") == first
