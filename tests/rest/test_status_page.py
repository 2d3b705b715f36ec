"""The status page and its form, in a headless Chromium."""

import importlib.metadata
import json
import re
import socket

import numpy as np
import pytest
import tensorflow as tf
from browser import CONTRASTS
from dispatcher_double import DispatcherDouble, RunningRestServer, signature
from PIL import Image

from bn_keras_serving.common.history import History
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.rest import status_page

MARKUP = "<script>alert(1)</script>"
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


class Clock:
    """Sets the time of a double's history of requests."""

    def __init__(self, dispatcher):
        self.now = 1e6
        dispatcher.metrics.history = History(lambda: self.now)


def with_signatures(**signatures):
    dispatcher = DispatcherDouble()
    dispatcher.signatures = signatures
    dispatcher.inputs = []
    return dispatcher


def answer_of(window):
    window.until("return document.querySelector('#answer').children.length")
    return window.text("#answer")


def rows_of(window):
    """Return the table of the answer: cells, and the width of each bar in percent."""
    window.until("return document.querySelector('#answer tbody')")
    return window.run(
        """return [...document.querySelectorAll('#answer tbody tr')].map((row) => [
            row.cells[0].innerText, row.cells[1].innerText,
            parseFloat(row.querySelector('.bar > div').style.width)])"""
    )


def test_the_page_shows_models_versions_states_errors_and_requests(window):
    dispatcher = DispatcherDouble(names=("digits", MARKUP))
    dispatcher.versions.insert(0, (3, "END", "No <b>file</b> & more"))
    metrics = dispatcher.metrics
    for microseconds in range(1000, 2000):
        metrics.record_request("digits", "Predict", "GRPC", "OK", microseconds)
    metrics.record_request("digits", "Predict", "GRPC", "UNAVAILABLE", 5.0)
    with RunningRestServer(dispatcher) as served:
        window.open(served.address)
        window.until("return document.querySelectorAll('#models section').length == 2")
        shown = window.text("#models")
        for text in (
            *("digits", MARKUP, "AVAILABLE", "END", "No <b>file</b> & more"),
            *("UNAVAILABLE", "1,000", "gRPC Predict", "1.50 ms", "1.95 ms", "1.99 ms"),
        ):
            assert text in shown
        window.run("document.querySelector('details').open = true")
        shown = window.text("#models")
        assert "x: float (any, 2)" in shown
        assert "__saved_model_init_op" not in shown
        # No text from the server has become markup.
        assert window.run("return document.querySelectorAll('script, b').length") == 1
        assert window.complaints() == []


def test_the_page_refreshes_itself_and_reports_a_stopped_server(window):
    dispatcher = DispatcherDouble(names=("digits",))
    with RunningRestServer(dispatcher) as served, window.fast_timers(30):
        window.open(served.address)
        window.until("return document.querySelector('summary')")
        window.run("document.querySelector('details').open = true")
        dispatcher.metrics.record_request("digits", "predict", "REST", "OK", 2.5e6)
        window.until(
            "return document.querySelector('#models').innerText.includes('2.50 s')"
        )
        assert window.run("return document.querySelector('details').open")
    window.until(
        "return document.querySelector('#problem').innerText.includes('not answer')"
    )
    assert "digits" in window.text("#models")
    window.complaints()  # Chromium reports the failed requests


def test_the_page_shows_the_server(window):
    dispatcher = DispatcherDouble(names=("digits",))
    clock = Clock(dispatcher)
    clock.now += 93_784
    for _ in range(18):
        dispatcher.metrics.record_request("none", "Predict", "GRPC", "NOT_FOUND", 1.0)
    clock.now += 0.5
    with RunningRestServer(dispatcher) as served:
        window.open(served.address)
        window.complaints()  # those of the page before, whose server has ended
        window.until("return document.querySelector('summary')")
        shown = window.text("#server")
        for name in ("bn-keras", "tensorflow"):
            assert f"{name} {importlib.metadata.version(name)}" in shown
        assert f"on {socket.gethostname()} for 1 d 2 h" in shown
        assert "0.3 requests a second" in shown
        title = window.run("return document.title")
        assert title == f"Served models on {socket.gethostname()}"
        assert window.complaints() == []


def test_ended_versions_are_folded_away_unless_they_should_have_been_served(window):
    dispatcher = DispatcherDouble(names=("digits",))
    dispatcher.versions = [
        (12, "END", "it fails now"),
        (11, "LOADING", ""),
        (10, "AVAILABLE", ""),
        (9, "END", ""),
        (8, "END", "it failed then"),
    ]
    with RunningRestServer(dispatcher) as served, window.fast_timers(30):
        window.open(served.address)
        window.until("return document.querySelector('summary')")
        rows = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((row) => row.cells[0].textContent)"
        )
        assert window.run(rows, "#models .scroll:first-child tbody tr")[:3] == [
            *("12", "11", "10")
        ]
        folded = "#models details:first-of-type tbody tr"
        assert window.run(rows, folded)[:2] == ["9", "8"]
        shown = window.text("#models")
        assert "Ended versions (2)" in shown
        assert "it fails now" in shown
        assert "it failed then" not in shown
        # It stays open when something changes.
        window.run("document.querySelector('details').open = true")
        dispatcher.versions[0] = (12, "AVAILABLE", "")
        window.until(
            "return !document.querySelector('#models').innerText.includes('fails now')"
        )
        assert "it failed then" in window.text("#models")
        window.open("about:blank")  # no more requests to this server


def test_the_chart_shows_percentiles_of_the_last_minutes(window):
    dispatcher = DispatcherDouble(names=("digits", "idle"))
    clock = Clock(dispatcher)
    for microseconds in (1000, None, 2000, 4000):
        if microseconds is not None:
            for _ in range(10):
                dispatcher.metrics.history.record("digits", microseconds)
        clock.now += 10
    with RunningRestServer(dispatcher) as served:
        window.open(served.address)
        window.until("return document.querySelector('.chart')")
        paths = window.run(
            "return [...document.querySelectorAll('.chart path')]"
            ".map((path) => path.getAttribute('d'))"
        )
        assert paths[0] == paths[1]  # p50 and p99 of equal latencies
        # The intervals are 300 / 29 apart. The one without an answer is a gap, and the
        # current one has no answer yet.
        points = re.findall(r"([ML])([\d.]+) ([\d.]+)h0", paths[0])
        assert [point[0] for point in points] == ["M", "M", "L"]
        np.testing.assert_allclose(
            [float(x) for _, x, _ in points], [258.6, 279.3, 289.7], atol=0.1
        )
        np.testing.assert_allclose(
            [float(y) for _, _, y in points], [45, 30, 0], atol=3
        )
        label = window.run(
            "return document.querySelector('.chart').getAttribute('aria-label')"
        )
        assert re.search(r"Latest: p99 (3|4)\.\d\d ms, p50 (3|4)\.\d\d ms", label)
        assert "No answers in the last 5 minutes" in window.text("#models")
        assert window.complaints() == []


@pytest.mark.parametrize(("width", "beside"), [(390, False), (1280, True)])
def test_the_form_stays_in_reach_with_many_models(window, width, beside):
    names = [f"model {number:02}" for number in range(40)]
    with RunningRestServer(DispatcherDouble(names=names)) as served:
        window.look(width, "light")
        window.open(served.address)
        window.until("return document.querySelectorAll('#models section').length == 40")
        in_view = (
            "const box = document.querySelector('#text').getBoundingClientRect();"
            "return box.top >= 0 && box.bottom <= innerHeight && box.width > 200"
        )
        jump = "return document.querySelector('#jump').checkVisibility()"
        assert window.run(jump) is not beside
        if beside:
            assert window.run(in_view)
        else:
            assert not window.run(in_view)
            window.run("document.querySelector('#jump').click()")
            window.until(in_view)
        # From the middle of the page, for a certain model.
        window.run(
            "const button = document.querySelectorAll('#models .title button')[17];"
            "button.scrollIntoView(); button.click()"
        )
        window.until(in_view)
        assert window.run("return document.querySelector('#model').value") == names[17]
        focused = window.run("return document.activeElement.id")
        assert focused == "try-title"
        window.command("Emulation.clearDeviceMetricsOverride")


def test_a_picture_is_sent_unchanged_if_the_model_decodes_it(window, picture):
    dispatcher = with_signatures(
        serving_default=signature({"x": IMAGE}, {"y": SCORES}),
        predict_encoded=signature({"image": (tf.string, [None])}, {"y": SCORES}),
    )
    dispatcher.functions["predict_encoded"] = lambda image: (
        dispatcher.inputs.extend(image),
        {"y": np.array([[0.25, 1.0, -0.5, np.nan]], np.float32)},
    )[1]
    with RunningRestServer(dispatcher) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-image').hidden")
        window.type("#file", str(picture))
        window.run("document.querySelector('#file').focus()")
        window.press(TAB, ENTER)
        # NaN cannot be drawn as a bar.
        assert "NaN" in answer_of(window)
        dispatcher.functions["predict_encoded"] = lambda image: {
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
        assert dispatcher.inputs == [picture.read_bytes()]
        assert window.complaints() == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_scaled_to_the_model_otherwise(window, picture, channels):
    image = (tf.float32, [None, 4, 6, channels])
    dispatcher = with_signatures(
        serving_default=signature({"image": image}, {"y": SCORES})
    )
    dispatcher.functions[""] = lambda image: (
        dispatcher.inputs.append(image),
        {
            "scores": np.array([[0.25, 0.75]], np.float32),
            "classes": np.array([[b"cat", MARKUP.encode()]], np.object_),
        },
    )[1]
    with RunningRestServer(dispatcher) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-image').hidden")
        assert re.search(r"scaled to 6 \W 4 pixels", window.text("#how"))
        window.run("document.querySelector('#try button').click()")
        assert answer_of(window) == "Choose an image first."
        window.type("#file", str(picture))
        window.run("document.querySelector('#try button').click()")
        assert rows_of(window) == [
            [MARKUP, "0.7500", 100],
            ["cat", "0.2500", pytest.approx(100 / 3, abs=0.01)],
        ]
        (sent,) = dispatcher.inputs
        with Image.open(picture) as image:
            small = np.asarray(image.resize((6, 4), Image.Resampling.NEAREST)) / 255
        if channels == 1:
            small = small @ [[0.299], [0.587], [0.114]]
        np.testing.assert_allclose(sent, small[None], atol=1e-6)
        assert window.complaints() == []


def test_other_models_accept_json(window):
    with RunningRestServer(DispatcherDouble()) as served:
        window.open(served.address)
        window.until("return !document.querySelector('#by-text').hidden")
        # The example is one that the model accepts.
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
        window.complaints()  # Chromium reports the 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_readable(window, width, scheme):
    dispatcher = DispatcherDouble(names=("digits", "x" * 200))
    dispatcher.versions.insert(0, (3, "END", "E" * 500))
    dispatcher.metrics.record_request("digits", "Predict", "GRPC", "OK", 1500.0)
    with RunningRestServer(dispatcher) as served:
        window.look(width, scheme)
        window.open(served.address)
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
            ".filter((field) => !field.labels.length).length"
        )
        assert unlabelled == 0
        window.command("Emulation.clearDeviceMetricsOverride")


@pytest.mark.fast
def test_the_page_loads_nothing_from_other_servers():
    text = status_page.page().decode()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#|status\.json)""", text) == []
    assert "http" not in text
    assert "innerHTML" not in text
    policy = status_page.HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.fast
def test_status_json_agrees_with_the_protocol():
    dispatcher = DispatcherDouble(names=("b", "a"), error="it failed")
    dispatcher.metrics.record_request("a", "Predict", "GRPC", "OK", 5.0)
    dispatcher.metrics.record_request("no", "Predict", "GRPC", "NOT_FOUND", 5.0)
    status = json.loads(status_page.status_json(dispatcher))
    assert [model["name"] for model in status["models"]] == ["a", "b"]
    assert status["unknown_models"] == {"NOT_FOUND": 1}
    assert status["server"]["requests_per_second"] > 0
    assert status["server"]["uptime_seconds"] >= 0
    first = status["models"][0]
    assert first["versions"] == [
        {"version": "2", "state": "AVAILABLE", "error": ""},
        {"version": "1", "state": "END", "error": "it failed"},
    ]
    assert first["requests"] == {"OK": 1}
    assert first["latencies"][0]["p50"] == 5.0
    assert first["history"]["requests"][-1] == 1
    assert status["models"][1]["history"] is None
    assert first["signatures"]["serving_default"] == {
        "method": "predict",
        "inputs": {"x": {"type": "float", "shape": [None, 2]}},
        "outputs": {"y": {"type": "float", "shape": [None, 2]}},
    }


@pytest.mark.fast
def test_a_model_without_metadata_is_listed_without():
    dispatcher = DispatcherDouble()

    def fail(*_, **__):
        raise StatusError(None, "no")

    dispatcher.answer = fail
    (model,) = json.loads(status_page.status_json(dispatcher))["models"]
    assert (model["versions"], model["signatures"]) == ([], {})
