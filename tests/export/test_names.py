"""Names of inputs and outputs in a signature."""

import keras
import numpy as np
import pytest
from export_checks import Loaded
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
def test_names_become_legal_and_distinct(names, expected):
    assert legal_names(names) == expected


@given(st.lists(st.text("ab_-1/é", max_size=4), max_size=8))
def test_any_names_become_as_many_distinct_identifiers(names):
    found = legal_names(names)
    assert len(set(found)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in found)
    assert legal_names(found) == found


def signature(model, folder):
    info = Loaded(export_saved_model(model, folder)).signatures["serving_default"]
    return sorted(info.inputs), sorted(info.outputs)


def test_names_that_are_no_identifiers_are_mapped(tmp_path):
    a, b = keras.Input((2,), name="image-1"), keras.Input((2,), name="größe")
    outputs = [keras.layers.Dense(2, name="top-1")(a), keras.layers.Dense(2)(b)]
    found = signature(keras.Model([a, b], outputs), tmp_path / "m")
    assert found == (["gr__e", "image_1"], ["dense", "top_1"])


def test_one_layer_for_two_outputs_gives_both(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    shared = keras.layers.Dense(2, name="shared")
    model = keras.Model([a, b], [shared(a), shared(b)])
    path = export_saved_model(model, tmp_path / "m")
    draw = np.random.default_rng(0)
    x, y = draw.random((2, 3, 2)).astype("float32")
    answers = Loaded(path)(a=x, b=y)
    expected = model([x, y])
    np.testing.assert_allclose(answers["shared"], expected[0], atol=1e-6)
    np.testing.assert_allclose(answers["shared_1"], expected[1], atol=1e-6)


def test_dictionaries_give_their_keys_nested_ones_the_way(tmp_path):
    a, b = keras.Input((2,), name="left-a"), keras.Input((2,), name="b")
    total = keras.layers.Add()([a, b])
    model = keras.Model({"left-a": a, "b": b}, {"x": {"sum": total}, "y": [a, b]})
    found = signature(model, tmp_path / "m")
    assert found == (["b", "left_a"], ["x_sum", "y_0", "y_1"])


def test_names_do_not_count_what_the_process_has_built(tmp_path):
    def build():
        a, b = keras.Input((2,)), keras.Input((2,))
        x = keras.layers.Dense(2)(keras.layers.Add()([a, b]))
        return keras.Model([a, b], [x, keras.layers.Dense(2)(x), keras.ops.relu(x)])

    first = signature(build(), tmp_path / "m")
    assert first == (
        ["input_layer", "input_layer_1"],
        ["dense", "dense_1", "relu"],
    )
    assert signature(build(), tmp_path / "m") == first
