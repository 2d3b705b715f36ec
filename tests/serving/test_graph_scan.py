"""Graphs that use files are refused, and which inputs a graph does not check itself."""

import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from serving_examples import write_version_1
from serving_models import function, write
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels

from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.servable.graph_scan import GraphScan
from bn_keras_serving.servable.operations import (
    ABORTING_OPERATIONS,
    FILE_ATTRIBUTES,
    FILE_OPERATIONS,
)
from bn_keras_serving.servable.servable import Servable

v1 = tf.compat.v1
TEXT = ([], tf.string)
WORDS = ([None], tf.string)
ROWS = ([None, 4], tf.float32)

# Words in the name of an argument or attribute that suggest a file or an address.
SUGGESTIVE = re.compile(
    r"(^|_)(files?|filenames?|patterns?|paths?|dirs?|logdir|directory|prefix|prefixes"
    r"|address|urls?|uri|host|server|ckpt|vocab|source|stream|target|graph|token"
    r"|region|protocol|query|library|program|socket|port)(_|$)"
)
# Operations with such a name that use no files. Mostly, the word means something else.
HARMLESS = {
    "ApproxTopK": "`recall_target` is a number",
    "CTCBeamSearchDecoder": "`top_paths` is a number",
    "CollectiveAllToAllV2": "`ordering_token` orders collectives",
    "CollectiveGatherV2": "`ordering_token` orders collectives",
    "CollectiveReduceScatterV2": "`ordering_token` orders collectives",
    "CollectiveReduceV2": "`ordering_token` orders collectives",
    "CudnnRNNBackpropV2": "`host_reserved` is a tensor",
    "CudnnRNNBackpropV3": "`host_reserved` is a tensor",
    "ExperimentalSetStatsAggregatorDataset": "`counter_prefix` names statistics",
    "NegTrain": "`vocab_count` is a list of numbers",
    "RegexFullMatch": "`pattern` is a regular expression",
    "RegexReplace": "`pattern` is a regular expression",
    "SetStatsAggregatorDataset": "`counter_prefix` names statistics",
    "StaticRegexFullMatch": "`pattern` is a regular expression",
    "StaticRegexReplace": "`pattern` is a regular expression",
    "TensorArrayGrad": "`source` names a gradient",
    "TensorArrayGradV2": "`source` names a gradient",
    "TensorArrayGradV3": "`source` names a gradient",
    "TensorArrayGradWithShape": "`source` names a gradient",
    "TensorSliceDataset": "`is_files` is a hint for sharding",
    "XlaCallModule": "`has_token_input_output` is a switch",
    "XlaCustomCall": "`target_name` names a function of the process",
    "XlaCustomCallV2": "`call_target_name` names a function of the process",
    "XlaSelectAndScatter": "`source` is a tensor",
    "_FusedConv2D": "`host_args` are tensors",
    "_FusedQuantizedConv2D": "`host_inputs` are tensors",
    "_FusedQuantizedDepthwiseConv2D": "`host_inputs` are tensors",
    "_MklNativeFusedConv2D": "`host_args` are tensors",
    "_QuantizedMatMul": "`host_inputs` are tensors",
}


@pytest.fixture(scope="module")
def registered():
    """Every operation that TensorFlow has, by name."""
    buffer = pywrap_tf_session.TF_GetAllOpList()
    operations = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(buffer))
    return {operation.name: operation for operation in operations.op}


def test_every_listed_operation_exists(registered):
    for listed in (ABORTING_OPERATIONS, FILE_OPERATIONS, FILE_ATTRIBUTES, HARMLESS):
        assert set(listed) - set(registered) == set()
    for name, (attribute, _) in FILE_ATTRIBUTES.items():
        assert attribute in {attr.name for attr in registered[name].attr}


def test_every_operation_whose_arguments_suggest_a_file_is_listed(registered):
    runnable = {kernel.op for kernel in kernels.get_all_registered_kernels().kernel}
    suspects = {
        name
        for name, operation in registered.items()
        for argument in (*operation.input_arg, *operation.attr)
        if SUGGESTIVE.search(argument.name) and name in runnable
    }
    listed = FILE_OPERATIONS | FILE_ATTRIBUTES.keys()
    assert suspects - listed == set(HARMLESS)


class Module(tf.Module):
    """A model with one signature."""

    def __init__(self, python_function, **inputs):
        super().__init__()
        self.served = {"serving_default": function(python_function, **inputs)}


class WithReader(Module):
    """A model that reads a file in a second signature."""

    def __init__(self):
        super().__init__(lambda x: {"y": x + 1.0}, x=ROWS)
        self.served["extra"] = function(lambda p: {"y": tf.io.read_file(p)}, p=TEXT)


@tf.function
def read_in_function(path):
    return tf.function(tf.io.read_file, autograph=False)(path)


def after_writing(path):
    with tf.control_dependencies([tf.io.write_file(path, "written")]):
        return tf.identity(path)


def from_data_set(path):
    files = tf.data.Dataset.from_tensors(path).map(tf.io.read_file)
    return files.reduce(tf.constant(b""), lambda _, content: content)


READERS = {
    "directly": (lambda p: {"y": tf.io.read_file(p)}, "ReadFile"),
    "in a function": (lambda p: {"y": read_in_function(p)}, "ReadFile"),
    "in a branch": (
        lambda p: {
            "y": tf.cond(
                tf.strings.length(p) > 3, lambda: tf.io.read_file(p), lambda: p
            )
        },
        "ReadFile",
    ),
    "in a loop": (
        lambda p: {
            "y": tf.while_loop(
                lambda i, _: i < 1,
                lambda i, text: (i + 1, tf.io.read_file(text)),
                (0, p),
            )[1]
        },
        "ReadFile",
    ),
    "in the condition of a loop": (
        lambda p: {
            "y": tf.while_loop(
                lambda text: tf.io.read_file(text) == "again", lambda text: text, (p,)
            )[0]
        },
        "ReadFile",
    ),
    "for each element": (
        lambda p: {
            "y": tf.map_fn(tf.io.read_file, p[None], fn_output_signature=tf.string)
        },
        "ReadFile",
    ),
    "in a data set": (lambda p: {"y": from_data_set(p)}, "ReadFile"),
    "as a data set": (
        lambda p: {
            "y": tf.data.TextLineDataset(p).reduce(b"", lambda old, line: old + line)
        },
        "TextLineDataset",
    ),
    "by a control dependency": (lambda p: {"y": after_writing(p)}, "WriteFile"),
    "by listing": (lambda p: {"y": tf.io.matching_files(p)}, "MatchingFiles"),
    "by printing": (
        lambda p: {"y": printed(p, "file:///tmp/printed-by-a-model")},
        "PrintV2",
    ),
    "by Python": (
        lambda p: {"y": tf.numpy_function(lambda path: path, [p], tf.string)},
        "PyFunc",
    ),
    "from a checkpoint": (
        lambda p: {
            "y": tf.raw_ops.RestoreV2(
                prefix=p, tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32]
            )[0]
        },
        "RestoreV2",
    ),
}


def printed(text, stream):
    with tf.control_dependencies([tf.print("shown", output_stream=stream)]):
        return tf.identity(text)


@pytest.mark.parametrize("way", READERS)
def test_a_signature_that_uses_files_is_refused(tmp_path, way):
    build, operation = READERS[way]
    path = write(Module(build, p=TEXT), tmp_path, 1)
    message = rf"'serving_default' with the operation {operation} \(node .*--allow_file"
    with pytest.raises(ValueError, match=message):
        Servable(1, path)


def test_the_option_allows_to_use_files(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("contents")
    path = write(WithReader(), tmp_path, 1)
    with pytest.raises(ValueError, match="'extra' with the operation ReadFile"):
        Servable(1, path)
    servable = Servable(1, path, loading=Loading(allow_file_operations=True))
    sent = {"p": np.array(str(secret).encode(), object)}
    assert servable.signature("extra").run(sent)["y"] == b"contents"


@pytest.mark.parametrize("stream", [sys.stderr, sys.stdout, v1.logging.info])
def test_printing_to_the_log_is_allowed(tmp_path, stream):
    model = Module(lambda p: {"y": printed(p, stream)}, p=TEXT)
    assert Servable(1, write(model, tmp_path, 1)).signatures


def keras_export(directory):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.export(directory, verbose=False)
    return {"serving_default": np.ones((1, 4), np.float32)}


def string_lookup(directory):
    vocabulary = directory.parent / "vocabulary.txt"
    vocabulary.write_text("a\nb\n")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            *(tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
        ),
        -1,
    )
    module = Module(lambda x: {"y": table.lookup(x)}, x=WORDS)
    module.table = table
    tf.saved_model.save(module, str(directory), signatures=dict(module.served))
    vocabulary.unlink()  # the SavedModel has a copy
    return {"serving_default": np.array([b"b", b"?"], object)}


def saved_with_assets(directory):
    """Save a model like `half_plus_two`, with a file that only a variable names."""
    asset = directory.parent / "foo.txt"
    asset.write_text("asset-file-contents")
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, name="x")
        a = v1.get_variable("a", initializer=0.5, use_resource=False)
        name = tf.constant(str(asset))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, name)
        variable = v1.get_variable("name", initializer="", use_resource=False)
        assign = variable.assign(name)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": a * x + 2.0})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=assign.op,
        )
        builder.save()
    return {"serving_default": np.ones(3, np.float32)}


def of_tensorflow_1(directory):
    write_version_1(directory.parent, int(directory.name))
    return {"serving_default": np.ones((1, 4), np.float32)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "save", [keras_export, string_lookup, saved_with_assets, of_tensorflow_1]
)
def test_files_that_only_loading_and_saving_use_are_no_reason(tmp_path, save):
    path = tmp_path / "1"
    inputs = save(path)
    servable = Servable(1, path)
    for name, array in inputs.items():
        signature = servable.signature(name)
        outputs = signature.run({next(iter(signature.inputs)): array})
        assert all(len(output) == len(array) for output in outputs.values())


# Guards


def convolve(x):
    return tf.nn.conv2d(x, tf.ones((3, 3, 3, 2)), 1, "VALID")


def placeholder(shape=None, name="x"):
    return v1.placeholder(tf.float32, shape, name)


def nested(build):
    """Return a function that calls `build` in a function within a function."""
    inner = tf.function(build, autograph=False)
    return tf.function(lambda x: inner(x), autograph=False)


IMAGES = [None, 8, 8, 3]


def guarded(x):
    return convolve(tf.ensure_shape(x, IMAGES))


GUARDED = {
    "a check": guarded,
    "a check after an identity": lambda x: guarded(tf.identity(tf.identity(x))),
    "a check in a function": nested(guarded),
    "a check after an identity in a function": nested(
        lambda x: guarded(tf.identity(x))
    ),
    "two checks": lambda x: guarded(x) + guarded(x),
    "no operation that aborts": lambda x: x + 1.0,
    "no operation that aborts, in a function": nested(lambda x: x + 1.0),
}
UNGUARDED = {
    "no check": convolve,
    "no check in a function": nested(convolve),
    "one of two uses is checked": lambda x: guarded(x) + convolve(x),
    "a check of an unknown rank": lambda x: convolve(tf.ensure_shape(x, None)),
    "a check of something else": lambda x: guarded(x * 2.0),
    "an argument that is also returned": lambda x: nested(
        lambda inner: (guarded(inner), inner)
    )(x)[0],
}


def unsafe_inputs(build, shape=None):
    """Return the inputs of a graph that must be checked."""
    with v1.Graph().as_default() as graph:
        x = placeholder(shape)
        y = tf.identity(build(x), "y")
    signature = meta_graph_pb2.SignatureDef()
    signature.inputs["image"].name = x.name
    signature.outputs["y"].name = y.name
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph.as_graph_def())
    return GraphScan(meta_graph).unsafe_inputs(signature)


@pytest.mark.parametrize("way", GUARDED)
def test_a_graph_that_checks_its_input_is_safe(way):
    assert unsafe_inputs(GUARDED[way]) == set()


@pytest.mark.parametrize("way", UNGUARDED)
def test_a_graph_that_does_not_check_its_input_is_unsafe(way):
    assert unsafe_inputs(UNGUARDED[way]) == {"image"}


def test_a_check_of_a_placeholder_of_known_shape_does_not_count():
    # An optimization may remove it, since it trusts the shape of the placeholder.
    assert unsafe_inputs(guarded, IMAGES) == {"image"}


def test_only_the_inputs_and_operations_that_a_signature_uses_count():
    with v1.Graph().as_default() as graph:
        image, row = placeholder(name="image"), placeholder(name="row")
        convolved, added = convolve(image), row + 1.0
        fed = tf.identity(convolved, "fed")
        after = fed + 1.0
    signature = meta_graph_pb2.SignatureDef()
    signature.inputs["row"].name = row.name
    signature.outputs["y"].name = added.name
    scan = GraphScan(meta_graph_pb2.MetaGraphDef(graph_def=graph.as_graph_def()))
    assert scan.unsafe_inputs(signature) == set()
    # What would compute a tensor that is fed does not run.
    signature.inputs["fed"].name = fed.name
    signature.outputs["z"].name = after.name
    assert scan.unsafe_inputs(signature) == set()
    signature.outputs["z"].name = convolved.name
    signature.inputs["image"].name = image.name
    assert "image" in scan.unsafe_inputs(signature)


def test_functions_that_call_one_another_are_read_once():
    graph_def = tf.Graph().as_graph_def()
    for name, other in (("f", "g"), ("g", "f")):
        body = graph_def.library.function.add()
        body.signature.name = name
        node = body.node_def.add(name="call", op="PartitionedCall")
        node.attr["f"].func.name = other
        body.node_def.add(name="write", op="WriteFile")
    graph_def.node.add(name="y", op="PartitionedCall").attr["f"].func.name = "f"
    signature = meta_graph_pb2.SignatureDef()
    signature.outputs["y"].name = "y:0"
    scan = GraphScan(meta_graph_pb2.MetaGraphDef(graph_def=graph_def))
    assert scan.file_operation(signature) == ("WriteFile", "write")
