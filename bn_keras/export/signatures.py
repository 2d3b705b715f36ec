"""Build one graph with all signatures that TensorFlow Serving calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from bn_keras.export.contract import Contract, TensorSpec
from bn_keras.export.decoding import IMAGE_FEATURE, decode_batch
from bn_keras.export.determinism import refuse_random_and_stateful
from bn_keras.export.graph_definitions import names_used, remove_counters
from bn_keras.export.tracing import trace_model
from bn_keras.export.weight_storage import WeightStorage, checksum
from bn_keras.images.pixels import rescale

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"

# A placeholder, and the tensor with its value after the checks.
CheckedInput = tuple[Any, Any]


@dataclass(frozen=True)
class ExportedSignature:
    """One way to call the graph.

    Args:
        method: TensorFlow Serving's name of the method.
        inputs: A `TensorInfo` for each input, by name.
        outputs: A `TensorInfo` for each output, by name.
    """

    method: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the method, and the shape and dtype of each input and output."""
        import tensorflow as tf

        return {"method": self.method} | {
            kind: {
                name: {
                    "shape": tf.TensorShape(info.tensor_shape).as_list(),
                    "dtype": tf.as_dtype(info.dtype).name,
                }
                for name, info in infos.items()
            }
            for kind, infos in (("inputs", self.inputs), ("outputs", self.outputs))
        }


@dataclass(frozen=True)
class ExportedGraph:
    """A graph with its signatures and weights.

    Args:
        graph_def: A `tf.compat.v1.GraphDef`.
        signatures: The signatures by name.
        storage: The weights that are not in the graph.
        checksum: The SHA-256 and the size of all weights.
    """

    graph_def: Any
    signatures: dict[str, ExportedSignature]
    storage: WeightStorage
    checksum: dict[str, Any]


def build_graph(
    model: keras.Model, contract: Contract, constants: bool = False
) -> ExportedGraph:
    """Return the graph of a folded model, with its signatures.

    `serving_default` takes the model's inputs. A model of images also has
    `predict_uint8` and, if the size is known, `predict_encoded`. If its single output
    is scores of classes, it has `classify` for `tf.train.Example`s. All signatures
    share the weights.

    Args:
        model: A Functional model, for inference.
        contract: The contract of the model.
        constants: Whether the weights are constants of the graph.

    Raises:
        ValueError: If an operation is random or stateful, or uses statistics of the
            batch.
    """
    import tensorflow as tf

    traced = trace_model(model, contract)
    graph = tf.Graph()
    with graph.as_default():
        storage = WeightStorage(constants)
        weights = storage.add(traced)
        used = names_used(traced.graph_def, traced.outputs, traced.inputs)

        def run(signature: str, tensors: Sequence[Any]) -> dict[str, Any]:
            # Each signature has its own copy of the operations, because its inputs are
            # different tensors. Only the weights are shared.
            mapping = dict(zip(traced.inputs, tensors, strict=True))
            mapping = {x: mapping[x] for x in mapping if x in used} | weights
            outputs = tf.graph_util.import_graph_def(
                traced.graph_def, mapping, traced.outputs, name=f"{signature}/model"
            )
            for output, spec in zip(outputs, contract.outputs.values(), strict=True):
                if output.shape.rank is None:  # as that of the result of a loop may be
                    output.set_shape(spec.shape)
            return dict(zip(contract.outputs, outputs, strict=True))

        signatures = _build_signatures(contract, run)
    graph_def = graph.as_graph_def()
    remove_counters(graph_def)
    outputs = [info.name for x in signatures.values() for info in x.outputs.values()]
    refuse_random_and_stateful(graph_def, outputs)
    return ExportedGraph(graph_def, signatures, storage, checksum(traced))


def write_saved_model(folder: str | PathLike[str], exported: ExportedGraph) -> None:
    """Create a folder and write a SavedModel into it.

    Equal graphs give equal bytes. The weights are released.

    Args:
        folder: Path of the SavedModel, which must not exist.
        exported: The graph.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = saved_model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.meta_info_def.tensorflow_version = tf.__version__
    meta_graph.graph_def.CopyFrom(exported.graph_def)
    exported.storage.describe(meta_graph)
    for name, signature in exported.signatures.items():
        meta_graph.signature_def[name].CopyFrom(
            meta_graph_pb2.SignatureDef(
                inputs=signature.inputs,
                outputs=signature.outputs,
                method_name=signature.method,
            )
        )
    Path(folder).mkdir()
    content = saved_model.SerializeToString(deterministic=True)
    (Path(folder) / "saved_model.pb").write_bytes(content)
    exported.storage.write(folder)


def _build_signatures(
    contract: Contract, run: Callable[[str, Sequence[Any]], dict[str, Any]]
) -> dict[str, ExportedSignature]:
    import tensorflow as tf

    inputs = {
        name: _add_input(f"serving_default_{name}", spec)
        for name, spec in contract.inputs.items()
    }
    outputs = run("serving_default", [value for _, value in inputs.values()])
    signatures = {"serving_default": _make_signature(PREDICT, inputs, outputs)}
    preprocessing = contract.preprocessing
    if preprocessing is None:
        return signatures
    ((name, spec),) = contract.inputs.items()

    def preprocess(pixels: Any) -> Any:
        return tf.cast(rescale(pixels, preprocessing), spec.dtype)

    pixels = _add_input("predict_uint8_" + name, TensorSpec(spec.shape, "uint8"))
    outputs = run("predict_uint8", [preprocess(pixels[1])])
    signatures["predict_uint8"] = _make_signature(PREDICT, {name: pixels}, outputs)
    if preprocessing.size is None:
        return signatures

    strings = TensorSpec(spec.shape[:1], "string")
    encoded = _add_input("predict_encoded_" + name, strings)
    images = preprocess(decode_batch(encoded[1], preprocessing))
    outputs = run("predict_encoded", [images])
    signatures["predict_encoded"] = _make_signature(PREDICT, {name: encoded}, outputs)
    if contract.labels is None:
        return signatures

    examples = _add_input("classify_inputs", strings)
    # An example without the feature becomes an empty file, whose position
    # `decode_batch` then reports.
    feature = tf.io.FixedLenFeature([], tf.string, default_value="")
    files = tf.io.parse_example(examples[1], {IMAGE_FEATURE: feature})[IMAGE_FEATURE]
    images = preprocess(decode_batch(files, preprocessing))
    (scores,) = run("classify", [images]).values()
    scores, order = tf.math.top_k(tf.cast(scores, tf.float32), contract.top_k)
    outputs = {"classes": tf.gather(list(contract.labels), order), "scores": scores}
    signatures["classify"] = _make_signature(CLASSIFY, {"inputs": examples}, outputs)
    return signatures


def _add_input(name: str, spec: TensorSpec) -> CheckedInput:
    """Add a placeholder to the graph, with checks that its value must pass."""
    import tensorflow as tf

    # The placeholder has no shape: TensorFlow would trust it and remove the check.
    placeholder = tf.compat.v1.placeholder(spec.dtype, None, name)
    # Some of TensorFlow's CPU kernels abort the whole process on a wrong rank.
    value = tf.ensure_shape(placeholder, spec.shape)
    if spec.shape[0] is None:
        message = f"The input {name!r} holds no example."
        is_not_empty = tf.debugging.assert_positive(tf.shape(value)[0], message=message)
        # The assertion runs only because the value depends on it.
        with tf.control_dependencies([is_not_empty]):
            value = tf.identity(value)
    return placeholder, value


def _make_signature(
    method: str, inputs: Mapping[str, CheckedInput], outputs: Mapping[str, Any]
) -> ExportedSignature:
    return ExportedSignature(
        method,
        # Clients feed the placeholder, but its shape is known only after the check.
        {
            key: _tensor_info(placeholder, value.shape)
            for key, (placeholder, value) in inputs.items()
        },
        {key: _tensor_info(value, value.shape) for key, value in outputs.items()},
    )


def _tensor_info(tensor: Any, shape: Any) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.TensorInfo(
        name=tensor.name,
        dtype=tensor.dtype.as_datatype_enum,
        tensor_shape=shape.as_proto(),
    )
