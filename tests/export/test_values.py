"""What a model itself tells about its inputs: how it scales pixels, which integers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, images
from keras import tree

from bn_keras import export_saved_model
from bn_keras.export import checking
from bn_keras.export.contract import make_contract
from bn_keras.export.input_values import input_values, scaling_of_pixels
from bn_keras.export.options import ExportOptions
from bn_keras.export.samples import draw_samples, flatten_samples
from bn_keras.images.preprocessing import Preprocessing

layers = keras.layers
MEAN, VARIANCE = [123.7, 116.3, 103.5], [3411.0, 3262.0, 3291.0]
ADAPTED = layers.Normalization(mean=MEAN, variance=VARIANCE)


def caffe(x):
    return keras.applications.resnet.preprocess_input(x)


def image_model(scaling=None):
    inputs = keras.Input((6, 6, 3), name="image")
    x = inputs if scaling is None else scaling(inputs)
    x = layers.Flatten()(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(2, name="y")(x))


class Prepare(layers.Layer):
    def __init__(self):
        super().__init__()
        self.scaling = layers.Rescaling(1 / 255)

    def call(self, inputs):
        return self.scaling(inputs)


class ScaledConvolution(layers.Layer):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = layers.Conv2D(4, 3), layers.BatchNormalization()

    def call(self, inputs):
        return self.bn(self.conv(inputs / 255.0))


class Standardize(layers.Layer):
    def call(self, images):
        return tf.image.per_image_standardization(images)

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape)


class PrepareEagerly(Prepare):
    def call(self, inputs):
        self.first = inputs
        return super().call(inputs)


def normalization_of_inputs(mean, variance):
    layer = layers.BatchNormalization()
    layer.build((None, 6, 6, 3))
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return layer


TAKES_PIXELS = {
    "rescaling": layers.Rescaling(1 / 255),
    "rescaling to -1 and 1": layers.Rescaling(1 / 127.5, offset=-1.0),
    "rescaling by channel": layers.Rescaling([0.017, 0.018, 0.0175], [-2.1, -2, -1.8]),
    "normalization": ADAPTED,
    "rescaling, then normalization": lambda x: layers.Normalization(
        mean=[0.485, 0.456, 0.406], variance=[0.05, 0.05, 0.05]
    )(layers.Rescaling(1 / 255)(x)),
    "division": lambda x: x / 255.0,
    "arithmetic": keras.applications.mobilenet_v2.preprocess_input,
    "means of channels in another order": caffe,
    "after augmentation": lambda x: layers.Rescaling(1 / 255)(
        layers.RandomFlip()(layers.ZeroPadding2D()(x))
    ),
    "in a nested model": keras.Sequential([layers.Rescaling(1 / 255)]),
    "a layer inside another": Prepare(),
    "arithmetic inside a layer": ScaledConvolution(),
    "statistics of the inputs": normalization_of_inputs(MEAN, VARIANCE),
}
MAY_TAKE_EITHER = {
    "a layer inside one that cannot be opened": PrepareEagerly(),
    "a layer without weights that cannot be opened": Standardize(),
    "rescaling": layers.Rescaling(2.0, offset=-1.0),
    "normalization": layers.Normalization(mean=0.45, variance=0.05),
    "a function": layers.Lambda(lambda x: x / 255),
    "standardization": lambda x: (x - 0.5) / 0.25,
}


def scale_of_contract(model, preprocessing=None):
    options = ExportOptions(preprocessing=preprocessing)
    return make_contract(model, model, options).preprocessing.scale


@pytest.mark.parametrize("scaling", TAKES_PIXELS.values(), ids=TAKES_PIXELS)
def test_pixels_are_not_scaled_again_for_a_model_that_scales_them(scaling):
    model = image_model(scaling)
    assert scale_of_contract(model) == 1.0
    assert scale_of_contract(model, Preprocessing(scale=0.5)) == 0.5
    with pytest.warns(UserWarning, match="Pixels are scaled twice"):
        scale_of_contract(model, Preprocessing())


def test_pixels_reach_a_model_that_scales_them_as_they_are(tmp_path):
    model = image_model(TAKES_PIXELS["rescaling, then normalization"])
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    actual = loaded("predict_uint8", image=pixels)["y"]
    np.testing.assert_allclose(actual, model(pixels.astype("float32")), atol=1e-5)


@pytest.mark.parametrize("scaling", MAY_TAKE_EITHER.values(), ids=MAY_TAKE_EITHER)
def test_preprocessing_is_asked_for_where_the_model_does_not_tell(scaling):
    model = image_model(scaling)
    with pytest.raises(
        ValueError, match=r"`preprocessing` must be passed.*begins with"
    ):
        scale_of_contract(model)
    assert scale_of_contract(model, Preprocessing()) == 1 / 255


def test_a_model_that_does_not_scale_its_images_takes_values_from_0_to_1():
    assert scaling_of_pixels(image_model()) is None
    assert scaling_of_pixels(image_model(layers.RandomFlip())) is None
    squared = image_model(lambda x: layers.Conv2D(3, 1)(x) / 255)
    assert scaling_of_pixels(squared) is None
    statistics = normalization_of_inputs([0.48, 0.46, 0.41], [0.08, 0.07, 0.08])
    assert scaling_of_pixels(image_model(statistics)) is None


def embedding(x, size=7):
    return layers.Embedding(size, 3)(x)


@pytest.mark.parametrize(
    ("dtype", "build", "expected"),
    [
        ("int32", embedding, range(7)),
        ("int32", lambda x: embedding(layers.Reshape((3,))(x)), range(7)),
        ("int32", lambda x: layers.Add()([embedding(x), embedding(x, 5)]), range(5)),
        ("int64", lambda x: layers.IntegerLookup(vocabulary=[9, 4])(x), [9, 4]),
        ("int32", lambda x: layers.CategoryEncoding(num_tokens=5)(x), range(5)),
        ("string", lambda x: layers.StringLookup(vocabulary=["u", "v"])(x), ["u", "v"]),
        ("int32", lambda x: keras.ops.cast(x, "float32"), None),
        ("float32", lambda x: layers.Dense(2)(x), None),
    ],
)
def test_samples_cover_the_integers_and_strings_that_the_model_knows(
    dtype, build, expected
):
    inputs = keras.Input((3,), dtype=dtype, name="x")
    model = keras.Model(inputs, build(inputs))
    (values,) = input_values(model)
    assert values is None if expected is None else list(values) == list(expected)
    if expected is not None:
        contract = make_contract(model, model)
        (array,) = draw_samples(contract, 40)
        drawn = {x.decode() if isinstance(x, bytes) else x for x in array.flat}
        assert drawn == set(expected)


def test_a_difference_in_any_row_of_an_embedding_is_found(tmp_path, monkeypatch):
    inputs = keras.Input((20,), dtype="int32", name="x")
    layer = layers.Embedding(6, 3)
    model = keras.Model(inputs, layer(inputs))
    table = layer.embeddings.numpy()
    table[4] += 1
    monkeypatch.setattr(checking, "run_model", lambda _, __, x: [table[x[0]]])
    with pytest.raises(ValueError, match="must be those of the model"):
        export_saved_model(model, tmp_path / "m")


def batches(*shapes):
    arrays = tuple(np.ones(shape, "float32") for shape in shapes)
    data = tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    return data.batch(2)


@pytest.mark.parametrize(
    "samples", [batches((5, 4)), batches((5, 4), (5, 1))], ids=["inputs", "and targets"]
)
def test_samples_can_be_a_data_set(samples, tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    export_saved_model(model, tmp_path / "m", samples=samples)


@pytest.mark.parametrize(
    "structure",
    [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}],
    ids=["list", "dictionary"],
)
def test_several_inputs_of_a_data_set_are_samples(structure):
    inputs = structure(keras.Input((4,), name="a"), keras.Input((4,), name="b"))
    model = keras.Model(inputs, layers.Add()(tree.flatten(inputs)))
    contract = make_contract(model, model)
    a, b = np.ones((5, 4), "float32"), np.zeros((5, 4), "float32")
    element = structure(a, b)
    if isinstance(element, list):
        element = tuple(element)
    data = tf.data.Dataset.from_tensor_slices(element).batch(3)
    targets = tf.data.Dataset.from_tensor_slices(np.zeros((5, 2))).batch(3)
    for samples in (data, tf.data.Dataset.zip(data, targets)):
        first, second = flatten_samples(samples, contract)
        assert first.mean() == 1
        assert second.mean() == 0
        assert first.shape == second.shape == (3, 4)


def test_samples_are_not_rounded_to_integers():
    inputs = keras.Input((2,), dtype="uint8", name="x")
    contract = make_contract(model := keras.Model(inputs, inputs + 1), model)
    flatten_samples(np.array([[3.0, 255.0]]), contract)
    for wrong in ([[2.5, 1.0]], [[256, 1]], [[-1, 1]]):
        with pytest.raises(ValueError, match=r"`samples` must be arrays.*uint8"):
            flatten_samples(np.array(wrong), contract)


def test_images_of_a_data_set_are_samples(tmp_path):
    data = tf.data.Dataset.from_tensor_slices(images(5)).batch(3)
    export_saved_model(image_model(), tmp_path / "m", samples=data)
    empty = data.take(0)
    with pytest.raises(ValueError, match="`samples` must be"):
        export_saved_model(image_model(), tmp_path / "m", samples=empty)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"preprocessing": {"scale": 1.0}}, "`preprocessing` must be None or a"),
        ({"preprocessing": 1 / 255}, "`preprocessing` must be None or a"),
        ({"tolerance": "1e-3"}, "`tolerance` must be None or a finite"),
        ({"tolerance": float("nan")}, "`tolerance` must be None or a finite"),
        ({"tolerance": -1e-3}, "`tolerance` must be None or a finite"),
        ({"tolerance": True}, "`tolerance` must be None or a finite"),
        ({"samples": [["a"] * 4]}, r"`samples` must be arrays.*float32.*Received"),
        ({"samples": np.ones((2, 4), complex)}, r"`samples` must be arrays.*complex"),
        ({"samples": object()}, r"`samples` must be arrays.*float32.*Received"),
        ({"samples": [[1.0, 2.0], [1.0]]}, r"`samples` must be arrays"),
        ({"version": "3"}, "`version` must be None or a positive integer"),
        ({"version": 2.0}, "`version` must be None or a positive integer"),
        ({"version": np.int64(3)}, "`version` must be None or a positive integer"),
        ({"constants": 1}, "`constants` must be True or False"),
        ({"precision": "float16"}, r"`precision` must be 'float32' or .* Received"),
        ({"precision": None}, r"`precision` must be 'float32' or .* Received"),
        ({"top_k": 2.0}, "`top_k` must be an integer of at least 1"),
        ({"labels": 3}, "`labels` must be strings, or the path of a file"),
    ],
)
def test_an_option_of_a_wrong_type_is_reported(option, message, tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "m", **option)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "text",
    ["\ufeffa\nb\u2028c\n", "a\r\nb\u2028c\r\n", " a \nb\u2028c\n\n \n", "a\nb\u2028c"],
    ids=["byte-order mark", "carriage returns", "spaces and blank lines", "no end"],
)
def test_labels_are_the_lines_of_a_file(text, tmp_path):
    (tmp_path / "labels.txt").write_bytes(text.encode())
    model = image_model()
    options = ExportOptions(labels=tmp_path / "labels.txt")
    assert make_contract(model, model, options).labels == ("a", "b\u2028c")
