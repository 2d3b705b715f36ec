"""The status page, in a headless Chromium that drives its form."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from browser import CONTRASTS
from dispatcher_double import DispatcherDouble, RunningRestServer, signature
from PIL import Image

from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.rest import status_page

EVIL = "<script>alert(1)</script>"
SCORES = (tf.float32, [None, 4])
IMAGE = (tf.float32, [None, 4, 6, 3])
ENTER, TAB = "\ue007", "\ue004"


@pytest.fixture
def picture(tmp_path):
    """A PNG file of 12 x 8 pixels: red, but the lower half blue."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:4, :, 0] = 255
    pixels[4:, :, 2] = 255
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


def with_signatures(**signatures):
    inference = DispatcherDouble()
    inference.signatures = signatures
    inference.given = []
    return inference


def answer_of(window):
    window.until("return document.querySelector('#answer').children.length")
    return window.text("#answer")


def rows_of(window):
    """The answer's table: texts of the cells, and width of each bar in percent."""
    window.until("return document.querySelector('#answer tbody')")
    return window.run(
        """return [...document.querySelectorAll('#answer tbody tr')].map((row) => [
            row.cells[0].innerText, row.cells[1].innerText,
            parseFloat(row.querySelector('.bar > div').style.width)])"""
    )


def test_the_page_shows_models_versions_states_errors_and_requests(window):
    inference = DispatcherDouble(names=("digits", EVIL), error="No <b>file</b> & more")
    metrics = inference.metrics
    for microseconds in range(1000, 2000):
        metrics.record_request("digits", "Predict", "GRPC", "OK", microseconds)
    metrics.record_request("digits", "Predict", "GRPC", "UNAVAILABLE", 5.0)
    with RunningRestServer(inference) as served:
        window.open(served.address)
        window.until("return document.querySelectorAll('#models section').length == 2")
        shown = window.text("#models")
        for text in (
            *("digits", EVIL, "AVAILABLE", "END", "No <b>file</b> & more"),
            *("UNAVAILABLE", "1,000", "gRPC Predict", "1.50 ms", "1.95 ms", "1.99 ms"),
        ):
            assert text in shown
        window.run("document.querySelectorAll('details')[0].open = true")
        shown = window.text("#models")
        assert "x: float (any, 2)" in shown
        assert "__saved_model_init_op" not in shown
        # Nothing of the server became markup.
        assert window.run("return document.querySelectorAll('script, b').length") == 1
        assert window.complaints() == []


def test_the_page_refreshes_itself_and_says_when_the_server_is_gone(window):
    inference = DispatcherDouble(names=("digits",))
    with RunningRestServer(inference) as served:
        window.open(served.address)
        window.until("return document.querySelector('summary')")
        window.run("document.querySelector('details').open = true")
        inference.metrics.record_request("digits", "predict", "REST", "OK", 2.5e6)
        window.until(
            "return document.querySelector('#models').innerText.includes('2.50 s')"
        )
        assert window.run("return document.querySelector('details').open")
    window.until(
        "return document.querySelector('#age').innerText.includes('does not answer')"
    )
    assert "digits" in window.text("#models")
    window.complaints()


def test_a_picture_is_sent_as_it_is_where_the_model_decodes(window, picture):
    inference = with_signatures(
        serving_default=signature({"x": IMAGE}, {"y": SCORES}),
        predict_encoded=signature({"image": (tf.string, [None])}, {"y": SCORES}),
    )
    inference.functions["predict_encoded"] = lambda image: (
        inference.given.extend(image),
        {"y": np.array([[0.25, 1.0, -0.5, np.nan]], np.float32)},
    )[1]
    with RunningRestServer(inference) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-picture').hidden")
        window.type("#file", str(picture))
        window.run("document.querySelector('#file').focus()")
        window.press(TAB, ENTER)
        # NaN is no number to draw.
        assert "NaN" in answer_of(window)
        inference.functions["predict_encoded"] = lambda image: {
            "y": np.array([[0.25, 1.0, -0.5, 0.125]], np.float32)
        }
        window.run("document.querySelector('#answer').replaceChildren()")
        window.press(ENTER)
        assert rows_of(window) == [
            ["1", "1.0000", 100],
            ["0", "0.2500", 25],
            ["3", "0.1250", 12.5],
            ["2", "-0.5000", 50],
        ]
        assert inference.given == [picture.read_bytes()]
        assert window.complaints() == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_drawn_at_the_model_s_size_otherwise(window, picture, channels):
    image = (tf.float32, [None, 4, 6, channels])
    inference = with_signatures(
        serving_default=signature({"image": image}, {"y": SCORES})
    )
    inference.functions[""] = lambda image: (
        inference.given.append(image),
        {
            "scores": np.array([[0.25, 0.75]], np.float32),
            "classes": np.array([[b"cat", EVIL.encode()]], np.object_),
        },
    )[1]
    with RunningRestServer(inference) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-picture').hidden")
        assert re.search(r"drawn at 6 \W 4 and", window.text("#how"))
        window.run("document.querySelector('#try button').click()")
        assert answer_of(window) == "Choose a picture first."
        window.type("#file", str(picture))
        window.run("document.querySelector('#try button').click()")
        assert rows_of(window) == [
            [EVIL, "0.7500", 100],
            ["cat", "0.2500", pytest.approx(100 / 3, abs=0.01)],
        ]
        (given,) = inference.given
        with Image.open(picture) as one:
            small = np.asarray(one.resize((6, 4), Image.Resampling.NEAREST)) / 255
        if channels == 1:
            small = small @ [[0.299], [0.587], [0.114]]
        np.testing.assert_allclose(given, small[None], atol=1e-6)
        assert window.complaints() == []


def test_any_other_model_takes_json(window):
    with RunningRestServer(DispatcherDouble()) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-text').hidden")
        # The example is one that the model takes.
        assert window.run("return document.querySelector('#text').value") == (
            '{"instances":[{"x":[0,0]}]}'
        )
        window.run(
            "document.querySelector('#text').value = arguments[0];"
            "document.querySelector('#try button').click()",
            '{"instances": [[3, 4]]}',
        )
        assert rows_of(window) == [["1", "8", 100], ["0", "6", 75]]
        window.run(
            "document.querySelector('#answer').replaceChildren();"
            "document.querySelector('#text').value = '<i>';"
            "document.querySelector('#try button').click()"
        )
        assert answer_of(window).startswith("JSON Parse error")
        window.complaints()  # Chromium tells of the 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_and_is_readable(window, width, scheme):
    with RunningRestServer(
        DispatcherDouble(names=("digits", "x" * 200), error="E" * 500)
    ) as one:
        window.look(width, scheme)
        window.open(one.address)
        window.until("return document.querySelector('summary')")
        assert window.run(
            "const root = document.documentElement;"
            "return root.scrollWidth <= root.clientWidth"
        )
        ratios = window.run(CONTRASTS)
        assert len(ratios) > 10
        assert min(ratios) >= 4.5  # Web Content Accessibility Guidelines 2, level AA
        unlabelled = window.run(
            "return [...document.querySelectorAll('input, select, textarea')]"
            ".filter((one) => !one.labels.length).length"
        )
        assert unlabelled == 0
        window.command("Emulation.clearDeviceMetricsOverride")


def test_the_page_loads_nothing_from_elsewhere():
    text = status_page.page().decode()
    assert re.findall(r"""(?:src|href)=["'](?!data:|status\.json)""", text) == []
    assert "http" not in text
    assert "innerHTML" not in text
    policy = status_page.HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_status_json_tells_what_the_protocol_tells():
    inference = DispatcherDouble(names=("b", "a"), error="it failed")
    inference.metrics.record_request("a", "Predict", "GRPC", "OK", 5.0)
    inference.metrics.record_request("no", "Predict", "GRPC", "NOT_FOUND", 5.0)
    found = json.loads(status_page.status_json(inference))
    assert [model["name"] for model in found["models"]] == ["a", "b"]
    assert found["unknown_models"] == {"NOT_FOUND": 1}
    first = found["models"][0]
    assert first["versions"] == [
        {"version": "2", "state": "AVAILABLE", "error": ""},
        {"version": "1", "state": "END", "error": "it failed"},
    ]
    assert first["requests"] == {"OK": 1}
    assert first["latencies"][0]["p50"] == 5.0
    assert first["signatures"]["serving_default"] == {
        "method": "predict",
        "inputs": {"x": {"type": "float", "shape": [None, 2]}},
        "outputs": {"y": {"type": "float", "shape": [None, 2]}},
    }


def test_a_model_that_cannot_tell_is_shown_without():
    inference = DispatcherDouble()

    def refuse(*_, **__):
        raise StatusError(None, "no")

    inference.answer = refuse
    (model,) = json.loads(status_page.status_json(inference))["models"]
    assert (model["versions"], model["signatures"]) == ([], {})
