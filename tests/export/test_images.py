"""The signatures for pixels, image files and examples agree with PIL and NumPy."""

import io
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, image_model, images, strings
from PIL import Image
from tensorflow_serving.apis import input_pb2

from bn_keras import export_saved_model
from bn_keras.export import read_manifest
from bn_keras.images.preprocessing import Preprocessing

LABELS = ["cat", "größe", "crane", "crane", "dog", "e", "f"]


@pytest.fixture(scope="module")
def model():
    return image_model(classes=7)


@pytest.fixture(scope="module")
def loaded(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    path = export_saved_model(model, folder / "m", labels=folder / "labels.txt")
    return LoadedExport(path)


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    """Return a function that exports an identity and returns what it decodes, 0-255."""

    @cache
    def export(size, channels=3, **settings):
        inputs = keras.Input((*size, channels), name="x")
        model = keras.Model(inputs, keras.layers.Identity(name="y")(inputs))
        path = export_saved_model(
            model,
            tmp_path_factory.mktemp("models") / "m",
            preprocessing=Preprocessing(scale=1, **settings),
        )
        loaded = LoadedExport(path)
        return lambda *files: loaded("predict_encoded", x=strings(files))["y"]

    return export


def picture(mode="RGB", size=(40, 30)):
    """Return an image of smooth colors; `size` is `(width, height)`."""
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 2, size[1]))
    waves = [np.sin(x + y), np.cos(2 * x - y), np.sin(x * y)]
    pixels = np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file_of(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def read(content, mode="RGB"):
    with Image.open(io.BytesIO(content)) as image:
        array = np.asarray(image.convert(mode), np.float64)
    return array.reshape(*array.shape[:2], -1)


def test_uint8_images_are_scaled_in_the_graph(model, loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    actual = loaded("predict_uint8", image=pixels)["scores"]
    np.testing.assert_allclose(actual, model(pixels / 255), atol=1e-6)


def test_image_files_are_decoded_and_scaled_in_the_graph(model, loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    files = [file_of(Image.fromarray(x)) for x in pixels]
    actual = loaded("predict_encoded", image=strings(files))["scores"]
    np.testing.assert_allclose(actual, model(pixels / 255), atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_png_file_of_any_mode_is_decoded_as_pil_does(decode, mode):
    image = picture(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    content = file_of(image)
    (actual,) = decode((30, 40))(content)
    np.testing.assert_array_equal(actual, read(content))


def test_sixteen_bits_per_channel_become_eight(decode):
    values = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    content = file_of(Image.fromarray(values))
    (actual,) = decode((30, 40), 1)(content)
    np.testing.assert_allclose(actual[..., 0], values / 257, atol=1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_file_is_decoded_as_pil_does(decode, mode, options):
    content = file_of(picture(mode), "JPEG", quality=95, **options)
    (actual,) = decode((30, 40))(content)
    # Both use libjpeg-turbo with the accurate transform.
    np.testing.assert_allclose(actual, read(content), atol=1)


def test_a_cmyk_jpeg_file_is_decoded_in_color(decode):
    content = file_of(picture("CMYK"), "JPEG", quality=95)
    (actual,) = decode((30, 40))(content)
    # PIL and TensorFlow convert from CMYK by slightly different formulas.
    assert np.abs(actual - read(content)).mean() < 3


def test_color_becomes_gray(decode):
    content = file_of(picture())
    (actual,) = decode((30, 40), 1)(content)
    np.testing.assert_allclose(actual, read(content, "L"), atol=1.5)


def expected_by_pil(content, size, fraction, method):
    """Resize the image to cover the size and crop its center, as documented."""
    with Image.open(io.BytesIO(content)) as image:
        covered = [round(side / fraction) for side in size]
        ratio = max(covered[0] / image.height, covered[1] / image.width)
        height, width = (
            max(round(side * ratio), minimum)
            for side, minimum in zip((image.height, image.width), covered, strict=True)
        )
        array = np.asarray(image.resize((width, height), method), np.float64)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("fraction", [1.0, 0.875])
@pytest.mark.parametrize("file_size", [(100, 60), (60, 100), (20, 20), (14, 31)])
@pytest.mark.parametrize(
    ("resize", "method"),
    [
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos3", Image.Resampling.LANCZOS),
    ],
)
def test_images_of_any_size_are_resized_and_cropped_as_pil_does(
    decode, file_size, fraction, resize, method
):
    content = file_of(picture(size=file_size))
    actual = decode((28, 20), resize=resize, crop_fraction=fraction)(content)[0]
    expected = expected_by_pil(content, (28, 20), fraction, method)
    # PIL rounds to integers twice, once in each direction.
    np.testing.assert_allclose(actual, expected, atol=2)


def test_scale_and_offset_can_differ_by_channel(tmp_path):
    inputs = keras.Input((2, 2, 3), name="x")
    model = keras.Model(inputs, keras.layers.Identity(name="y")(inputs))
    preprocessing = Preprocessing(scale=(1.0, 0.5, 0.25), offset=(-1.0, 0.0, 3.0))
    loaded = LoadedExport(
        export_saved_model(model, tmp_path / "m", preprocessing=preprocessing)
    )
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    actual = loaded("predict_uint8", x=pixels)["y"]
    np.testing.assert_array_equal(actual, pixels * [1, 0.5, 0.25] + [-1, 0, 3])


GOOD = file_of(picture())
SLIVER = file_of(picture(size=(2, 3000)))
PHOTOGRAPH = file_of(picture(size=(200, 150)), "JPEG")


@pytest.mark.parametrize(
    ("files", "positions"),
    [
        ([GOOD, b"junk", GOOD], "[1]"),
        ([b""], "[0]"),
        ([GOOD, GOOD, GOOD[:-20]], "[2]"),
        ([PHOTOGRAPH[: len(PHOTOGRAPH) // 2], GOOD, b"\xff\xd8\xff"], "[0 2]"),
        ([GOOD[:40] + bytes([GOOD[40] ^ 255]) + GOOD[41:], GOOD], "[0]"),
        ([file_of(picture(), "GIF"), file_of(picture(), "BMP")], "[0 1]"),
        # A file of 100 bytes that would be resized to an enormous height.
        ([SLIVER, GOOD], "[0]"),
    ],
)
def test_a_damaged_image_is_an_error_that_names_its_position(loaded, files, positions):
    for signature, inputs in (
        ("predict_encoded", {"image": strings(files)}),
        ("classify", {"inputs": strings([example(file) for file in files])}),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            loaded(signature, **inputs)
        assert f"positions of the batch:] {positions}" in raised.value.message


def example(content, name="image/encoded"):
    message = input_pb2.Input().example_list.examples.add()
    message.features.feature[name].bytes_list.value.append(content)
    return message.SerializeToString()


def test_classify_returns_the_highest_scores_and_their_labels(model, loaded):
    signature = loaded.signatures["classify"]
    assert signature.method_name == "tensorflow/serving/classify"
    assert set(signature.inputs) == {"inputs"}
    assert set(signature.outputs) == {"classes", "scores"}
    pixels = (images(4) * 255).astype(np.uint8)
    files = [example(file_of(Image.fromarray(x))) for x in pixels]
    actual = loaded("classify", inputs=strings(files))
    scores = np.array(model(pixels / 255))
    order = np.argsort(-scores, axis=1)[:, :5]
    assert actual["scores"].shape == (4, 5)
    np.testing.assert_allclose(
        actual["scores"], np.take_along_axis(scores, order, 1), atol=1e-6
    )
    labels = [[label.decode() for label in row] for row in actual["classes"]]
    assert labels == [[LABELS[place] for place in row] for row in order]


def test_an_example_without_an_image_is_an_error_that_names_its_position(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"batch:\] \[1\]"):
        loaded("classify", inputs=strings([example(GOOD), example(GOOD, "x")]))


def test_without_labels_the_classes_are_numbers_and_top_k_is_respected(model, tmp_path):
    loaded = LoadedExport(export_saved_model(model, tmp_path / "m", top_k=2))
    actual = loaded("classify", inputs=strings([example(GOOD)]))
    assert actual["classes"].shape == (1, 2)
    assert set(actual["classes"].ravel()) <= {b"%d" % place for place in range(7)}
    with pytest.raises(ValueError, match=r"`top_k` must be an integer of at least 1"):
        export_saved_model(model, tmp_path / "m", top_k=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], r"one label for each class.*Received: 2 labels for 7 classes"),
        (list(range(7)), r"must be strings.*Received: \(0, 1, 2\)"),
    ],
)
def test_there_must_be_a_label_for_each_class(model, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "m", labels=labels)


def test_the_preprocessing_and_the_labels_are_in_the_manifest(model, tmp_path):
    path = export_saved_model(
        model,
        tmp_path / "m",
        labels=LABELS,
        preprocessing=Preprocessing(scale=1 / 127.5, offset=-1.0, crop_fraction=0.875),
    )
    manifest = read_manifest(path)
    assert manifest["labels"] == LABELS
    assert manifest["preprocessing"] == {
        "size": [6, 6],
        "scale": 1 / 127.5,
        "offset": -1.0,
        "resize": "bilinear",
        "crop_fraction": 0.875,
        "channels": 3,
    }
