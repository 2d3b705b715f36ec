"""Files of a user: how they are read, and the errors of bad ones."""

import io
import pickle
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import HEIGHT, WIDTH, encode, gradient_image
from PIL import Image

from bn_keras.cli.user_files import load_model, read_encoded, read_inputs
from bn_keras.images.pixels import JPEG, PNG, decode, preprocess
from bn_keras.images.preprocessing import Preprocessing

pytestmark = pytest.mark.fast

FLOATS = {"x": (np.dtype("float32"), (None, 4))}
GRAY = {"image": (np.dtype("float32"), (None, 4, 4, 1))}
RGB = {"image": (np.dtype("float32"), (None, None, None, 3))}
PIXELS = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)


def save(path, array):
    np.save(path, array)
    return path


def save_png(path, array, size=None):
    Image.fromarray(array).save(path)
    if size is not None:
        path.write_bytes(path.read_bytes()[:size])
    return path


def npy_header(shape, descr="<f4"):
    """Return a .npy file that ends after its header."""
    content = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, fields)
    return content.getvalue()


# Arrays


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_an_array_is_cast_to_the_type_of_the_input(tmp_path, dtype):
    values = np.arange(8, dtype=dtype).reshape(2, 4)
    (array,) = read_inputs(save(tmp_path / "a.npy", values), FLOATS).values()
    assert array.dtype == np.dtype("float32")
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("array", [np.array(["a", "\u00e9"]), np.array([b"a"])])
def test_strings_fit_only_an_input_of_strings(tmp_path, array):
    path = save(tmp_path / "a.npy", array)
    words = {"text": (np.dtype(object), (None,))}
    assert read_inputs(path, words)["text"].tolist() == array.tolist()
    with pytest.raises(ValueError, match=r"a\.npy of type .*astype\('float32'\)"):
        read_inputs(path, FLOATS)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4),
        np.ones(4, np.float16),
        np.ones(4, np.complex64),
        np.zeros(2, "M8[s]"),
        np.zeros(2, [("a", "f4"), ("b", "f4")]),
    ],
    ids=lambda array: array.dtype.kind,
)
def test_an_array_of_another_type_is_an_error(tmp_path, array):
    message = r"input x must be of type float32\. Received: .*a\.npy of type .*astype"
    with pytest.raises(ValueError, match=message):
        read_inputs(save(tmp_path / "a.npy", array), FLOATS)


def test_several_inputs_are_named_by_the_keys_of_the_file(tmp_path):
    two = {"a": FLOATS["x"], "b": (np.dtype("int32"), (None,))}
    arrays = {"a": np.ones((2, 4)), "b": np.arange(2, dtype=np.int32)}
    np.savez(tmp_path / "two.npz", **arrays)
    read = read_inputs(tmp_path / "two.npz", two)
    assert {key: array.dtype.name for key, array in read.items()} == {
        "a": "float32",
        "b": "int32",
    }
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key], array)
    with pytest.raises(ValueError, match=r"keys x\. Received: .*two\.npz with a, b\."):
        read_inputs(tmp_path / "two.npz", FLOATS)
    for name in ("one.npy", "one.png"):
        with pytest.raises(ValueError, match=rf"inputs a, b\. .*{name}\. Send a \.npz"):
            read_inputs(tmp_path / name, two)


class Boom:
    def __reduce__(self):
        return print, ("a pickle ran",)


def test_a_bad_array_file_is_an_error_and_no_pickle_runs(tmp_path, capsys):
    np.savez(tmp_path / "zip.npz", x=np.ones(4))
    objects = np.array([Boom()], object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", allow_pickle=True, x=objects)
    contents = {
        "renamed.npy": (tmp_path / "zip.npz").read_bytes(),
        "renamed.npz": npy_header((0,)),
        "text.npy": b"no array",
        "empty.npy": b"",
        "pickle.npy": pickle.dumps(Boom()),
        "short.npy": npy_header((2, 4)) + bytes(5),
        "cut.npz": (tmp_path / "zip.npz").read_bytes()[:60],
        # More memory than an address space holds.
        "giant.npy": npy_header((2**20, 2**20, 2**10)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "objects.npy", "objects.npz"):
        with pytest.raises(ValueError, match=rf"{name}.*(Save it with|several files)"):
            read_inputs(tmp_path / name, FLOATS)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_not_found(tmp_path):
    for name in ("a.npy", "a.npz", "a.png"):
        with pytest.raises(FileNotFoundError):
            read_inputs(tmp_path / name, GRAY)


# Images


def test_sixteen_bits_per_pixel_keep_their_shades(tmp_path):
    path = save_png(tmp_path / "deep.png", PIXELS)
    (pixels,) = read_inputs(path, GRAY).values()
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, :, :, 0], PIXELS / 65535, atol=1e-6)
    (pixels,) = read_inputs(path, RGB).values()
    np.testing.assert_allclose(pixels[0, :, :, 2], PIXELS / 65535, atol=1e-6)


def test_white_of_eight_bits_is_one(tmp_path):
    shades = (PIXELS // 257).astype(np.uint8)
    (pixels,) = read_inputs(save_png(tmp_path / "a.png", shades), GRAY).values()
    np.testing.assert_allclose(pixels[0, :, :, 0], shades / 255, atol=1e-6)
    assert pixels.max() == 1


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_image_whose_white_is_unknown_is_an_error(tmp_path, dtype):
    Image.fromarray(PIXELS.astype(dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(
        ValueError, match=r"a\.tiff of Pillow's mode [IF]\. Send a \.npy"
    ):
        read_inputs(tmp_path / "a.tiff", GRAY)


def test_a_bad_image_is_an_error(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    half = save_png(tmp_path / "half.png", noise, size=2000)
    with pytest.raises(
        ValueError, match=r"half\.png, which is not one of them: .*trunc"
    ):
        read_inputs(half, GRAY)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"png, which is not one of them\. Convert"):
        read_inputs(tmp_path / "text.png", GRAY)
    large = save_png(tmp_path / "large.png", noise)
    # Pillow warns above the limit, and refuses above twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert read_inputs(large, GRAY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large\.png, .*decompression bomb"):
        read_inputs(large, GRAY)


def transparent(color):
    pixels = np.dstack([gradient_image(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:10, :10] = (*color, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "content",
    [
        encode(gradient_image(), "JPEG"),
        encode(gradient_image(), "PNG"),
        encode(gradient_image(), "BMP"),
        encode(gradient_image(), "BMP", mode="L"),
        encode(gradient_image(), "GIF"),
        encode(transparent((200, 0, 0)), "GIF"),
        encode(gradient_image(), "WEBP"),
        encode(transparent((200, 0, 0)), "WEBP", lossless=True, exact=True),
    ],
    ids=["JPEG", "PNG", "BMP", "BMP-L", "GIF", "GIF-A", "WEBP", "WEBP-A"],
)
def test_an_image_is_sent_as_training_decodes_it(tmp_path, content, channels):
    (tmp_path / "a").write_bytes(content)
    sent = read_encoded(tmp_path / "a", channels)
    assert sent.startswith((JPEG, PNG))
    np.testing.assert_array_equal(decode(sent, channels), decode(content, channels))


@pytest.mark.parametrize("size", [(16, 16), (15, 20), (45, 30), (7, 60)])
def test_an_image_is_resized_as_training_resizes_it(tmp_path, size):
    path = tmp_path / "a.bmp"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path.write_bytes(encode(noise, "BMP"))
    (pixels,) = read_inputs(
        path, {"x": (np.dtype("float32"), (None, *size, 3))}
    ).values()
    content = tf.constant(path.read_bytes())
    expected = preprocess(content, Preprocessing(size, channels=3))
    np.testing.assert_allclose(pixels[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"), [(None, "any shape"), ((None, 4), r"\(None, 4\)")]
)
def test_an_image_needs_a_model_of_images(tmp_path, shape, expected):
    with pytest.raises(ValueError, match=rf"that takes {expected}\. Send a \.npy"):
        read_inputs(tmp_path / "a.png", {"x": (np.dtype("float32"), shape)})


# Models


def test_an_incomplete_model_is_an_error(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.keras, which is not one, or is inc"):
        load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no model")
    with pytest.raises(
        ValueError, match=r"Cannot load .*model\.keras as a Keras model"
    ):
        load_model(path)


def test_a_layer_whose_code_is_missing_is_a_short_error(tmp_path):
    # A class of a module that cannot be imported, as in the process of another user.
    own = type(
        "Own",
        (keras.layers.Layer,),
        {"call": lambda self, x: x, "__module__": "not_a_module"},
    )
    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((4,)), own()]).save(path)
    with pytest.raises(
        ValueError, match=r"class 'Own'\. If it has custom layers"
    ) as raised:
        load_model(path)
    assert len(str(raised.value)) < 300 + len(str(path))
