"""Models to serve, serialized requests to them, and the expected answers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One request: a model, a signature and the number of examples."""

    model: str
    signature: str
    batch: int

    def __str__(self):
        return "-".join(map(str, self))


TINY = Case("tiny", "serving_default", 1)
TEXT = Case("tiny", "text", 1)
NETWORK = Case("bn_inception", "serving_default", 1)
PIXELS = NETWORK._replace(signature="predict_uint8")


def write_models(folder, network):
    """Write the models, the requests to them and the answers into a folder.

    Args:
        folder: Folder for the subfolders `models` and `requests`.
        network: Keyword arguments of `BNInception`. None writes only the tiny model.
    """
    import tensorflow as tf

    tiny = tf.Module()
    tiny.double = tf.function(
        lambda x: {"y": 2 * x},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")],
        autograph=False,
    )
    tiny.text = tf.function(
        lambda x: {"y": tf.cast(tf.strings.length(x), tf.float32)},
        input_signature=[tf.TensorSpec([None], tf.string, "x")],
        autograph=False,
    )
    # Large documents in one direction only.
    tiny.total = tf.function(
        lambda x: {"y": tf.reduce_sum(x)},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")],
        autograph=False,
    )
    tiny.rows = tf.function(
        lambda x: {"y": tf.reshape(tf.sin(tf.range(4.0 * x)), [-1, 4])},
        input_signature=[tf.TensorSpec([], tf.float32, "x")],
        autograph=False,
    )
    tf.saved_model.save(
        tiny,
        f"{folder}/models/tiny/1",
        signatures={
            "serving_default": tiny.double,
            "text": tiny.text,
            "total": tiny.total,
            "rows": tiny.rows,
        },
    )
    cases = [TINY, TEXT]
    if network is not None:
        import keras

        from bn_keras import export_saved_model
        from bn_keras.models import BNInception

        keras.utils.set_random_seed(0)
        export_saved_model(BNInception(**network), f"{folder}/models/bn_inception")
        cases += [
            case._replace(batch=batch) for case in (NETWORK, PIXELS) for batch in (1, 8)
        ]
    (folder / "requests").mkdir()
    for case in cases:
        path = f"{folder}/models/{case.model}/1"
        function = tf.saved_model.load(path).signatures[case.signature]
        (name,) = function.structured_input_signature[1]
        array = _array(case, None if network is None else network["input_shape"])
        stem = folder / "requests" / str(case)
        np.savez(f"{stem}.npz", allow_pickle=False, **{name: array})
        # The answer, with which every contender's is compared.
        (answer,) = function(**{name: tf.constant(array)}).values()
        np.save(f"{stem}.answer.npy", answer.numpy())
        Path(f"{stem}.predict").write_bytes(_predict_request(case, name, array))


def _array(case, image):
    generator = np.random.default_rng(case.batch)
    if case.model == TEXT.model:
        if case.signature == TEXT.signature:
            return np.full(case.batch, b"some bytes")
        return generator.random((case.batch, 4), np.float32)
    pixels = generator.integers(0, 256, (case.batch, *image), np.uint8)
    if case.signature == PIXELS.signature:
        return pixels
    return pixels.astype(np.float32) / 255


def _predict_request(case, name, array):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(inputs={name: tf.make_tensor_proto(array)})
    request.model_spec.name = case.model
    request.model_spec.signature_name = case.signature
    return request.SerializeToString()
