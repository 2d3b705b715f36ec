"""int8 and bfloat16 exports: every signature, the manifest, equal bytes, refusals."""

import json

import keras
import numpy as np
import pytest
from export_checks import LoadedExport, image_model
from PIL import Image
from processor import VNNI

from bn_keras import export_saved_model
from bn_keras.cli import command_line
from bn_keras.export import read_manifest
from bn_keras.export.samples import encode_examples

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (64, 12, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return image_model(classes=10, side=12)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    return export_saved_model(
        model,
        folder,
        precision="int8",
        calibration=PIXELS,
        accuracy=0.8,
        reduce_range=not VNNI,
    )


def png(pixels, tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(pixels).save(file)
    return file.read_bytes()


def test_all_signatures_give_the_float_models_outputs(model, path, tmp_path):
    loaded = LoadedExport(path)
    inputs = np.float32(PIXELS[:8]) / 255
    expected = model.predict(inputs, verbose=0)
    answers = [
        loaded("serving_default", image=inputs)["scores"],
        loaded("predict_uint8", image=PIXELS[:8])["scores"],
    ]
    files = [png(x, tmp_path) for x in PIXELS[:8]]
    answers.append(loaded("predict_encoded", image=np.array(files, object))["scores"])
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=0.02 * expected.max())
    examples = np.array(encode_examples(files), object)
    best = loaded("classify", inputs=examples)["scores"]
    np.testing.assert_allclose(best, -np.sort(-answers[0])[:, :5], atol=1e-6)


def test_the_graph_computes_in_int8(path):
    operations = [node.op for node in LoadedExport(path).nodes()]
    assert operations.count("_FusedQuantizedConv2D") == 4
    assert operations.count("_QuantizedMatMul") == 4
    assert "Conv2D" not in operations
    assert "MatMul" not in operations


def test_the_manifest_says_how_the_scales_were_chosen_and_how_exact_it_is(path):
    facts = read_manifest(path)
    assert facts["precision"] == "int8"
    quantization = facts["quantization"]
    bits = "" if VNNI else ", weights in 7 bits"
    assert quantization["calibration"] == f"max of 32 examples{bits}"
    assert quantization["examples"] == 32
    assert quantization["bound"] == 0.8
    assert quantization["bound"] <= quantization["score"] <= 1
    assert 0 < quantization["relative_error"] < 0.05
    assert quantization["int8_share"] == 1
    assert {x["outcome"] for x in quantization["layers"]} == {"int8", "float"}
    assert set(facts["compared"]["differences"]) == set(facts["signatures"])


@pytest.mark.parametrize("constants", [False, True])
def test_equal_models_and_examples_give_equal_bytes(tmp_path, constants):
    images = DRAW.random((32, 40, 40, 3), np.float32)
    contents = []
    for _ in range(2):
        keras.backend.clear_session()  # names are numbered from 0 again
        path = export_saved_model(
            image_model(classes=10, side=40),
            tmp_path / "m",
            precision="int8",
            calibration=images,
            accuracy=0.5,
            constants=constants,
        )
        files = sorted(x for x in path.rglob("*") if x.is_file())
        contents.append({x.relative_to(path): x.read_bytes() for x in files})
    assert contents[0] == contents[1]
    assert any("variables" in str(name) for name in contents[0]) is not constants


def test_int8_weights_are_a_quarter_and_bfloat16_weights_half(tmp_path):
    inputs = keras.Input((64,), name="x")
    x = keras.layers.Dense(1024, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(64)(x))
    rows = DRAW.normal(size=(64, 64)).astype("float32")
    sizes = {}
    for precision in ("float32", "bfloat16", "int8"):
        options = {"calibration": rows, "accuracy": 0.9, "reduce_range": not VNNI}
        options = options if precision == "int8" else {}
        path = export_saved_model(
            model, tmp_path / precision, precision=precision, **options
        )
        sizes[precision] = read_manifest(path)["weights"]["bytes"]
        assert read_manifest(path)["precision"] == precision
    # The last layer stays in float32; scales and biases have 4 bytes.
    assert sizes["bfloat16"] < 0.77 * sizes["float32"]
    assert sizes["int8"] < 0.3 * sizes["float32"]


def test_bfloat16_rounds_all_layers_but_the_last(tmp_path):
    model = image_model(classes=10, side=12)
    path = export_saved_model(model, tmp_path / "m", precision="bfloat16")
    loaded = LoadedExport(path)
    inputs = np.float32(PIXELS[:8]) / 255
    actual = loaded(image=inputs)["scores"]
    expected = model.predict(inputs, verbose=0)
    assert actual.dtype == np.float32
    assert 0 < np.abs(actual - expected).max() < 0.02
    types = {
        node.op: node.attr["T"].type
        for node in loaded.nodes()
        if node.op in ("Conv2D", "MatMul")
    }
    assert types == {"Conv2D": 14, "MatMul": 1}  # bfloat16 and float32
    assert read_manifest(path)["quantization"] is None


def test_nothing_is_published_that_misses_its_bound(tmp_path):
    # Two classes that differ by less than int8 can show.
    inputs = keras.Input((8, 8, 3), name="image")
    layer = keras.layers.Conv2D(2, 3)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    kernel = DRAW.normal(size=(3, 3, 3, 1)).repeat(2, axis=3)
    kernel[..., 1] += 1e-5 * DRAW.normal(size=(3, 3, 3))
    layer.set_weights([kernel, np.zeros(2)])
    images = DRAW.normal(size=(128, 8, 8, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"top-1 agreement of at least 0\.98.*0\.\d+ "):
        export_saved_model(model, tmp_path / "m", precision="int8", calibration=images)
    assert list((tmp_path / "m").iterdir() if (tmp_path / "m").exists() else []) == []
    with pytest.warns(UserWarning, match="no bound was set"):
        export_saved_model(
            model, tmp_path / "m", precision="int8", calibration=images, accuracy=0
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "`calibration` must be passed with precision='int8'"),
        ({"calibration": PIXELS}, "`calibration` must be passed with"),
        ({"precision": "int4"}, "`precision` must be"),
        ({"precision": "int8", "calibration": PIXELS, "accuracy": 2}, "`accuracy`"),
        ({"precision": "int8", "calibration": PIXELS[:1]}, "two examples"),
        ({"precision": "int8", "calibration": PIXELS[:, :5]}, "shapes"),
        (
            {"precision": "int8", "calibration": np.full((4, 12, 12, 3), np.nan)},
            "NaN or infinity in 4 of 4",
        ),
        ({"precision": "int8", "calibration": "no-such-file.npy"}, "no-such-file"),
        ({"precision": "int8", "calibration": PIXELS.astype(int)}, "type int64"),
        ({"precision": "int8", "calibration": (PIXELS, np.ones(64))}, r"\(64,\)"),
        ({"precision": "int8", "calibration": __file__}, "which is neither"),
        (
            {"reduce_range": True},
            r"`reduce_range` must only be passed with precision='int8'\. .*'float32'",
        ),
        ({"accuracy": 0.9}, "`accuracy` must only be passed with precision='int8'"),
        ({"precision": "bfloat16", "calibration_method": "mse"}, "'bfloat16'"),
    ],
)
def test_wrong_options_are_refused(model, tmp_path, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        export_saved_model(model, tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_calibration_may_be_files_data_sets_and_generators(model, tmp_path):
    import tensorflow as tf

    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    np.save(tmp_path / "pixels.npy", PIXELS)
    inputs = np.float32(PIXELS) / np.float32(255)
    data = tf.data.Dataset.from_tensor_slices((inputs, np.zeros(64))).batch(10)
    sources = {
        "folder": tmp_path / "images",
        "file": str(tmp_path / "pixels.npy"),
        "data set": data,
        "generator": (inputs[i : i + 7] for i in range(0, 64, 7)),
        "list of batches": [PIXELS[:40], PIXELS[40:]],
        "list of images": list(PIXELS),
        "dictionary": {"image": PIXELS},
        "data set of dictionaries": data.map(lambda x, _: {"image": x * 255}).map(
            lambda x: {"image": tf.cast(tf.round(x["image"]), tf.uint8)}
        ),
        "generator of pairs": ((PIXELS[i : i + 8], i) for i in range(0, 64, 8)),
    }
    scales = []
    for source in sources.values():
        path = export_saved_model(
            model, tmp_path / "m", precision="int8", calibration=source, accuracy=0.8
        )
        facts = read_manifest(path)["quantization"]
        scales.append([x["scale"] for x in facts["layers"] if x["scale"]])
    for other in scales[1:]:
        np.testing.assert_allclose(other, scales[0], rtol=1e-5)


def test_few_and_constant_examples_are_reported(model, tmp_path):
    images = np.float32(PIXELS[:8]) / 255
    images[3] = 0.5
    with pytest.warns(UserWarning, match="calibrate") as warned:
        path = export_saved_model(
            model, tmp_path / "m", precision="int8", calibration=images, accuracy=0.5
        )
    texts = [str(x.message) for x in warned]
    assert any("only 8 examples" in x for x in texts)
    assert any("1 of 8 examples to calibrate with are constant" in x for x in texts)
    assert read_manifest(path)["quantization"]["warnings"]


def test_the_command_exports_in_int8_and_bfloat16(model, tmp_path, capsys):
    file = tmp_path / "model.keras"
    model.save(file)
    np.save(tmp_path / "pixels.npy", PIXELS)
    calls = [
        ("--precision", "bfloat16"),
        *(
            ("--precision", "int8", "--accuracy", "0.8", *options)
            for options in (
                ("--calibration", str(tmp_path / "pixels.npy")),
                ("--calibration", str(tmp_path / "pixels.npy"), "--reduce-range"),
            )
        ),
    ]
    for options in calls:
        arguments = ["export", str(file), str(tmp_path / "m"), *options]
        assert command_line.main(arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [x for x in lines if x.startswith("int8: 100.0% of the multiply-adds")]
    facts = json.loads(
        (tmp_path / "m" / "3" / "assets.extra" / "manifest.json").read_text()
    )
    assert "7 bits" in facts["quantization"]["calibration"]
    arguments = ["export", str(file), str(tmp_path / "m"), "--precision", "int8"]
    assert command_line.main(arguments) == 2
    assert "`calibration` must be passed" in capsys.readouterr().err


def test_the_command_calibrates_with_a_data_set(tmp_path):
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    arguments = ["export", str(tmp_path / "model.keras"), str(tmp_path / "m")]
    arguments += ["--precision", "int8", "--calibration-data", "digits"]
    assert command_line.main([*arguments, "--accuracy", "0.8"]) == 0
    facts = read_manifest(tmp_path / "m" / "1")["quantization"]
    assert facts["calibration"] == "max of 128 examples"
