"""The processes that convert large documents: results, deadlines, and their ends."""

import asyncio
import functools
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from dispatcher_double import RunningRestServer, check_equal
from paths import ROOT
from served_process import wait_until

from bn_keras_serving.common.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ServerStoppingError,
    UnavailableError,
)
from bn_keras_serving.common.messages import DATA_TYPES, Input
from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.rest import json_answers, json_requests
from bn_keras_serving.rest.converters import Converters

TYPES = {
    "serving_default": {"x": DATA_TYPES["DT_FLOAT"]},
    "strings": {"x": DATA_TYPES["DT_STRING"]},
}
OPTIONS = ("identity", 2**31, TYPES)


@pytest.fixture
def converters():
    converters = Converters(1)
    yield converters
    converters.stop()


def run(converters, function, *arguments, seconds=60.0, body=None):
    call = converters.run(function, arguments, Deadline(seconds), body)
    return asyncio.run(call)


def decode(converters, document, *options):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    parts = [text[start : start + 7] for start in range(0, len(text), 7)]
    options = options or OPTIONS
    return run(converters, json_requests.decode_predict, *options, body=parts)


def process_of(converters):
    return converters._converters[0]._process


def test_inputs_are_those_that_the_server_itself_decodes(converters):
    image = np.random.default_rng(0).random((2, 40, 3)).tolist()
    for document in (
        {"instances": image},
        {"inputs": {"x": image}},
        {"inputs": 1.5},
        {"instances": [[math.nan, 1]]},
        {"instances": [{"x": []}]},
        {"signature_name": "strings", "instances": ["", "a\0b", {"b64": "/wA="}, "數"]},
        {"signature_name": "strings", "inputs": {"b64": "aGVsbG8="}},
        {"signature_name": "strings", "inputs": [[], []]},
    ):
        name, decoded = decode(converters, document)
        body = json.dumps(document).encode()
        expected_name, expected = json_requests.decode_predict(body, *OPTIONS)
        assert (name, decoded.by_row) == (expected_name, expected.by_row)
        array = decoded.arrays["x"]
        if array.dtype == object:
            assert array.tolist() == expected.arrays["x"].tolist()
            assert array.shape == expected.arrays["x"].shape
        else:
            check_equal(array, expected.arrays["x"])


def test_examples_are_those_that_the_server_itself_decodes(converters):
    body = b'{"signature_name": "s", "examples": [{"a": [1.5, 2.0], "b": "x"}]}'
    options = "identity", 2**31
    decode_examples = json_requests.decode_examples
    name, decoded = run(converters, decode_examples, *options, body=[body])
    expected_name, expected = decode_examples(body, *options)
    assert name == expected_name == "s"
    assert Input.FromString(decoded) == Input.FromString(expected)


def test_answers_are_those_that_the_server_itself_writes(converters):
    rng = np.random.default_rng(0)
    for outputs, by_row in (
        ({"y": rng.random((3, 4, 5), np.float32)}, True),
        ({"y": rng.random((3, 4)).T, "z_bytes": np.array([b"\xff"] * 4, object)}, True),
        ({"y": np.array([math.nan, 0.1], np.float32), "z": np.array(True)}, False),
        ({"y": np.zeros((0, 3))}, True),
    ):
        answer = run(converters, json_answers.encode_predictions, outputs, by_row)
        expected = json_answers.encode_predictions(outputs, by_row)
        assert bytes(answer) == b"".join(expected)


@pytest.mark.parametrize(
    "document",
    [
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [1',
        b"\xff",
        b'{"signature_name": "no"}',
        b'{"inputs": ["' + "數".encode() * 400 + b'"]}',
    ],
)
def test_errors_are_those_of_the_server_itself(converters, document):
    with pytest.raises(InvalidRequestError) as expected:
        json_requests.decode_predict(document, *OPTIONS)
    with pytest.raises(InvalidRequestError) as raised:
        decode(converters, document)
    assert str(raised.value) == str(expected.value)
    assert decode(converters, {"instances": [1]})[1].arrays["x"].tolist() == [1]


def test_bodies_are_decompressed_there(converters):
    document = json.dumps({"instances": list(range(1000))}).encode()
    compressed = gzip.compress(document[:500]) + gzip.compress(document[500:])
    _, decoded = decode(converters, compressed, "gzip", 2**31, TYPES)
    assert decoded.arrays["x"].tolist() == list(range(1000))
    with pytest.raises(InvalidRequestError, match="at most 100 bytes"):
        decode(converters, compressed, "gzip", 100, TYPES)


def test_a_late_conversion_ends_with_the_deadline_and_harms_no_other(converters):
    assert decode(converters, {"instances": [1]})
    first = process_of(converters).pid
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        run(converters, time.sleep, 60, seconds=0.3)
    assert time.monotonic() - start < 5
    assert not is_alive(first)
    _, decoded = decode(converters, {"instances": [1]})
    assert decoded.arrays["x"].tolist() == [1]


def test_a_process_that_has_no_time_to_start_serves_the_next_request(converters):
    with pytest.raises(DeadlineExceededError):
        run(converters, divmod, 7, 2, seconds=0.001)
    pid = process_of(converters).pid
    assert run(converters, divmod, 7, 2) == (3, 1)
    assert process_of(converters).pid == pid


def test_only_as_many_processes_are_started_as_are_busy():
    converters = Converters(3)
    for _ in range(5):
        assert run(converters, divmod, 7, 2) == (3, 1)
    assert [c._process is None for c in converters._converters] == [True, True, False]
    converters.stop()


def test_a_conversion_ends_when_its_client_leaves(converters):
    deadline = Deadline(60.0)
    threading.Timer(0.5, deadline.cancel).start()
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        asyncio.run(converters.run(time.sleep, (60,), deadline))
    assert time.monotonic() - start < 10


def test_a_body_that_a_busy_process_does_not_take_is_late_too(converters):
    """The body is larger than what the operating system takes for the process."""
    assert decode(converters, {"instances": [1]})
    os.kill(process_of(converters).pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceededError):
        run(converters, time.sleep, seconds=0.3, body=[bytes(2**22)])
    assert decode(converters, {"instances": [1]})


def test_conversions_wait_for_each_other(converters):
    async def run_all():
        body = json.dumps({"instances": list(range(10_000))}).encode()
        call = functools.partial(
            converters.run, json_requests.decode_predict, OPTIONS, Deadline(60.0)
        )
        return await asyncio.gather(*(call([body]) for _ in range(20)))

    for _, decoded in asyncio.run(run_all()):
        assert decoded.arrays["x"].tolist() == list(range(10_000))


def test_a_process_that_was_killed_is_replaced(converters, caplog):
    assert decode(converters, {"instances": [1]})
    os.kill(process_of(converters).pid, signal.SIGKILL)  # idle, as far as we know
    process_of(converters).wait()
    assert decode(converters, {"instances": [1]})
    pid = process_of(converters).pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with (
        caplog.at_level("WARNING"),
        pytest.raises(UnavailableError, match="Try again later"),
    ):
        run(converters, time.sleep, 60)
    assert "ended with status -9" in caplog.text
    assert decode(converters, {"instances": [1]})


def test_an_unexpected_error_names_its_cause(converters):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(converters, divmod, 1, 0)
    assert decode(converters, {"instances": [1]})


def test_signals_for_the_server_do_not_end_a_conversion(converters):
    assert decode(converters, {"instances": [1]})
    process = process_of(converters)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert decode(converters, {"instances": [1]})
    assert process_of(converters).pid == process.pid
    assert os.getpgid(process.pid) != os.getpgid(0)  # of the terminal


def test_other_processes_go_first(converters):
    assert decode(converters, {"instances": [1]})
    own = os.getpriority(os.PRIO_PROCESS, 0)
    pid = process_of(converters).pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + 10)


def test_stop_ends_the_process_even_while_it_works():
    converters = Converters(1)
    assert decode(converters, {"instances": [1]})
    process = process_of(converters)
    errors = []

    def convert():
        try:
            run(converters, time.sleep, 60)
        except UnavailableError as error:
            errors.append(error)

    late = threading.Thread(target=convert)
    late.start()
    time.sleep(0.3)
    start = time.monotonic()
    converters.stop()
    assert process.poll() is not None
    assert time.monotonic() - start < 5
    late.join(5)
    assert len(errors) == 1
    with pytest.raises(ServerStoppingError):
        decode(converters, {"instances": [1]})


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false", "", None])
def test_the_server_converts_itself_where_no_process_can_be_started(
    converters, monkeypatch, caplog, executable
):
    monkeypatch.setattr(sys, "executable", executable)
    for _ in range(2):
        _, decoded = decode(converters, {"instances": [1, 2]})
        assert decoded.arrays["x"].tolist() == [1, 2]
    (record,) = caplog.records
    assert "cannot be started" in record.getMessage()


def test_the_process_imports_what_it_needs_only():
    code = (
        "import sys, bn_keras_serving.rest.conversion_process\n"
        "print([name for name in ('tensorflow', 'keras', 'aiohttp', 'grpc', 'asyncio')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"[]"]


SCRIPT = """
import asyncio, os, signal, sys

sys.path[:0] = [{library!r}, *{packages!r}]

from bn_keras_serving.dispatch.deadline import Deadline
from bn_keras_serving.rest import json_answers
from bn_keras_serving.rest.converters import Converters

converters = Converters(1)
code = "__import__('bn_keras_serving').__file__"
call = converters.run(eval, (code,), Deadline(60.0))
print(asyncio.run(call), converters._converters[0]._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_plain_script_needs_no_installation_and_leaves_no_process(tmp_path):
    """The package is on the path that the script has set, and nowhere else."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    library = tmp_path / "library"
    library.mkdir()
    package = library / "bn_keras_serving"
    package.symlink_to(ROOT / "serving" / "bn_keras_serving")
    script = library / "script.py"
    script.write_text(SCRIPT.format(library=str(library), packages=packages))
    # Not to be imported: it lies in the working directory.
    (tmp_path / "pickle.py").write_text("raise SystemExit(3)")
    done = subprocess.run(
        [sys.executable, "-S", str(script)],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (-9, "")
    file, pid = done.stdout.split()
    assert file == str(package / "__init__.py")
    end = time.monotonic() + 10
    while is_alive(int(pid)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_large_requests_are_answered_like_small_ones():
    rng = np.random.default_rng(3)
    image = rng.random((1, 100_000, 2), np.float32)
    body = json.dumps({"instances": image.astype(float).tolist()}).encode()
    path = "/v1/models/m:predict"
    with RunningRestServer(limits={"message_bytes": 2**25}) as served:
        for encoding, sent in (("identity", body), ("gzip", gzip.compress(body, 1))):
            headers = {"Content-Encoding": encoding}
            status, answer, _ = served.request("POST", path, sent, **headers)
            assert status == 200
            doubled = np.array(json.loads(answer)["predictions"], np.float32)
            np.testing.assert_array_equal(doubled, 2 * image)
        cut = served.request("POST", path, body[:-2])
        assert cut[0] == 400
        assert f"at offset: {len(body) - 2}" in json.loads(cut[1])["error"]
        examples = {"examples": [{"x": 2.0}] * 20_000}
        assert served.send("/v1/models/m:regress", examples) == (
            200,
            {"results": [3.0] * 20_000},
        )
        assert process_of(served.server._converters.short) is not None
        process = process_of(served.server._converters.short)
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("encoding", "in_a_process"), [("identity", False), ("gzip", True)]
)
def test_a_small_document_is_large_if_its_size_is_unknown(encoding, in_a_process):
    document = b'{"instances": [[1, 2]]}'
    body = gzip.compress(document) if encoding == "gzip" else document
    path = "/v1/models/m:predict"
    with RunningRestServer() as served:
        headers = {"Content-Encoding": encoding}
        assert served.request("POST", path, body, **headers)[0] == 200
        started = process_of(served.server._converters.long) is not None
        assert started == in_a_process


def test_a_document_of_seconds_does_not_delay_a_shorter_one():
    long, short = ({"instances": [[1, 2]] * rows} for rows in (2_000_000, 20_000))
    path = "/v1/models/m:predict"
    with RunningRestServer(limits={"message_bytes": 2**25}) as served:
        assert served.send(path, short)[0] == 200
        first = threading.Thread(target=served.send, args=(path, long))
        first.start()
        wait_until(lambda: process_of(served.server._converters.long) is not None)
        assert served.send(path, short)[0] == 200
        assert first.is_alive()
        first.join()


def test_a_large_request_is_late_like_a_small_one():
    document = {"instances": [[1, 2]] * 20_000}
    answer = {"predictions": [[2.0, 4.0]] * 20_000}
    path = "/v1/models/m:predict"
    with RunningRestServer(timeout_seconds=3.0) as served:
        assert served.send(path, document) == (200, answer)
        os.kill(process_of(served.server._converters.short).pid, signal.SIGSTOP)
        assert served.send(path, document) == (
            504,
            {"error": "No answer within 3 seconds."},
        )
        assert served.send(path, document) == (200, answer)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
