"""TensorFlow Serving's configuration files."""

import os
import traceback

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving import PredictionServer
from bn_keras_serving.common.errors import InvalidRequestError
from bn_keras_serving.configuration import (
    BatchingParameters,
    Monitoring,
    ServerTls,
    check_models,
    read_batching,
    read_models,
    read_monitoring,
    read_tls,
    session_config,
    single_model,
    version_batching,
)
from bn_keras_serving.configuration.settings import Loading

pytestmark = pytest.mark.fast

PEM = "-----BEGIN {0}-----\nc2VjcmV0\n-----END {0}-----\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "served.config"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def models_of(*configs):
    text = " ".join(f"config {{ {config} }}" for config in configs)
    return f"model_config_list {{ {text} }}"


def model(rest="", name="m", base_path="/models/m", platform="tensorflow"):
    return (
        f"name: '{name}' base_path: '{base_path}' model_platform: '{platform}' {rest}"
    )


def test_a_file_with_every_field_is_read(file):
    text = models_of(
        model(
            """
        # The text format has comments and two styles of lists.
        model_version_policy: { specific { versions: [1, 2], versions: 3 } }
        version_labels { key: "stable" value: 1 }
        version_labels { key: "canary", value: 2 };
        logging_config { sampling_config { sampling_rate: 0.1 } }
        """
        ),
        "name: 'old' base_path: '/models/old' model_type: TENSORFLOW",
    )
    first, second = read_models(file(text)).model_config_list.config
    assert (first.name, first.base_path) == ("m", "/models/m")
    assert list(first.model_version_policy.specific.versions) == [1, 2, 3]
    assert dict(first.version_labels) == {"stable": 1, "canary": 2}
    assert second.name == "old"


def test_an_empty_file_configures_no_models(file):
    assert read_models(file("# nothing yet\n")) == ModelServerConfig()


def test_a_single_model_equals_the_two_flags():
    config = single_model("m", "/models/m")
    check_models(config)
    assert config == text_format.Parse(models_of(model()), ModelServerConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\n\nmodel_config_list { config { nam: 'm' } }",
            r"3:30: Message type \"tensorflow\.serving\.ModelConfig\" has no field "
            r"named \"nam\"\. Inv",
        ),
        ("model_config_list {\n config {", r'\d:\d+: Expected "}"'),
        ("model_config_list { config { name: 'm\n' } }", "1:.*missing ending"),
        (
            models_of("model_version_policy { latest { num_versions: -1 } }"),
            "out of range: -1",
        ),
        (
            models_of("model_version_policy { latest {} all {} }"),
            "another member of oneof",
        ),
    ],
)
def test_the_error_for_a_malformed_file_names_the_file_and_the_line(
    file, text, message
):
    path = file(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_models(path)
    error = str(raised.value)
    # The standard of TensorFlow Serving's own test, `testBadModelConfig`.
    assert error.startswith(
        "Error parsing text-format tensorflow.serving.ModelServerConfig: "
    )
    assert error.endswith(f". Invalid protobuf file: '{path}'")
    assert "\n" not in error


def test_the_error_for_a_file_that_is_not_text_names_the_file(file):
    path = file(b"name: '\xff'")
    message = f"{path} must be a ModelServerConfig in text format. Received: a file "
    with pytest.raises(ValueError, match="that is not in UTF-8") as raised:
        read_models(path)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "read", [read_models, read_batching, read_monitoring, read_tls]
)
def test_a_missing_file_is_reported(tmp_path, read):
    with pytest.raises(ValueError, match=r"absent must be a .*No such file.*Correct"):
        read(tmp_path / "absent")
    with pytest.raises(ValueError, match="Received: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            models_of(model(), model()),
            r"Illegal to list model m multiple times in config list",
        ),
        (
            models_of(model(base_path="models/m")),
            r"Expected model m to have an absolute path or URI; got "
            r"base_path\(\)=models/m",
        ),
        (models_of(model(base_path="")), r"got base_path\(\)=$"),
        (
            models_of(model(base_path=r"/m\000odels")),
            r"path without null bytes; got base_path\(\)='/m\\x00odels'",
        ),
        (
            models_of(model(base_path="gs://bucket/m")),
            r"directory of this machine; got base_path\(\)=gs://bucket/m\. Copy",
        ),
        (
            models_of(model(platform="pytorch")),
            "Model m requests unsupported platform pytorch",
        ),
        (
            models_of("name: 'm' base_path: '/m'"),
            r"Illegal setting neither ModelServerConfig::model_type \(deprecated\) nor "
            "ModelServerConfig::model_platform, model name is m",
        ),
        (
            models_of(model("model_type: TENSORFLOW")),
            r"Illegal setting both ModelServerConfig::model_type \(deprecated\) and "
            "ModelServerConfig::model_platform, model name is m",
        ),
        (
            models_of("name: 'm' base_path: '/m' model_type: OTHER"),
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            models_of(model(name="")),
            "Each model must have a name.*base_path=/models/m",
        ),
        (
            "custom_model_config { type_url: 'x/y' }",
            "not yet support custom model config. Received: custom_model_config. Use",
        ),
    ],
)
def test_what_cannot_be_served_is_rejected_as_in_tensorflow_serving(
    file, text, message
):
    with pytest.raises(InvalidRequestError, match=message) as raised:
        check_models(text_format.Parse(text, ModelServerConfig()))
    path = file(text)
    with pytest.raises(ValueError, match=message) as raised_for_file:
        read_models(path)
    assert str(raised_for_file.value) == f"{path}: {raised.value}"


def test_batching_has_the_defaults_of_tensorflow_serving(file):
    expected = BatchingParameters(
        max_batch_size=1000,
        batch_timeout_micros=0,
        max_enqueued_batches=10,
        num_batch_threads=len(os.sched_getaffinity(0)),
        thread_pool_name="batch_threads",
        allowed_batch_sizes=(),
        enable_large_batch_splitting=False,
        max_execution_batch_size=None,
    )
    assert read_batching(file("")) == BatchingParameters() == expected


def test_every_field_of_batching_is_read(file):
    text = """
    max_batch_size { value: 128 }
    batch_timeout_micros { value: 2000 }
    max_enqueued_batches: { value: 1000000 }
    num_batch_threads { value: 3 }
    thread_pool_name { value: "pool" }
    allowed_batch_sizes: 8
    allowed_batch_sizes: [16, 32]
    pad_variable_length_inputs: false
    enable_large_batch_splitting { value: true }
    max_execution_batch_size { value: 32 }
    """
    assert read_batching(file(text)) == BatchingParameters(
        128, 2000, 1000000, 3, "pool", (8, 16, 32), True, 32
    )


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("max_batch_size { value: 4 } allowed_batch_sizes: [1, 2, 4]", (1, 2, 4)),
        ("allowed_batch_sizes: 1000", (1000,)),
        (
            # TensorFlow Serving requires the 8, although it never runs it.
            "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } "
            "enable_large_batch_splitting { value: true } allowed_batch_sizes: [2,4,8]",
            (2, 4),
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "allowed_batch_sizes: [2, 8]",
            (2, 8),
        ),
        (
            # Without splitting, the size of an execution is ignored.
            "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } "
            "allowed_batch_sizes: 8",
            (8,),
        ),
    ],
)
def test_sizes_that_tensorflow_serving_accepts_are_accepted(file, text, sizes):
    assert read_batching(file(text)).allowed_batch_sizes == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch_size { value: 0 }",
            "`max_batch_size` must be 1 or more. Received:",
        ),
        ("batch_timeout_micros { value: -1 }", "must be 0 or more. Received: batch_t"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches=0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads=0"),
        ("max_execution_batch_size { value: 0 }", "max_execution_batch_size=0"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [1, 2]",
            r"last must equal `max_batch_size`\. Received: allowed_batch_sizes="
            r"\[1, 2\], max_batch_size=4",
        ),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [2, 1, 4]", "increasing"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 4]", "increasing"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [0, 4]", "positive"),
        (
            "enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 4 } allowed_batch_sizes: [2, 1000]",
            r"last must equal `max_execution_batch_size`.*sizes=\[2\],.*size=4",
        ),
        (
            "enable_large_batch_splitting { value: true } max_batch_size { value: 4 } "
            "max_execution_batch_size { value: 5 }",
            "`max_execution_batch_size` must be at most `max_batch_size`",
        ),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs=true. Send"),
        ("max_batch_size: 4", "1:17: .*Expected"),
        ("batching { }", "1:1: .*has no field named .batching"),
    ],
)
def test_invalid_batching_parameters_are_rejected(file, text, message):
    path = file(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_batching(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Monitoring(False, "/monitoring/prometheus/metrics")),
        ("prometheus_config { enable: true }", Monitoring(True)),
        (
            'prometheus_config { enable: true path: "/metrics" }',
            Monitoring(True, "/metrics"),
        ),
    ],
)
def test_a_monitoring_file_is_read(file, text, expected):
    assert read_monitoring(file(text)) == expected


def test_the_path_of_the_metrics_must_begin_with_a_slash(file):
    with pytest.raises(
        ValueError, match=r"must begin with /\. Received: path='metrics'"
    ):
        read_monitoring(file("prometheus_config { enable: true path: 'metrics' }"))


def quoted(text):
    return '"' + text.replace("\n", "\\n") + '"'


KEY, CERTIFICATE = PEM.format("KEY"), PEM.format("CERTIFICATE")
PAIR = f"server_key: {quoted(KEY)} server_cert: {quoted(CERTIFICATE)} "


def test_keys_are_read_but_never_shown(file):
    tls = read_tls(file(PAIR))
    assert tls == ServerTls(KEY, CERTIFICATE, None, False)
    assert "c2VjcmV0" not in repr(tls)
    both = read_tls(
        file(f"{PAIR} custom_ca: {quoted(CERTIFICATE)} client_verify: true")
    )
    assert both == ServerTls(KEY, CERTIFICATE, CERTIFICATE, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`server_key` must be a PEM text. Received: nothing. Insert the contents"),
        (
            "server_key: '/etc/server.key'",
            "`server_key` must be a PEM text. Received: 15 characters of other",
        ),
        (f"server_key: {quoted(KEY)}", "`server_cert` must be a PEM"),
        (f"{PAIR} client_verify: true", "`custom_ca` must be a PEM"),
        (f"{PAIR} custom_ca: 'c2VjcmV0'", "`custom_ca` must be a PEM"),
        (f'\nserver_key: "{KEY}"', "2:13: an error that is not shown"),
    ],
)
def test_invalid_keys_are_rejected_but_never_shown(file, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_tls(file(text))
    # A traceback would show the cause as well.
    assert "c2VjcmV0" not in "".join(traceback.format_exception(raised.value))


def test_a_session_has_the_settings_of_the_file_and_the_numbers(file):
    path = file("intra_op_parallelism_threads: 3 gpu_options { allow_growth: true }")
    config = session_config(Loading(session_config_file=path, inter_op_threads=2))
    assert config.intra_op_parallelism_threads == 3
    assert config.inter_op_parallelism_threads == 2
    assert config.gpu_options.allow_growth
    assert config.allow_soft_placement
    config = session_config(Loading(session_config_file=path, intra_op_threads=1))
    assert config.intra_op_parallelism_threads == 1
    assert not config.HasField("graph_options")
    options = session_config(Loading(mixed_precision="bfloat16")).graph_options
    assert options.rewrite_options.auto_mixed_precision_onednn_bfloat16
    path = file("threads: 3")
    with pytest.raises(ValueError, match=r"text-format tensorflow\.ConfigProto: 1:1: "):
        session_config(Loading(session_config_file=path))


def test_a_version_may_have_batching_parameters_of_its_own(tmp_path):
    parameters = BatchingParameters(max_batch_size=64, num_batch_threads=7)
    assert version_batching(tmp_path, parameters) is None
    text = "max_batch_size { value: 4 } num_batch_threads { value: 3 }"
    (tmp_path / "batching_params.pbtxt").write_text(text)
    batching = version_batching(tmp_path, parameters)
    assert (batching.max_batch_size, batching.num_batch_threads) == (4, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shape_checks": "on"}, "one of 'auto', 'strict', 'off'. Received: shape"),
        ({"retries": -1}, "`retries` must be 0 or more. Received: retries=-1"),
        ({"retry_seconds": float("nan")}, "`retry_seconds` must be 0 or more"),
        ({"warmup_iterations": 0}, "`warmup_iterations` must be 1 or more"),
    ],
)
def test_loading_out_of_range_is_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        Loading(**values)


def test_a_server_reads_the_settings_of_sessions_before_it_loads(tmp_path):
    loading = Loading(session_config_file=tmp_path / "absent")
    with pytest.raises(ValueError, match="absent must be a ConfigProto in text format"):
        PredictionServer(tmp_path, port=0, loading=loading)
