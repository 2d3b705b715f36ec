"""Google's checkpoint of BN-Inception, made up with its names and shapes."""

import re
import tarfile

import keras
import numpy as np
import pytest
import tf_slim_network

from bn_keras.layer.batch_normalization import BatchNormalization
from bn_keras.models import (
    VGG,
    BNInception,
    Inception,
    decode_predictions,
    preprocess_input,
    tf_slim_checkpoint,
)


@pytest.fixture(scope="module")
def values():
    return tf_slim_network.random_values()


@pytest.fixture(scope="module")
def checkpoint(values, tmp_path_factory):
    """A checkpoint as training leaves it, with variables that are of no layer."""
    path = tmp_path_factory.mktemp("checkpoint") / "inception_v2.ckpt"
    extra = {
        "global_step": np.array(1, np.int64),
        "InceptionV2/Conv2d_2b_1x1/weights/ExponentialMovingAverage": np.zeros(3),
        "InceptionV2/Conv2d_2b_1x1/weights/RMSProp": np.zeros(3),
    }
    tf_slim_network.write_checkpoint(path, values | extra)
    assert path.is_file()
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")


def build(weights, **arguments):
    arguments = {"classifier_activation": None, "input_shape": (64, 64, 3)} | arguments
    return BNInception(weights=weights, **arguments)


def test_the_names_and_shapes_are_those_of_the_source():
    assert len(tf_slim_network.SHAPES) == 69 * 4 + 1 + 2
    last = "InceptionV2/Mixed_5a/Branch_1/Conv2d_1a_3x3/weights"
    assert tf_slim_network.SHAPES[last] == (3, 3, 256, 256)
    names = {
        name.rpartition("/")[0].removesuffix("/BatchNorm")
        for name in tf_slim_network.SHAPES
    }
    assert set(tf_slim_checkpoint.layer_scopes().values()) == {
        name for name in names if "Logits" not in name
    }


def test_1001_classes_have_the_logits_of_tf_slims_network(checkpoint, values, images):
    ours = build(checkpoint, classes=1001).predict(images, verbose=0)
    expected = tf_slim_network.logits(values, images)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    without_background = build(checkpoint).predict(images, verbose=0)
    np.testing.assert_allclose(without_background, expected[:, 1:], atol=2e-5)


def test_other_classes_and_networks_without_the_top_have_the_features(
    checkpoint, values, images
):
    features = build(checkpoint, include_top=False, pooling="avg")
    classifier = values["InceptionV2/Logits/Conv2d_1c_1x1/weights"][0, 0]
    biases = values["InceptionV2/Logits/Conv2d_1c_1x1/biases"]
    pooled = features.predict(images, verbose=0)
    expected = tf_slim_network.logits(values, images)
    np.testing.assert_allclose(pooled @ classifier + biases, expected, atol=2e-5)
    five = build(checkpoint, classes=5, kernel_regularizer=keras.regularizers.L2(1e-4))
    assert five.output_shape == (None, 5)
    for ours, theirs in zip(five.weights, features.weights, strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_the_archive_stands_in_for_the_download(checkpoint, tmp_path, monkeypatch):
    archive = tmp_path / "inception_v2_2016_08_28.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkpoint, "inception_v2.ckpt")
    monkeypatch.setattr(tf_slim_checkpoint, "URL", archive.as_uri())
    # Keras uses another folder if this one does not exist.
    (tmp_path / "home").mkdir()
    get_file = keras.utils.get_file
    monkeypatch.setattr(
        keras.utils,
        "get_file",
        lambda *args, **options: get_file(
            *args, cache_dir=tmp_path / "home", **options
        ),
    )
    downloaded = build("imagenet", include_top=False)
    assert (tmp_path / "home" / "models" / archive.name).is_file()
    for ours, theirs in zip(
        downloaded.weights, build(archive, include_top=False).weights, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "home" / "models" / archive.name).unlink()
    archive.unlink()
    with pytest.raises(ValueError, match=r'Cannot download the weights "imagenet"'):
        build("imagenet")


def test_the_later_format_of_checkpoints_is_read_too(values, tmp_path):
    tf_slim_network.write_checkpoint(tmp_path / "model.ckpt-1", values, version=2)
    model = build(tmp_path / "model.ckpt-1", include_top=False)
    np.testing.assert_array_equal(
        model.get_layer("conv2_conv").kernel,
        values["InceptionV2/Conv2d_2c_3x3/weights"],
    )
    normalization = model.get_layer("inception_4e_double_3x3_b_bn")
    assert np.all(np.asarray(normalization.gamma) == 1)
    np.testing.assert_array_equal(
        normalization.moving_variance,
        values["InceptionV2/Mixed_5a/Branch_1/Conv2d_1a_3x3/BatchNorm/moving_variance"],
    )


def test_each_variable_that_does_not_fit_is_named(values, tmp_path):
    foreign = dict(values)
    del foreign["InceptionV2/Mixed_3b/Branch_0/Conv2d_0a_1x1/BatchNorm/beta"]
    foreign["InceptionV2/Conv2d_2b_1x1/weights"] = np.zeros((1, 1, 8, 64), np.float32)
    foreign["InceptionV2/Mixed_6a/weights"] = np.zeros(3, np.float32)
    foreign["InceptionV2/Conv2d_2b_1x1/BatchNorm/gamma"] = np.zeros(64, np.float32)
    del foreign["InceptionV2/Logits/Conv2d_1c_1x1/biases"]
    tf_slim_network.write_checkpoint(tmp_path / "foreign.ckpt", foreign)
    with pytest.raises(ValueError, match="must be a checkpoint of TF-Slim") as raised:
        build(tmp_path / "foreign.ckpt")
    for problem in (
        "Conv2d_2b_1x1/weights has shape (1, 1, 8, 64) instead of (1, 1, 64, 64)",
        "Mixed_3b/Branch_0/Conv2d_0a_1x1/BatchNorm/beta is missing",
        "Mixed_6a/weights belongs to no layer",
        "Conv2d_2b_1x1/BatchNorm/gamma belongs to no layer",
        "Logits/Conv2d_1c_1x1/biases is missing",
    ):
        assert problem in str(raised.value)


def test_a_damaged_checkpoint_is_one_error(checkpoint, tmp_path):
    damaged = tmp_path / "inception_v2.ckpt"
    for content in (b"", b"no checkpoint", checkpoint.read_bytes()[:-4000]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a checkpoint of TF-Slim's"):
            build(damaged)
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkpoint, "other")
    with pytest.raises(ValueError, match=r"archive without inception_v2\.ckpt"):
        build(archive)
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"must be a checkpoint of TF-Slim's"):
        build(archive)


@pytest.mark.parametrize(
    ("build_other", "message"),
    [
        (lambda path: build(path, width=0.5), "has shape"),
        (lambda path: build(path, stem="small"), "has shape"),
        (lambda path: build(path, separable=False), "is missing"),
        (lambda path: Inception(weights=path), "must be batch normalization"),
        (
            lambda path: build(
                path,
                normalization=lambda axis, name: BatchNormalization(
                    axis=axis, name=name, epsilon=1e-5
                ),
            ),
            "epsilon of 0.001",
        ),
    ],
)
def test_another_network_cannot_take_the_weights(checkpoint, build_other, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_other(checkpoint)


@pytest.mark.fast
def test_a_file_that_does_not_exist_is_an_error_and_so_is_vgg_of_imagenet(tmp_path):
    with pytest.raises(
        ValueError, match=r'"imagenet", a checkpoint.*Received: weights'
    ):
        BNInception(weights=str(tmp_path / "none.ckpt"))
    with pytest.raises(ValueError, match=r"`weights` must be None, or the path"):
        VGG(weights="imagenet")


@pytest.mark.fast
def test_pixels_and_classes_are_those_of_keras_applications(monkeypatch):
    pixels = np.arange(0.0, 256.0)
    np.testing.assert_allclose(preprocess_input(pixels.copy()), pixels / 127.5 - 1)
    names = {str(index): (f"n{index}", f"name{index}") for index in range(1000)}
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", names)
    probabilities = np.zeros((1, 1001))
    probabilities[0, [3, 8]] = 0.25, 0.75
    for predictions in (probabilities, probabilities[:, 1:]):
        assert decode_predictions(predictions, top=2) == [
            [("n7", "name7", 0.75), ("n2", "name2", 0.25)]
        ]
    with pytest.raises(ValueError, match=r"Received: \(1, 10\)"):
        decode_predictions(np.zeros((1, 10)))
