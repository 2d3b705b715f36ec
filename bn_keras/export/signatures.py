"""One flat graph of constants with every signature that TensorFlow Serving calls.

Knows TensorFlow's graphs; no files, no version numbers, no labels' origin.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras import tree

from bn_keras.export.contract import Spec
from bn_keras.export.decoding import IMAGE_FEATURE, decode_batch
from bn_keras.export.scanning import refuse_random_and_stateful
from bn_keras.images.pixels import rescale

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
# protobuf's limit is 2 GiB; the graph around the weights is small.
LARGEST_WEIGHTS = 2**31 - 2**26


@dataclass(frozen=True)
class Signature:
    """One way to call the graph.

    Args:
        method: TensorFlow Serving's method name.
        inputs: dict from name to `TensorInfo`.
        outputs: dict from name to `TensorInfo`.
    """

    method: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    def described(self):
        """Method, and shape and type of inputs and outputs, as JSON holds them."""
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


def build(model, contract):
    """The graph of a folded model with its signatures.

    `serving_default` takes the model's inputs. A model of images has `predict_uint8`
    too and, where the size is known, `predict_encoded`; if its one output is scores of
    classes, `classify` of `tf.Example`s. All share one copy of the weights.

    Args:
        model: a Functional `keras.Model`, for inference.
        contract: a `Contract`.

    Returns:
        `(graph_def, signatures)`: a `GraphDef` and a dict from name to `Signature`.

    Raises:
        ValueError: for a random, stateful or batch-statistics operation.
    """
    import tensorflow as tf

    core, feeds, fetches = _frozen(model, contract)
    graph = tf.Graph()
    with graph.as_default():
        constants = _shared_constants(core)

        def run(signature, tensors):
            mapping = {**constants, **dict(zip(feeds, tensors, strict=True))}
            outputs = tf.graph_util.import_graph_def(
                core, mapping, fetches, name=f"{signature}/model"
            )
            return dict(zip(contract.outputs, outputs, strict=True))

        signatures = {
            name: _signature(name, *parts)
            for name, parts in _signatures(contract, run).items()
        }
    graph_def = graph.as_graph_def()
    _forget_counters(graph_def)
    refuse_random_and_stateful(graph_def, decoding=True)
    return graph_def, signatures


def write(folder, graph_def, signatures):
    """Write `saved_model.pb` of a graph into a folder to be made.

    Equal graphs give equal bytes.

    Args:
        folder: path of the SavedModel.
        graph_def: a `GraphDef`.
        signatures: dict from name to `Signature`.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.meta_info_def.tensorflow_version = tf.__version__
    meta.graph_def.CopyFrom(graph_def)
    for name, signature in signatures.items():
        meta.signature_def[name].CopyFrom(
            meta_graph_pb2.SignatureDef(
                inputs=signature.inputs,
                outputs=signature.outputs,
                method_name=signature.method,
            )
        )
    Path(folder).mkdir()
    content = saved.SerializeToString(deterministic=True)
    (Path(folder) / "saved_model.pb").write_bytes(content)


def _signatures(contract, run):
    """Method, inputs and outputs (dicts of tensors) of every signature."""
    import tensorflow as tf

    inputs = {
        name: _checked(f"serving_default_{name}", spec)
        for name, spec in contract.inputs.items()
    }
    values = [value for _, value in inputs.values()]
    found = {
        "serving_default": (PREDICT, inputs, run("serving_default", values)),
    }
    preprocessing = contract.preprocessing
    if preprocessing is None:
        return found
    ((name, spec),) = contract.inputs.items()

    def images(pixels):
        return tf.cast(rescale(pixels, preprocessing), spec.dtype)

    pixels = _checked("predict_uint8_" + name, Spec(spec.shape, "uint8"))
    outputs = run("predict_uint8", [images(pixels[1])])
    found["predict_uint8"] = PREDICT, {name: pixels}, outputs
    if preprocessing.size is None:
        return found
    strings = Spec(spec.shape[:1], "string")
    encoded = _checked("predict_encoded_" + name, strings)
    outputs = run("predict_encoded", [images(decode_batch(encoded[1], preprocessing))])
    found["predict_encoded"] = PREDICT, {name: encoded}, outputs
    if contract.labels is None:
        return found
    examples = _checked("classify_inputs", strings)
    feature = tf.io.FixedLenFeature([], tf.string, default_value="")
    bytes_ = tf.io.parse_example(examples[1], {IMAGE_FEATURE: feature})[IMAGE_FEATURE]
    (scores,) = run("classify", [images(decode_batch(bytes_, preprocessing))]).values()
    scores, order = tf.math.top_k(tf.cast(scores, tf.float32), contract.top_k)
    outputs = {"classes": tf.gather(list(contract.labels), order), "scores": scores}
    found["classify"] = CLASSIFY, {"inputs": examples}, outputs
    return found


def _checked(name, spec):
    """A placeholder, and its value behind the checks of shape and of emptiness."""
    import tensorflow as tf

    # A placeholder without a shape: with one, the check of it could be optimized away.
    given = tf.compat.v1.placeholder(spec.dtype, None, name)
    # A wrong rank aborts the whole process in some of TensorFlow's CPU kernels.
    value = tf.ensure_shape(given, spec.shape)
    if spec.shape[0] is None:
        message = f"The input {name!r} holds no example."
        full = tf.debugging.assert_positive(tf.shape(value)[0], message=message)
        with tf.control_dependencies([full]):
            value = tf.identity(value)
    return given, value


def _signature(name, method, inputs, outputs):
    return Signature(
        method,
        {key: _info(given, value.shape) for key, (given, value) in inputs.items()},
        {key: _info(value, value.shape) for key, value in outputs.items()},
    )


def _info(tensor, shape):
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.TensorInfo(
        name=tensor.name,
        dtype=tensor.dtype.as_datatype_enum,
        tensor_shape=shape.as_proto(),
    )


def _frozen(model, contract):
    """The model as a `GraphDef` without variables, its input and its output tensors."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    size = sum(variable.value.numpy().nbytes for variable in model.variables)
    if size > LARGEST_WEIGHTS:
        raise ValueError(
            f"The weights must be at most {LARGEST_WEIGHTS:,} bytes to be constants of "
            f"a graph. Received: {size:,} bytes; export a smaller model"
        )

    def infer(*tensors):
        inputs = tree.pack_sequence_as(contract.structure, tensors)
        return tree.flatten(model(inputs, training=False))

    specs = [tf.TensorSpec(*spec) for spec in contract.inputs.values()]
    traced = tf.function(infer, autograph=False).get_concrete_function(*specs)
    # Before freezing too, which fails on an assignment without a name for it.
    refuse_random_and_stateful(traced.graph.as_graph_def(), variables=True)
    frozen = convert_variables_to_constants_v2(traced)
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:
        node.attr.pop("_class", None)  # may name a constant that is shared below
    names = [[x.name for x in tensors] for tensors in (frozen.inputs, frozen.outputs)]
    return graph_def, *names


def _shared_constants(core):
    """Import the constants of a graph once, and take them out of it."""
    import tensorflow as tf

    constants = tf.compat.v1.GraphDef(versions=core.versions)
    others = []
    awaited = {x[1:] for node in core.node for x in node.input if x.startswith("^")}
    for node in core.node:
        alone = node.op == "Const" and not node.input and node.name not in awaited
        (constants.node if alone else others).append(node)
    del core.node[:]
    core.node.extend(others)
    names = [f"{node.name}:0" for node in constants.node]
    tensors = tf.graph_util.import_graph_def(
        constants, return_elements=names, name="weights"
    )
    return dict(zip(names, tensors, strict=True))


def _counter(function):
    return int([0, *re.findall(r"\d+", function.signature.name)][-1])


def _forget_counters(graph_def):
    """Take the process's counters out of names, that equal models give equal bytes."""
    functions = graph_def.library.function
    # A function's name ends with a counter: they come in the order of their making.
    functions.sort(key=_counter)
    renamed = {
        one.signature.name: f"function_{number}" for number, one in enumerate(functions)
    }
    for one in functions:
        one.signature.name = renamed[one.signature.name]
    nodes = [*graph_def.node, *(node for one in functions for node in one.node_def)]
    for node in nodes:
        for key, attribute in node.attr.items():
            if attribute.HasField("func"):
                name = attribute.func.name
                attribute.func.name = renamed.get(name, name)
            elif key == "metadata":
                attribute.s = b""
