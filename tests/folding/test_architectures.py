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


def test_bn_inception_folds_completely_in_under_two_seconds():
    model = roughen(BNInception(input_shape=(64, 64, 3)), wide=False)
    start = time.process_time()  # not the wall clock: other tests run at the same time
    result = fold_batch_normalization(model)
    assert time.process_time() - start < 2
    assert (result.report.folded, result.report.left) == (69, 0)
    # One kernel and one bias for each convolution, and the classifier's.
    assert result.model.count_params() == 11_178_336
    inputs = inputs_of(model, batch=1)
    assert relative_difference(model(inputs), result.model(inputs)) <= 1e-5


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


# The converters raise deprecation warnings.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_export_of_a_folded_model_has_the_same_outputs(folded, tmp_path):
    import_optional("onnx", "Keras needs to write ONNX")
    import_optional("tf2onnx", "Keras needs to write ONNX")
    runtime = import_optional("onnxruntime", "runs the ONNX file")
    model, values, expected = folded
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (actual,) = session.run(None, {session.get_inputs()[0].name: values})
    assert relative_difference(expected, actual) <= 1e-5


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
