"""The signatures that take pixels, pictures and examples, against PIL and NumPy."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import Loaded, image_model, images, strings
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
    return Loaded(path)


@pytest.fixture(scope="module")
def looking_glass(tmp_path_factory):
    """An export that answers with the image that a picture became, 0 to 255."""

    def export(size, channels=3, **settings):
        inputs = keras.Input((*size, channels), name="x")
        model = keras.Model(inputs, keras.layers.Identity(name="y")(inputs))
        path = export_saved_model(
            model,
            tmp_path_factory.mktemp("models") / "m",
            preprocessing=Preprocessing(scale=1, **settings),
        )
        loaded = Loaded(path)
        return lambda *files: loaded("predict_encoded", x=strings(files))["y"]

    return export


def picture(mode="RGB", size=(40, 30)):
    """Smooth colours, as in a photograph; `size` is `(width, height)`."""
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
    answer = loaded("predict_uint8", image=pixels)["scores"]
    np.testing.assert_allclose(answer, model(pixels / 255), atol=1e-6)


def test_pictures_are_decoded_and_scaled_in_the_graph(model, loaded):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    files = [file_of(Image.fromarray(one)) for one in pixels]
    answer = loaded("predict_encoded", image=strings(files))["scores"]
    np.testing.assert_allclose(answer, model(pixels / 255), atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_a_png_file_of_any_mode_is_read_as_pil_does(looking_glass, mode):
    image = picture(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    content = file_of(image)
    (answer,) = looking_glass((30, 40))(content)
    np.testing.assert_array_equal(answer, read(content))


def test_sixteen_bits_a_channel_become_eight(looking_glass):
    values = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    content = file_of(Image.fromarray(values))
    (answer,) = looking_glass((30, 40), 1)(content)
    np.testing.assert_allclose(answer[..., 0], values / 257, atol=1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_file_is_read_as_pil_does(looking_glass, mode, options):
    content = file_of(picture(mode), "JPEG", quality=95, **options)
    (answer,) = looking_glass((30, 40))(content)
    # Both decode by libjpeg-turbo, with the accurate transform.
    np.testing.assert_allclose(answer, read(content), atol=1)


def test_a_cmyk_jpeg_file_is_read_in_colour(looking_glass):
    content = file_of(picture("CMYK"), "JPEG", quality=95)
    (answer,) = looking_glass((30, 40))(content)
    # PIL and TensorFlow convert from CMYK by slightly different formulas.
    assert np.abs(answer - read(content)).mean() < 3


def test_colour_becomes_grey(looking_glass):
    content = file_of(picture())
    (answer,) = looking_glass((30, 40), 1)(content)
    np.testing.assert_allclose(answer, read(content, "L"), atol=1.5)


def expected_by_pil(content, size, fraction, method):
    """Resize to cover, cut the middle out, as `Preprocessing` has it."""
    with Image.open(io.BytesIO(content)) as image:
        covered = [round(side / fraction) for side in size]
        ratio = max(covered[0] / image.height, covered[1] / image.width)
        height, width = (
            max(round(side * ratio), least)
            for side, least in zip((image.height, image.width), covered, strict=True)
        )
        array = np.asarray(image.resize((width, height), method), np.float64)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("fraction", [1.0, 0.875])
@pytest.mark.parametrize("given", [(100, 60), (60, 100), (20, 20), (14, 31)])
@pytest.mark.parametrize(
    ("resize", "method"),
    [
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos3", Image.Resampling.LANCZOS),
    ],
)
def test_pictures_of_any_size_are_fitted_as_pil_does(
    looking_glass, given, fraction, resize, method
):
    content = file_of(picture(size=given))
    show = looking_glass((28, 20), resize=resize, crop_fraction=fraction)
    expected = expected_by_pil(content, (28, 20), fraction, method)
    # PIL rounds to whole numbers, once in each direction.
    np.testing.assert_allclose(show(content)[0], expected, atol=2)


def test_scale_and_offset_are_one_for_each_channel(tmp_path):
    inputs = keras.Input((2, 2, 3), name="x")
    model = keras.Model(inputs, keras.layers.Identity(name="y")(inputs))
    preprocessing = Preprocessing(scale=(1.0, 0.5, 0.25), offset=(-1.0, 0.0, 3.0))
    loaded = Loaded(
        export_saved_model(model, tmp_path / "m", preprocessing=preprocessing)
    )
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    answer = loaded("predict_uint8", x=pixels)["y"]
    np.testing.assert_array_equal(answer, pixels * [1, 0.5, 0.25] + [-1, 0, 3])


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
        # 100 bytes that would grow to a thousand times the wanted height.
        ([SLIVER, GOOD], "[0]"),
    ],
)
def test_a_bad_picture_is_an_error_that_names_its_position(loaded, files, positions):
    for signature, given in (
        ("predict_encoded", {"image": strings(files)}),
        ("classify", {"inputs": strings([example(file) for file in files])}),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            loaded(signature, **given)
        assert f"positions of the batch:] {positions}" in raised.value.message


def example(content, name="image/encoded"):
    message = input_pb2.Input().example_list.examples.add()
    message.features.feature[name].bytes_list.value.append(content)
    return message.SerializeToString()


def test_classify_answers_the_best_labels_and_scores(model, loaded):
    signature = loaded.signatures["classify"]
    assert signature.method_name == "tensorflow/serving/classify"
    assert set(signature.inputs) == {"inputs"}
    assert set(signature.outputs) == {"classes", "scores"}
    pixels = (images(4) * 255).astype(np.uint8)
    files = [example(file_of(Image.fromarray(one))) for one in pixels]
    answer = loaded("classify", inputs=strings(files))
    scores = np.array(model(pixels / 255))
    order = np.argsort(-scores, axis=1)[:, :5]
    assert answer["scores"].shape == (4, 5)
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(scores, order, 1), atol=1e-6
    )
    found = [[label.decode() for label in row] for row in answer["classes"]]
    assert found == [[LABELS[place] for place in row] for row in order]


def test_an_example_without_the_picture_is_an_error_that_names_its_position(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"batch:\] \[1\]"):
        loaded("classify", inputs=strings([example(GOOD), example(GOOD, "x")]))


def test_without_labels_classes_are_numbers_and_top_k_is_the_callers(model, tmp_path):
    loaded = Loaded(export_saved_model(model, tmp_path / "m", top_k=2))
    answer = loaded("classify", inputs=strings([example(GOOD)]))
    assert answer["classes"].shape == (1, 2)
    assert set(answer["classes"].ravel()) <= {b"%d" % place for place in range(7)}
    with pytest.raises(ValueError, match=r"`top_k` must be 1 or more"):
        export_saved_model(model, tmp_path / "m", top_k=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], r"here 7\. Received: 2 labels"),
        (list(range(7)), r"must be strings.*Received: \(0, 1, 2\)"),
    ],
)
def test_labels_must_be_one_for_each_class(model, tmp_path, labels, message):
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
