"""Helpers for the tests of `serving/deploy`."""

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
    """Return the YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def find(path, kind, name=None):
    """Return the only document of a kind, and of a name, in a file."""
    (match,) = [
        document
        for document in documents(path)
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    return match


def interpolate(text, variables):
    """Replace Compose's `${A}`, `${A:-default}` and `${A:?message}` in a text."""

    def value(match):
        name, operator, operand = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return operand
        raise KeyError(f"{name}: {operand or 'no default'}")

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def parse_flags(arguments):
    """Return flag to value of a server's command; check that all flags exist."""
    flags = dict(
        re.fullmatch(r"--(\w+)=(.*)", argument).groups() for argument in arguments
    )
    assert len(flags) == len(arguments)
    assert set(flags) <= set(_SERVER_FLAGS.split())
    # server.cc rejects batching parameters without batching; metrics need REST.
    assert flags["enable_batching"] == "true"
    assert flags["port"] == "8500"
    assert flags["rest_api_port"] == "8501"
    return flags


def is_hardened(context):
    """Whether a Kubernetes container has no privileges that it does not need."""
    return (
        context["readOnlyRootFilesystem"] is True
        and context["allowPrivilegeEscalation"] is False
        and context["capabilities"] == {"drop": ["ALL"]}
        and not context.get("privileged")
    )


def exporter_files(folder, **settings):
    """Return the files that the exporter writes next to versions, name to text.

    Every file is parsed as the server does, and the metrics are enabled.
    """
    paths = {path.name: path for path in write_server_files(folder, **settings)}
    configuration.read_models(paths["models.config"])
    batching = configuration.read_batching(paths["batching_parameters.txt"])
    assert batching.allowed_batch_sizes == (batching.max_batch_size,)
    monitoring = configuration.read_monitoring(paths["monitoring.config"])
    assert monitoring.enable
    assert monitoring.path == METRICS_PATH
    return {name: path.read_text() for name, path in paths.items()}
