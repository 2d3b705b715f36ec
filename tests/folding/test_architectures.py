"""Known architectures fold as far as they can, and export to other formats."""

import re
import time
from collections import Counter

import keras
import numpy as np
import pytest
from folding_checks import fold_and_compare, inputs_of, relative_difference, roughen
from keras import applications, layers
from optional import import_optional

from benchmarks.folding import BACKBONES, build_backbone
from bn_keras import BatchNormalization
from bn_keras.folding import fold_batch_normalization
from bn_keras.models import BNInception

# Name: (side of the input, calls folded, calls left). ResNet-50 v2 normalizes before
# its convolutions, after an addition that the next block also reads: 17 calls are left.
ARCHITECTURES = {
    "ResNet50": (64, 53, 0),
    "ResNet50V2": (64, 32, 17),
    "MobileNetV2": (64, 52, 0),
    "InceptionV3": (75, 94, 0),
}
THEN_ACTIVATION = "; it precedes '...' (Activation), which it cannot pass (forward)"
REASONS = {
    "ResNet50V2": {
        f"the output of '...' is also used elsewhere (backward){THEN_ACTIVATION}": 16,
        "'...' (ZeroPadding2D) pads with zeros, so the shift would be wrong at the "
        f"border (backward){THEN_ACTIVATION}": 1,
    }
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ResNet50", marks=pytest.mark.slow),
        "ResNet50V2",
        "MobileNetV2",
        pytest.param("InceptionV3", marks=pytest.mark.slow),
    ],
)
def test_a_known_architecture_folds_as_far_as_its_graph_allows(name):
    side, folded, left = ARCHITECTURES[name]
    build = getattr(applications, name)
    options = {"classifier_activation": None, "classes": 10}
    model = build(weights=None, input_shape=(side, side, 3), **options)
    result = fold_and_compare(roughen(model, wide=False), 1e-5, folded, left)
    reasons = Counter(
        re.sub("'[^']*'", "'...'", entry.reason)
        for entry in result.report.entries
        if entry.reason
    )
    assert reasons == REASONS.get(name, {})


def test_bn_inception_folds_completely_and_about_as_fast_as_it_is_built():
    start = time.process_time()  # not the wall clock: other tests run at the same time
    model = BNInception(input_shape=(64, 64, 3))
    built = time.process_time()
    roughen(model, wide=False)
    roughened = time.process_time()
    result = fold_batch_normalization(model)
    # 1.0 to 1.3 times, a second each on an idle core; seconds alone would measure what
    # else the processor does.
    assert time.process_time() - roughened < 3 * (built - start)
    assert (result.report.folded, result.report.left) == (69, 0)
    # One kernel and one bias for each convolution, and the classifier's.
    assert result.model.count_params() == 11_178_336
    inputs = inputs_of(model, batch=1)
    assert relative_difference(model(inputs), result.model(inputs)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_of_keras_hub_folds_completely(name):
    # Not among what the gate installs: it needs packages that nothing else here does.
    pytest.importorskip("keras_hub")
    model = roughen(build_backbone(name, 64), wide=False)
    fold_and_compare(model, 1e-5, left=0)


@pytest.fixture(scope="module")
def folded():
    """Return a folded model with a multiply-add, inputs and the expected outputs."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(BatchNormalization()(x))
    y = layers.ReLU()(BatchNormalization(name="left")(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    model = roughen(keras.Model(inputs, layers.Dense(5)(x)), wide=False)
    fold_and_compare(model, 1e-5, folded=1, left=1)
    values = inputs_of(model)
    # Fold again: the export must not need a call that `fold_and_compare` has made.
    return fold_batch_normalization(model).model, values, np.array(model(values))


def run_onnx(model, path, values):
    """Export a model to ONNX; return its outputs and the types of its nodes."""
    import_optional("tf2onnx", "Keras needs to write ONNX")
    onnx = import_optional("onnx", "Keras needs to write ONNX")
    runtime = import_optional("onnxruntime", "runs the ONNX file")
    model.export(path, format="onnx", verbose=False)
    session = runtime.InferenceSession(path)
    outputs = session.run(None, {session.get_inputs()[0].name: values})
    return outputs, {node.op_type for node in onnx.load(path).graph.node}


# The converters raise deprecation warnings.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_export_of_a_folded_model_has_the_same_outputs(folded, tmp_path):
    model, values, expected = folded
    (actual,), kinds = run_onnx(model, tmp_path / "model.onnx", values)
    assert relative_difference(expected, actual) <= 1e-5
    assert "BatchNormalization" not in kinds


class Network(keras.Model):
    """A subclassed network, with a normalization that becomes a multiply-add."""

    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, padding="same")
        self.bn, self.left = BatchNormalization(), BatchNormalization()
        self.dense = layers.Dense(5)

    def call(self, inputs):
        x = keras.ops.relu(self.bn(self.conv(inputs)))
        x = x + keras.ops.relu(self.left(x))
        return self.dense(keras.ops.mean(x, axis=(1, 2)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_export_of_a_folded_subclassed_model_has_the_same_outputs(tmp_path):
    model = Network()
    values = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    model(values)
    result = fold_batch_normalization(roughen(model, wide=False))
    assert (result.report.folded, result.report.left) == (1, 1)
    (actual,), kinds = run_onnx(result.model, tmp_path / "model.onnx", values)
    assert relative_difference(model(values), actual) <= 1e-5
    assert "BatchNormalization" not in kinds


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_litert_export_of_a_folded_model_has_the_same_outputs(folded, tmp_path):
    litert = import_optional("ai_edge_litert.interpreter", "runs the LiteRT file")
    model, values, expected = folded
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    interpreter = litert.Interpreter(model_path=str(tmp_path / "model.tflite"))
    run = interpreter.get_signature_runner()
    (actual,) = run(**dict.fromkeys(run.get_input_details(), values)).values()
    assert relative_difference(expected, actual) <= 1e-5
