"""Malformed requests of every kind, against a server in a process of its own."""

import collections
import dataclasses
import http.client
import itertools
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
    valid,
)
from google.protobuf.message import DecodeError
from served_process import ServedProcess
from serving_examples import Judge, example_of, input_of
from serving_models import ROWS, request_of, write
from tensorflow_serving.apis import classification_pb2, predict_pb2

THREADS = 8
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
BATCHING = {"max_batch_size": 8, "batch_timeout_micros": 500, "num_batch_threads": 2}
# As in TensorFlow Serving, where C++ refuses what is not the message.
NOT_A_MESSAGE = "INTERNAL"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
# In the second half: until then allocators keep some of the largest answers, 4 MB each;
# a leak goes on for ever.
GROWTH = 64 * 2**20


@dataclasses.dataclass
class Campaign:
    """What came of many malformed requests."""

    codes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    surprises: list = dataclasses.field(default_factory=list)
    memory: list = dataclasses.field(default_factory=list)
    good: int = 0
    seconds: float = 0.0
    alive: bool = True
    log: bytes = b""

    def refused(self):
        return sum(self.codes.values()) - self.codes["OK"]


def parses(kind, data):
    try:
        return kind.FromString(data) is not None
    except DecodeError:
        return False


def check_good(predict, campaign):
    """A good request between the others is answered as if there were no others."""
    answer = predict(request_of(name=NAME), timeout=60)
    np.testing.assert_array_equal(answer.outputs["y"].float_val, 2 * ROWS.ravel())
    campaign.good += 1


def run(served, requests, count, method=PREDICT, structured=True):
    """Send malformed requests from several threads, until `count` are refused."""
    campaign, guard = Campaign(), threading.Lock()
    kind = type(requests[0])

    def send(seed):
        malformed = Malformer(requests, seed, structured)
        with served.channel() as channel, served.predict() as predict:
            call = channel.unary_unary(method)
            for number, data in enumerate(malformed):
                if campaign.refused() >= count:
                    return
                try:
                    call(data, timeout=60)
                    code, told = "OK", ""
                except grpc.RpcError as error:
                    code, told = error.code().name, error.details()
                expected = {"OK", *REFUSALS}
                if code == NOT_A_MESSAGE and not parses(kind, data):
                    expected = {code}
                with guard:
                    campaign.codes[code] += 1
                    if code not in expected:
                        campaign.surprises.append((code, told, data))
                        if len(campaign.surprises) > 20:
                            return
                if number % 200 == 0:
                    check_good(predict, campaign)

    began = time.monotonic()
    senders = [threading.Thread(target=send, args=(seed,)) for seed in range(THREADS)]
    for one in senders:
        one.start()
    step, looked = max(1, count // 10), 0
    while any(one.is_alive() for one in senders):
        senders[0].join(0.1)
        if campaign.refused() >= looked and served.exit_status() is None:
            campaign.memory.append(served.memory())
            looked += step
    campaign.seconds = time.monotonic() - began
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
    """With batching, but for the signatures that cannot be batched."""
    with ServedProcess(
        directory / "log", config=directory / "models.config", batching=BATCHING
    ) as process:
        yield process


@pytest.fixture(scope="module")
def unbatched(directory):
    with ServedProcess(
        directory / "unbatched.log", config=directory / "models.config"
    ) as process:
        yield process


def check(campaign, count):
    assert campaign.alive
    assert campaign.surprises == []
    assert campaign.refused() >= count
    assert campaign.good >= THREADS
    assert campaign.codes["OK"], "some changes do no harm"


def test_malformed_requests_are_refused_and_good_ones_answered(served):
    check(run(served, valid(), 1000), 1000)


@pytest.fixture(scope="module", params=[("unbatched", 200_000), ("served", 40_000)])
def campaign(request):
    how, count = request.param
    served = request.getfixturevalue(how)
    check(run(served, valid(), count // 10), count // 10)  # pools fill first
    campaign = run(served, valid(), count)
    megabytes = [one >> 20 for one in campaign.memory]
    print(how, campaign.codes, f"{campaign.seconds:.0f} s", megabytes)  # noqa: T201
    return campaign


@pytest.mark.slow
def test_the_process_outlives_very_many_malformed_requests(campaign):
    check(campaign, 40_000)


@pytest.mark.slow
def test_memory_stays_flat_through_them(campaign):
    assert campaign.memory[-1] - campaign.memory[len(campaign.memory) // 2] < GROWTH


@pytest.mark.slow
def test_the_log_stays_quiet_through_them(campaign):
    assert b"Traceback" not in campaign.log


def test_bytes_that_are_no_message_leave_nothing_behind(served):
    """Neither memory nor lines; grpcio's own parsing keeps 38 MB of 2,000 of them."""
    with served.channel() as channel:
        call = channel.unary_unary(PREDICT)
        for number in range(2500):
            if number == 500:
                before, log = served.memory(), served.log.stat().st_size
            with pytest.raises(grpc.RpcError):
                call(b"\xff\xff\xff", timeout=60)
    assert served.memory() - before < 8 * 2**20
    assert served.log.stat().st_size - log < 2000


def test_the_last_of_two_equal_keys_counts(served):
    with served.channel() as channel:
        call = channel.unary_unary(PREDICT)
        answer = predict_pb2.PredictResponse.FromString(call(twice_the_same_key()))
        assert list(answer.outputs["y"].float_val) == list(2 * ROWS.ravel())
        with pytest.raises(grpc.RpcError) as raised:
            call(overlong_length(request_of(name=NAME)))
        assert raised.value.code().name in (NOT_A_MESSAGE, "INVALID_ARGUMENT")


def classifications():
    """Requests whose Examples miss a feature, or have it of another type or size."""
    examples = [
        example_of(1.0, 2.0),
        example_of(),
        example_of(1.0),
        example_of(*range(1000)),
        example_of(1.0, 2.0, name="other"),
    ]
    for kind, values in (("int64_list", [1, 2]), ("bytes_list", [b"\xff", b""])):
        example = example_of()
        getattr(example.features.feature["x"], kind).value.extend(values)
        examples.append(example)
    inputs = [input_of(one, examples[0]) for one in examples]
    signatures = ("", "scores", "flat", "sum", "short")
    return [
        classification_pb2.ClassificationRequest(
            model_spec={"name": "judge", "signature_name": signature}, input=one
        )
        for signature in signatures
        for one in inputs
    ]


def test_an_example_that_the_model_cannot_parse_is_refused(served):
    entry = b"\n\x01x\x32\x07\n\x05\n\x01\xff\n\x00"  # of the key x, of no known field
    request = classification_pb2.ClassificationRequest(model_spec={"name": "judge"})
    features = request.input.example_list.examples.add().features
    features.MergeFromString(b"\n" + bytes([len(entry)]) + entry)
    with served.channel() as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(CLASSIFY)(request.SerializeToString())
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [800, pytest.param(20_000, marks=pytest.mark.slow)])
def test_malformed_examples_are_refused(served, count):
    check(run(served, classifications(), count, CLASSIFY, structured=False), count)


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
    choose = random.Random(seed)
    while True:
        body = bytearray(choose.choice(BODIES))
        for _ in range(choose.choice((1, 1, 2, 4))):
            start = choose.randrange(len(body) + 1)
            end = min(len(body), start + choose.choice((0, 0, 1, 3, 30)))
            body[start:end] = choose.choice((b"", *PARTS, choose.randbytes(2)))
        yield choose.choice(PATHS), bytes(body)


@pytest.mark.parametrize("count", [1000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_malformed_documents_are_refused(served, count):
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
