"""What the tests of `serving/deploy` share."""

import inspect
import re

import yaml
from paths import ROOT

from bn_keras.export import write_server_files
from bn_keras_serving import configuration

DEPLOY = ROOT / "serving" / "deploy"
COMPOSE = DEPLOY / "compose"
KUBERNETES = DEPLOY / "kubernetes"
KSERVE = DEPLOY / "kserve"
METRICS_PATH = inspect.signature(write_server_files).parameters["metrics_path"].default
IMAGE = "tensorflow/serving:2.21.0"

# All flags of tensorflow_serving/model_servers/main.cc of tensorflow/serving, commit
# 9d981c5c of July 2026.
_SERVER_FLAGS = """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching
    allow_version_labels_for_unavailable_models batching_parameters_file
    enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism
    tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file
    platform_config_file per_process_gpu_memory_fraction saved_model_tags
    grpc_channel_arguments grpc_max_threads enable_model_warmup
    num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
    thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content
"""


def documents(path):
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def find(path, kind, name=None):
    """The one document of a kind, and of a name, in a file."""
    (found,) = [
        document
        for document in documents(path)
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    return found


def interpolated(text, variables):
    """Text with Compose's `${A}`, `${A:-default}` and `${A:?message}` replaced."""

    def value(match):
        name, operator, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return rest
        raise KeyError(f"{name}: {rest or 'no default'}")

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def flags(arguments):
    """Dict from flag to value of the real server's command; all flags are real."""
    found = dict(re.fullmatch(r"--(\w+)=(.*)", each).groups() for each in arguments)
    assert len(found) == len(arguments)
    assert set(found) <= set(_SERVER_FLAGS.split())
    # server.cc refuses batching parameters without batching; metrics need REST.
    assert found["enable_batching"] == "true"
    assert found["port"] == "8500"
    assert found["rest_api_port"] == "8501"
    return found


def is_hardened(context):
    """Whether a Kubernetes container may do nothing that it need not."""
    return (
        context["readOnlyRootFilesystem"] is True
        and context["allowPrivilegeEscalation"] is False
        and context["capabilities"] == {"drop": ["ALL"]}
        and not context.get("privileged")
    )


def written_files(folder, **settings):
    """What the exporter writes beside versions: dict from name to text.

    Every file is parsed as the server reads it, and the metrics are on.
    """
    paths = {path.name: path for path in write_server_files(folder, **settings)}
    configuration.read_models(paths["models.config"])
    batching = configuration.read_batching(paths["batching_parameters.txt"])
    assert batching.allowed_batch_sizes == (batching.max_batch_size,)
    monitoring = configuration.read_monitoring(paths["monitoring.config"])
    assert monitoring.enable
    assert monitoring.path == METRICS_PATH
    return {name: path.read_text() for name, path in paths.items()}
