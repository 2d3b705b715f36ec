"""Prove an export before anybody can load it.

Knows the loader that TensorFlow Serving uses, and how to ask a Keras model; not how
the graph came about.
"""

import numpy as np
from keras import tree

from bn_keras.export.decoding import decode_batch
from bn_keras.export.samples import (
    draw_samples,
    examples_of,
    picture_samples,
    pixel_samples,
)
from bn_keras.images.pixels import rescale

# Largest difference that rounding explains, in units of an output's largest value.
_TOLERANCES = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4, "float64": 1e-8}


def answers(model, contract, inputs):
    """What a Keras model answers, as a flat list of arrays."""
    from keras import ops

    tensors = [ops.convert_to_tensor(array) for array in inputs]
    outputs = model(tree.pack_sequence_as(contract.structure, tensors), training=False)
    return [np.asarray(ops.convert_to_numpy(one)) for one in tree.flatten(outputs)]


class Loaded:
    """A SavedModel in a session, as TensorFlow Serving loads it.

    Args:
        path: folder of the SavedModel.
    """

    def __init__(self, path):
        import tensorflow as tf

        # tf.compat.v1.saved_model.loader.load without its note that it is old.
        from tensorflow.python.saved_model.loader_impl import SavedModelLoader

        self.session = tf.compat.v1.Session(graph=tf.Graph())
        self.graph = SavedModelLoader(str(path)).load(self.session, ["serve"])

    def __enter__(self):
        """Lend the session."""
        return self

    def __exit__(self, *_):
        """Close the session."""
        self.session.close()

    def run(self, signature, inputs):
        """Dict from output name to array, for a dict from input name to array."""
        signature = self.graph.signature_def[signature]
        feeds = {signature.inputs[name].name: x for name, x in inputs.items()}
        fetches = {name: info.name for name, info in signature.outputs.items()}
        return self.session.run(fetches, feeds)


def compare(path, model, contract, samples, tolerance=None, reference=None):
    """Ask every signature of a SavedModel and the Keras model the same.

    Args:
        path: folder of the SavedModel.
        model: the Keras model as it was given.
        contract: a `Contract`.
        samples: flat list of input arrays.
        tolerance: largest difference allowed, in units of the largest value of an
            output; None for what rounding in the model's precision explains.
        reference: the answers to the samples if they are known, a flat list.

    Returns:
        Dict from signature to dict from output to the largest difference, in units of
        the output's largest value.

    Raises:
        ValueError: for a larger difference, or an answer that depends on the other
            examples in the batch.
    """
    if tolerance is None:
        dtypes = {layer.compute_dtype for layer in model.layers} & _TOLERANCES.keys()
        tolerance = max((_TOLERANCES[one] for one in dtypes), default=1e-4)
    if reference is None:
        reference = answers(model, contract, samples)
    expected = dict(zip(contract.outputs, reference, strict=True))
    differences = {}

    def judge(signature, actual, expected):
        found = {
            name: difference(actual[name], value) for name, value in expected.items()
        }
        differences[signature] = found
        for name, value in found.items():
            if "float" in expected[name].dtype.name and not _any_finite(expected[name]):
                raise ValueError(
                    "The model must answer the samples with a finite number, to "
                    f"compare with. Received: none in {name!r} of {signature!r}; "
                    "nothing was published"
                )
            if not value <= tolerance:
                raise ValueError(
                    f"The export must answer as the model does, within {tolerance:g} "
                    f"of the output's largest value. Received: a difference of "
                    f"{value:.3g} in {name!r} of {signature!r}; nothing was published"
                )

    with Loaded(path) as loaded:
        inputs = dict(zip(contract.inputs, samples, strict=True))
        judge("serving_default", loaded.run("serving_default", inputs), expected)
        drawn = dict(zip(contract.inputs, draw_samples(contract), strict=True))
        company = {
            # Copies of itself; one example alone meets others instead.
            name: np.repeat(x[:1], len(x), axis=0)
            if len(x) > 1
            else np.concatenate([x, drawn[name][1:].astype(x.dtype)])
            for name, x in inputs.items()
        }
        _refuse_company(
            contract, loaded.run("serving_default", company), expected, tolerance
        )
        if contract.preprocessing is None:
            return differences
        _compare_images(loaded, model, contract, len(samples[0]), judge)
    return differences


def difference(actual, expected):
    """The largest difference of two arrays, in units of the second's largest value.

    Infinite where one is infinite or no number and the other is not the same.
    """
    if "float" not in np.asarray(expected).dtype.name:
        return 0.0 if np.array_equal(actual, expected) else np.inf
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    if actual.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.inf
    if not np.isfinite(actual[finite]).all():
        return np.inf
    largest = np.abs(expected[finite]).max(initial=0.0)
    gap = np.abs(actual[finite] - expected[finite]).max(initial=0.0)
    return float(gap / largest if largest else gap)


def _any_finite(values):
    return np.isfinite(np.asarray(values, np.float64)).any()


def _compare_images(loaded, model, contract, count, judge):
    import tensorflow as tf

    ((name, spec),) = contract.inputs.items()
    preprocessing = contract.preprocessing

    def expected(pixels):
        inputs = tf.cast(rescale(pixels, preprocessing), spec.dtype).numpy()
        found = answers(model, contract, [inputs])
        return dict(zip(contract.outputs, found, strict=True))

    pixels = pixel_samples(contract, count)
    judge(
        "predict_uint8", loaded.run("predict_uint8", {name: pixels}), expected(pixels)
    )
    if preprocessing.size is None:
        return
    files = picture_samples(contract, count)
    wanted = expected(decode_batch(tf.constant(files), preprocessing))
    found = loaded.run("predict_encoded", {name: np.array(files, object)})
    judge("predict_encoded", found, wanted)
    if contract.labels is None:
        return
    found = loaded.run("classify", {"inputs": np.array(examples_of(files), object)})
    (scores,) = wanted.values()
    scores = np.asarray(scores, np.float32)
    best = -np.sort(-scores, axis=1)[:, : contract.top_k]
    # Classes of equal score may come in another order, and two classes may have one
    # label: what is compared is the score that a label stands for.
    labels = np.array([label.encode() for label in contract.labels], object)
    meant = np.zeros_like(best)
    for (row, place), label in np.ndenumerate(found["classes"]):
        those = scores[row, labels == label]
        meant[row, place] = those[np.abs(those - best[row, place]).argmin()]
    judge(
        "classify",
        {"scores": found["scores"], "classes": meant},
        {"scores": best, "classes": best},
    )


def _refuse_company(contract, actual, expected, tolerance):
    # The first example must be answered as before, whoever shares its batch now; so
    # must an output without an axis of examples.
    for name, spec in contract.outputs.items():
        by_example = bool(spec.shape) and spec.shape[0] is None
        own = slice(1) if by_example else ...
        gap = difference(actual[name][own], expected[name][own])
        if not gap <= tolerance:
            raise ValueError(
                "The answer to an example must not depend on the others in its "
                f"batch. Received: {name!r} differs by {gap:.3g} of its largest "
                "value when they change; a layer uses statistics of the batch"
            )
