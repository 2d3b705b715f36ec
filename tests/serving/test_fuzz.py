"""Malformed requests of every kind, sent to a server in a process of its own."""

import collections
import dataclasses
import http.client
import itertools
import os
import random
import threading
import time

import grpc
import numpy as np
import pytest
from fuzz_requests import (
    NAME,
    Malformer,
    Target,
    overlong_length,
    twice_the_same_key,
    valid_requests,
)
from google.protobuf.message import DecodeError
from served_process import ServedProcess
from serving_examples import Judge, example_of, input_of
from serving_models import ROWS, request_of, write
from tensorflow_serving.apis import classification_pb2, predict_pb2

THREADS = 8
REJECTIONS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
BATCHING = {"max_batch_size": 8, "batch_timeout_micros": 500, "num_batch_threads": 2}
# As in TensorFlow Serving, where C++ rejects bytes that cannot be parsed.
NOT_A_MESSAGE = "INTERNAL"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
# Limit on the second half of a campaign: 0.6 kB for each of its 100,000 requests.
GROWTH = 64 * 2**20
# For each new shape of a convolution's input, TensorFlow's threads keep a oneDNN
# primitive of some 85 kB, up to 1,024 in each of its threads.
IMAGE_SHAPES = 1500 * len(os.sched_getaffinity(0))


@dataclasses.dataclass
class Campaign:
    """The outcome of many malformed requests."""

    codes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    surprises: list = dataclasses.field(default_factory=list)
    memory: list = dataclasses.field(default_factory=list)
    good: int = 0
    seconds: float = 0.0
    alive: bool = True
    log: bytes = b""

    def rejected(self):
        return sum(self.codes.values()) - self.codes["OK"]


def parses(request_class, data):
    try:
        return request_class.FromString(data) is not None
    except DecodeError:
        return False


def check_good(predict, campaign):
    """Check that a good request among the others is answered correctly."""
    answer = predict(request_of(name=NAME), timeout=60)
    np.testing.assert_array_equal(answer.outputs["y"].float_val, 2 * ROWS.ravel())
    campaign.good += 1


def run(served, requests, count, method=PREDICT, structured=True):
    """Send malformed requests from several threads until `count` are rejected."""
    campaign, lock = Campaign(), threading.Lock()
    request_class = type(requests[0])

    def send(seed):
        malformed = Malformer(requests, seed, structured)
        with served.channel() as channel, served.predict() as predict:
            call = channel.unary_unary(method)
            for number, data in enumerate(malformed):
                if campaign.rejected() >= count:
                    return
                try:
                    call(data, timeout=60)
                    code, details = "OK", ""
                except grpc.RpcError as error:
                    code, details = error.code().name, error.details()
                expected = {"OK", *REJECTIONS}
                if code == NOT_A_MESSAGE and not parses(request_class, data):
                    expected = {code}
                with lock:
                    campaign.codes[code] += 1
                    if code not in expected:
                        campaign.surprises.append((code, details, data))
                        if len(campaign.surprises) > 20:
                            return
                if number % 200 == 0:
                    check_good(predict, campaign)

    start = time.monotonic()
    senders = [threading.Thread(target=send, args=(seed,)) for seed in range(THREADS)]
    for sender in senders:
        sender.start()
    step, next_sample = max(1, count // 10), 0
    while any(sender.is_alive() for sender in senders):
        senders[0].join(0.1)
        if campaign.rejected() >= next_sample and served.exit_status() is None:
            campaign.memory.append(served.memory())
            next_sample += step
    campaign.seconds = time.monotonic() - start
    campaign.alive = served.exit_status() is None
    campaign.log = served.log.read_bytes()
    return campaign


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzzed")
    for name, model in ((NAME, Target()), ("judge", Judge())):
        (directory / name).mkdir()
        write(model, directory / name, 1)
    (directory / "models.config").write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{directory / name}" '
            'model_platform: "tensorflow" }'
            for name in (NAME, "judge")
        )
        + "}"
    )
    return directory


@pytest.fixture(scope="module")
def served(directory):
    """A server with batching, except for signatures that cannot be batched."""
    with ServedProcess(
        directory / "log",
        config=directory / "models.config",
        batching=BATCHING,
        return_memory=True,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def unbatched(directory):
    with ServedProcess(
        directory / "unbatched.log",
        config=directory / "models.config",
        return_memory=True,
    ) as process:
        yield process


def fill_primitive_caches(served):
    """Send images of so many shapes that TensorFlow keeps no further primitives."""
    sizes = itertools.islice(
        itertools.product((1, 2, 3), range(1, 80), range(1, 80)), IMAGE_SHAPES
    )
    with served.predict() as predict:
        for batch, height, width in sizes:
            image = np.zeros((batch, height, width, 3), np.float32)
            predict(request_of({"x": image}, NAME, "open_image"), timeout=60)


def check(campaign, count):
    assert campaign.alive
    assert campaign.surprises == []
    assert campaign.rejected() >= count
    assert campaign.good >= THREADS
    assert campaign.codes["OK"], "some changes must be harmless"


def test_malformed_requests_are_rejected_and_good_ones_answered(served):
    check(run(served, valid_requests(), 1000), 1000)


@pytest.fixture(scope="module", params=[("unbatched", 200_000), ("served", 40_000)])
def campaign(request):
    server, count = request.param
    served = request.getfixturevalue(server)
    fill_primitive_caches(served)
    check(run(served, valid_requests(), count // 10), count // 10)  # fill the pools
    campaign = run(served, valid_requests(), count)
    megabytes = [size >> 20 for size in campaign.memory]
    print(server, campaign.codes, f"{campaign.seconds:.0f} s", megabytes)  # noqa: T201
    return campaign


@pytest.mark.slow
def test_the_process_survives_very_many_malformed_requests(campaign):
    check(campaign, 40_000)


@pytest.mark.slow
def test_malformed_requests_do_not_use_up_memory(campaign):
    assert campaign.memory[-1] - campaign.memory[len(campaign.memory) // 2] < GROWTH


@pytest.mark.slow
def test_malformed_requests_log_no_traceback(campaign):
    assert b"Traceback" not in campaign.log


def test_bytes_that_cannot_be_parsed_leave_nothing_behind(served):
    """Neither memory nor log lines; grpcio's own parsing keeps 38 MB of 2,000 calls."""
    with served.channel() as channel:
        call = channel.unary_unary(PREDICT)
        for number in range(2500):
            if number == 500:
                before, log = served.memory(), served.log.stat().st_size
            with pytest.raises(grpc.RpcError):
                call(b"\xff\xff\xff", timeout=60)
    assert served.memory() - before < 8 * 2**20
    assert served.log.stat().st_size - log < 2000


def test_the_last_of_two_equal_keys_is_used(served):
    with served.channel() as channel:
        call = channel.unary_unary(PREDICT)
        answer = predict_pb2.PredictResponse.FromString(call(twice_the_same_key()))
        assert list(answer.outputs["y"].float_val) == list(2 * ROWS.ravel())
        with pytest.raises(grpc.RpcError) as raised:
            call(overlong_length(request_of(name=NAME)))
        assert raised.value.code().name in (NOT_A_MESSAGE, "INVALID_ARGUMENT")


def classification_requests():
    """Build requests whose examples lack a feature or have it in another form."""
    examples = [
        example_of(1.0, 2.0),
        example_of(),
        example_of(1.0),
        example_of(*range(1000)),
        example_of(1.0, 2.0, name="other"),
    ]
    for field, values in (("int64_list", [1, 2]), ("bytes_list", [b"\xff", b""])):
        example = example_of()
        getattr(example.features.feature["x"], field).value.extend(values)
        examples.append(example)
    inputs = [input_of(example, examples[0]) for example in examples]
    signatures = ("", "scores", "flat", "sum", "short")
    return [
        classification_pb2.ClassificationRequest(
            model_spec={"name": "judge", "signature_name": signature},
            input=request_input,
        )
        for signature in signatures
        for request_input in inputs
    ]


def test_an_example_that_the_model_cannot_parse_is_rejected(served):
    entry = b"\n\x01x\x32\x07\n\x05\n\x01\xff\n\x00"  # the key x, with an unknown field
    request = classification_pb2.ClassificationRequest(model_spec={"name": "judge"})
    features = request.input.example_list.examples.add().features
    features.MergeFromString(b"\n" + bytes([len(entry)]) + entry)
    with served.channel() as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(CLASSIFY)(request.SerializeToString())
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [800, pytest.param(20_000, marks=pytest.mark.slow)])
def test_malformed_examples_are_rejected(served, count):
    check(
        run(served, classification_requests(), count, CLASSIFY, structured=False), count
    )


BODIES = [
    b'{"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}',
    b'{"inputs": {"x": [[1.5, -2e3, NaN, Infinity]]}}',
    b'{"signature_name": "string", "instances": ["a", {"b64": "/w=="}]}',
    b'{"signature_name": "pair", "instances": [{"a": [1,2,3,4], "b": [0,0,0,1]}]}',
    b'{"signature_name": "open_image", "inputs": [[[[1, 2, 3]]]]}',
]
PARTS = [b"[", b"]" * 9, b"{", b'"', b"\\u0000", b"\\ud800", b"\xff\xfe", b"1e999"]
PARTS += [b"null", b"true", b"-", b"9" * 400, b"[" * 3000, b'{"b64": "*"}', b",", b":"]
PARTS += [b'"instances": 1', b'"inputs": []', b"\xef\xbb\xbf", b'{"x": {"x": 1}}']
PATHS = [f"/v1/models/{NAME}:predict"] * 8
PATHS += ["/v1/models/judge:classify", "/v1/models/judge:regress", "/v1/models/no:x"]
PATHS += [f"/v1/models/{NAME}/versions/{'9' * 30}:predict", "/v1/models/%ff:predict"]


def malformed_bodies(seed):
    generator = random.Random(seed)
    while True:
        body = bytearray(generator.choice(BODIES))
        for _ in range(generator.choice((1, 1, 2, 4))):
            start = generator.randrange(len(body) + 1)
            end = min(len(body), start + generator.choice((0, 0, 1, 3, 30)))
            body[start:end] = generator.choice((b"", *PARTS, generator.randbytes(2)))
        yield generator.choice(PATHS), bytes(body)


@pytest.mark.parametrize("count", [1000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_malformed_documents_are_rejected(served, count):
    statuses, surprises = collections.Counter(), []
    connection = http.client.HTTPConnection(served.rest_address, timeout=60)
    before = served.log.stat().st_size
    for path, body in itertools.islice(malformed_bodies(count), count):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        text = answer.read()
        statuses[answer.status] += 1
        if answer.status not in (200, 400, 404):
            surprises.append((answer.status, path, body, text))
    connection.close()
    assert surprises == []
    assert statuses[200]
    assert statuses[400] > count / 2
    assert b"Traceback" not in served.log.read_bytes()[before:]
