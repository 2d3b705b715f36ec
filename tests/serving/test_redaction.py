"""Texts for clients: no path gets through, and nothing else is removed."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bn_keras_serving.dispatch.redaction import redact_paths

pytestmark = pytest.mark.fast

LETTERS = string.ascii_letters + string.digits
# Anything that a file name may have, but a space or a quotation mark would end a path
# whose end nothing else tells.
NAMES = st.text(LETTERS + "_-.,;:@+=~#%&()[]{}$", min_size=1, max_size=8).filter(
    lambda name: name[0] != "*"
)
NAMES_WITH_SPACES = st.text(LETTERS + " _-.'\"", min_size=1, max_size=12).filter(
    lambda name: name.strip(" .") and name == name.strip()
)
BEFORE = st.sampled_from(
    ["", "error:", "not found: ", "(", "[", "'", '"', "=", ",", ";", "<", "a b ", "|"]
)
AFTER = st.sampled_from(["", ": no such file", ")", "]", "'", '"', ", see", ".", "; a"])


@given(st.lists(NAMES, min_size=2, max_size=5), BEFORE, AFTER)
@example(["device:CPU:0", "etc", "passwd"], "", "")
@example(["v1", "models", "..", "..", "etc"], "", "")
@example(["v1", "models", "a", "b", "c"], "POST ", "")
def test_no_absolute_path_gets_through(names, before, after):
    path = "/" + "/".join(names)
    if path.startswith("/v1/models/") and len(names) < 5:
        return  # a URL of the server
    redacted = redact_paths(f"{before}{path}{after}")
    assert "<path>" in redacted
    for name in names:
        if len(name) > 2 and name.isalnum():
            assert name not in redacted.replace("<path>", "").removeprefix(before)


@given(st.lists(NAMES_WITH_SPACES, min_size=2, max_size=4), BEFORE, AFTER)
@example(["v1", "models", "m"], "POST ", "")
def test_no_directory_of_a_model_gets_through(names, before, after):
    path = "/" + "/".join(names)
    for text in (path, f"{path}/1/saved_model.pb", f"{{{{node {path}/1}}}}"):
        redacted = redact_paths(f"{before}{text}{after}", ["/models/other", path])
        assert path not in redacted
        assert names[-1] not in redacted or names[-1] in f"{before}{after}<path>node 1"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("error:/etc/passwd", "error:<path>"),
        ("file:///etc/passwd; No such file", "<path>; No such file"),
        ("gs://bucket/model/1, s3://b/m", "<path>, <path>"),
        ("hdfs://host:9000/m", "<path>"),
        ("unix:/run/serving.sock", "unix:<path>"),
        ("(see /etc/passwd).", "(see <path>)."),
        ("No such file: '/srv/a b/x.index'", "No such file: '<path>'"),
        ("doesn't open /etc/x, can't", "doesn't open <path>, can't"),
        ("at: /m/1/{saved_model.pbtxt|saved_model.pb}", "at: <path>"),
        (r"/srv/my\ model/1 is", "<path> is"),
        ("//etc/passwd", "<path>"),
        ("Op:ReadFile] /usr/bin", "Op:ReadFile] <path>"),
    ],
)
def test_paths_in_sentences_are_replaced(text, redacted):
    assert redact_paths(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "on /job:localhost/replica:0/task:0/device:CPU:0.",
        "Cannot assign a device to /device:GPU:0: no such device",
        "/replica:0 and /task:0",
        "{{function_node __inference_f_1}}{{node /a/b}} and {{node a/b}}",
        "[[{{node StatefulPartitionedCall/model/dense/MatMul}}]]",
        "and/or, n/a, I/O, 24/7, 3/4, 50%/s, (a)/b, a*/b, +/-1, 1 / 2, images/s",
        "2026/01/31 and 31/01/2026",
        "text/plain, application/json, */*",
        "POST /v1/models/m/versions/1:predict",
        "GET /v1/models/m/labels/stable/metadata",
        "/v1/models/m and /monitoring/prometheus/metrics",
        "see https://www.tensorflow.org/api_docs/python/tf",
        "tensorflow/core/kernels/conv_ops.cc:123",
        "a relative ./path or ../path",
        "",
    ],
)
def test_other_slashes_stay(text):
    assert redact_paths(text, ["/models/m", "/m"]) == text


def test_a_directory_at_the_root_is_not_a_part_of_other_names():
    text = "serving/model/dense in /model/1/saved_model.pb"
    assert redact_paths(text, ["/model/"]) == "serving/model/dense in <path>"
    assert redact_paths("a/b at /b", ["/"]) == "a/b at <path>"
