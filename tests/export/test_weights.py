"""Weights are variables in files of their own, or constants of the graph."""

import gc
import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_checks import LoadedExport, image_model, images

from bn_keras import BatchNormalization, export_saved_model
from bn_keras.export import read_manifest, weight_storage

SIDE = 40  # The dense kernel of the model then has 69 kB.
CHANGES = {
    *("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"),
    *("LookupTableImportV2", "LookupTableInsertV2", "RestoreV2", "SaveV2"),
}


@pytest.fixture(scope="module")
def model():
    return image_model(side=SIDE)


@pytest.fixture(scope="module", params=[False, True], ids=["variables", "constants"])
def exported(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    return request.param, export_saved_model(model, folder, constants=request.param)


def files(path):
    """Return the names of all files below a folder."""
    return {x.relative_to(path).as_posix() for x in path.rglob("*") if x.is_file()}


def constant_sizes(loaded):
    tensors = [x.attr["value"].tensor for x in loaded.nodes() if x.op == "Const"]
    return [np.prod([x.size for x in t.tensor_shape.dim] or [1]) for t in tensors]


def test_large_weights_are_in_their_own_files_and_small_ones_in_the_graph(exported):
    constants, path = exported
    variables = {f"variables/variables.{x}" for x in ("index", "data-00000-of-00001")}
    extra = {"assets.extra/manifest.json", "assets.extra/tf_serving_warmup_requests"}
    expected = {"saved_model.pb", *extra, *(() if constants else variables)}
    assert files(path) == expected
    loaded = LoadedExport(path)
    operations = [node.op for node in loaded.nodes()]
    assert operations.count("VarHandleOp") == (0 if constants else 1)
    assert operations.count("Conv2D") == 4  # one for each signature
    dense = 3 * (SIDE - 2) ** 2 * 4
    assert constant_sizes(loaded).count(dense) == (1 if constants else 0)
    assert constant_sizes(loaded).count(3 * 3 * 3 * 4) == 1


def test_outputs_do_not_depend_on_how_weights_are_stored(exported, model):
    _, path = exported
    expected = model.predict(images(5, SIDE), verbose=0)
    outputs = LoadedExport(path)(image=images(5, SIDE))
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-6)


def test_the_checksum_does_not_depend_on_how_weights_are_stored(model, tmp_path):
    first, second = (
        read_manifest(export_saved_model(model, tmp_path / "m", constants=constants))
        for constants in (False, True)
    )
    assert first["weights"] == second["weights"]


def test_an_answer_changes_no_variable(exported):
    _, path = exported
    loaded = LoadedExport(path)
    graph = loaded.meta.graph_def
    nodes = {node.name: node for node in graph.node}
    for signature in loaded.signatures.values():
        used, pending = set(), [x.name for x in signature.outputs.values()]
        while pending:
            name = pending.pop().removeprefix("^").partition(":")[0]
            if name not in used:
                used.add(name)
                pending += nodes[name].input
        assert {nodes[name].op for name in used}.isdisjoint(CHANGES)
    inside = {n.op for f in graph.library.function for n in f.node_def}
    assert inside.isdisjoint(CHANGES)


PROGRAM = """
import sys
sys.path.insert(0, {support!r})
import keras
from export_checks import image_model
from bn_keras import export_saved_model

for _ in range(int(sys.argv[2])):  # the functions of a process are numbered
    image_model()(keras.ops.zeros((1, 6, 6, 3)))
keras.backend.clear_session()  # but so are its layers, whose names are in the graph
keras.utils.set_random_seed(0)
text = keras.Input((3,), dtype="string", name="text")
image = keras.Input(({side}, {side}, 3), name="image")
words = [f"word {{i}}" for i in range(50)]
x = keras.layers.StringLookup(vocabulary=words)(text)
x = keras.layers.LSTM(80)(keras.layers.Embedding(51, 99)(x))
y = image_model(side={side})(image)
model = keras.Model([image, text], [x, y])
export_saved_model(model, sys.argv[1])
export_saved_model(image_model(side={side}), sys.argv[1] + "-images")
"""


@pytest.mark.slow
def test_all_files_are_equal_when_another_process_exports_the_same_model(tmp_path):
    from paths import ROOT

    program = PROGRAM.format(support=str(ROOT / "tests" / "support"), side=SIDE)
    sums = []
    for number in (0, 3):
        folder = tmp_path / str(number) / "m"
        subprocess.run(
            [sys.executable, "-c", program, str(folder), str(number)],
            check=True,
            capture_output=True,
        )
        sums.append(
            {
                f"{name} {file}": hashlib.sha256((path / file).read_bytes()).hexdigest()
                for name in ("m", "m-images")
                for path in (folder.with_name(name) / "1",)
                for file in files(path)
            }
        )
    assert sums[0] == sums[1]
    assert any("variables.data" in name for name in sums[0])


@pytest.mark.parametrize("constants", [False, True])
def test_convolution_bias_and_relu_are_one_operation(tmp_path, constants):
    inputs = keras.Input((8, 8, 32), name="image")
    x = keras.layers.Conv2D(32, 3, use_bias=False)(inputs)  # 37 kB
    normalization = BatchNormalization()
    x = keras.layers.ReLU()(normalization(x))
    normalization.beta.assign(np.linspace(0.1, 1, 32))
    model = keras.Model(inputs, x)
    loaded = LoadedExport(
        export_saved_model(model, tmp_path / "m", constants=constants)
    )
    signature = loaded.signatures["serving_default"]
    metadata = tf.compat.v1.RunMetadata()
    loaded.session.run(
        [x.name for x in signature.outputs.values()],
        {signature.inputs["image"].name: np.ones((1, 8, 8, 32), "float32")},
        tf.compat.v1.RunOptions(output_partition_graphs=True),
        metadata,
    )
    (graph,) = metadata.partition_graphs
    (convolution,) = (node for node in graph.node if "Conv2D" in node.op)
    assert list(convolution.attr["fused_ops"].list.s) == [b"BiasAdd", b"Relu"]


def test_weights_in_low_precision_are_cast_once(tmp_path):
    inputs = keras.Input((100,), name="x")
    dense = keras.layers.Dense(100, dtype="mixed_bfloat16")
    model = keras.Model(
        inputs, BatchNormalization(dtype="mixed_bfloat16")(dense(inputs))
    )
    path = export_saved_model(model, tmp_path / "m")
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    assert list(types.values()) == [tf.bfloat16]
    # What remains is the cast of the input.
    casts = [x for x in LoadedExport(path).nodes() if x.op == "Cast"]
    assert len(casts) <= 2


def test_expressions_of_weights_that_would_be_larger_are_not_evaluated(tmp_path):
    class Outer(keras.layers.Layer):
        def build(self, input_shape):
            self.vector = self.add_weight(shape=(5000,), name="vector")

        def call(self, inputs):
            table = self.vector[:, None] * self.vector[None, :100]
            return inputs @ table

    inputs = keras.Input((5000,), name="x")
    model = keras.Model(inputs, Outer()(inputs))
    path = export_saved_model(model, tmp_path / "m")
    assert read_manifest(path)["weights"]["bytes"] < 3 * 5000 * 4


def test_constants_of_more_than_a_file_holds_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_storage, "LARGEST_CONSTANTS", 10_000)
    message = r"at most 10,000 bytes\. Received: 69,\d\d\d bytes.*without `constants"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "m", constants=True)
    export_saved_model(model, tmp_path / "m")


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_the_variables_of_a_loaded_export_are_released_with_it(tmp_path):
    inputs = keras.Input((2000,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2000)(inputs))  # 16 MB
    path = export_saved_model(model, tmp_path / "m")

    def load():
        loaded = tf.saved_model.load(str(path))
        loaded.signatures["serving_default"](x=tf.zeros((1, 2000)))
        del loaded
        gc.collect()

    load()
    before = resident_megabytes()
    for _ in range(12):
        load()
    assert resident_megabytes() - before < 100
