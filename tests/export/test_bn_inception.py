"""BN-Inception's answers do not depend on the batch in which an image is answered."""

import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, strings
from processor import AVX512

from benchmarks.folding import build
from bn_keras import export_saved_model
from bn_keras.export.samples import encode_examples

pytestmark = pytest.mark.slow
SIDE, BATCH = 224, 8
SHAPE = (BATCH, SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    return LoadedExport(export_saved_model(build("BNInception", SIDE), folder))


def companies(draw):
    """Return batches of other images by what they are."""
    return {
        "images": draw.random(SHAPE),
        "darkness": np.zeros(SHAPE),
        "large numbers": np.full(SHAPE, 3e38),
        "no numbers": np.full(SHAPE, np.nan),
        "infinities and tiny numbers": np.where(
            draw.random(SHAPE) < 0.5, -np.inf, 1e-45
        ),
    }


def pixels(draw, count=BATCH):
    return draw.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def files(images):
    return [tf.io.encode_png(image).numpy() for image in images]


def batches(signature, draw):
    """Return an example of a signature, and batches of others."""
    if signature == "serving_default":
        arrays = companies(draw).values()
        return draw.random(SHAPE[1:]).astype("float32"), [
            array.astype("float32") for array in arrays
        ]
    if signature == "predict_uint8":
        others = [
            pixels(draw),
            np.zeros(SHAPE, np.uint8),
            np.full(SHAPE, 255, np.uint8),
        ]
        return pixels(draw, 1)[0], others
    # Files of other sizes, among them one of a single pixel.
    tiny, wide = (
        np.zeros((BATCH, 1, 1, 3), np.uint8),
        np.zeros((8, 99, 400, 3), np.uint8),
    )
    encode = files if signature == "predict_encoded" else examples
    others = [strings(encode(images)) for images in (pixels(draw), tiny, wide)]
    return encode(pixels(draw, 1))[0], others


def examples(images):
    return encode_examples(files(images))


@pytest.mark.parametrize(
    "signature", ["serving_default", "predict_uint8", "predict_encoded", "classify"]
)
def test_an_answer_is_the_same_bit_for_bit_in_any_company(loaded, signature):
    (name,) = loaded.signatures[signature].inputs
    example, others = batches(signature, np.random.default_rng(0))
    copies = np.empty_like(others[0])
    copies[:] = [example] * BATCH
    answers = loaded(signature, **{name: copies})
    for batch in others:
        for position in range(BATCH):
            company = batch.copy()
            company[position] = example
            for key, values in loaded(signature, **{name: company}).items():
                expected = answers[key][0 if AVX512 else position]
                actual = values[position]
                assert actual.tolist() == expected.tolist(), (position, key)
                if actual.dtype != object:
                    assert actual.tobytes() == expected.tobytes(), (position, key)
