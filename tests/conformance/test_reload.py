"""HandleReloadConfigRequest: the whole list of models, replaced while serving."""

import numpy as np
import pytest
from serving_models import request_of, rpc_error
from tensorflow_serving.apis import model_management_pb2

from conformance.endpoint import (
    FAILED_PRECONDITION,
    INVALID,
    NOT_FOUND,
    STATES,
    embedded_only,
)

ONE = {"x": np.ones(1, np.float32)}


@pytest.fixture
def config(disk):
    """The list of models for a test to change; restored at the end."""
    yield disk.config()
    reload(disk, disk.config())


def reload(endpoint, config):
    request = model_management_pb2.ReloadConfigRequest(config=config)
    return endpoint.models.HandleReloadConfigRequest(request, timeout=60)


def reload_error(endpoint, config):
    request = model_management_pb2.ReloadConfigRequest(config=config)
    return rpc_error(endpoint.models.HandleReloadConfigRequest, request)


def model_of(config, name):
    (model,) = (m for m in config.model_config_list.config if m.name == name)
    return model


def latest(endpoint, name, label=None):
    request = request_of(ONE, name)
    if label is not None:
        request.model_spec.version_label = label
    return endpoint.predictions.Predict(request, timeout=30).model_spec.version.value


def test_a_reload_replaces_the_whole_list_and_waits_for_new_models(disk, config):
    # Two models may have the same directory.
    model_of(config, "two").name = "renamed"
    response = reload(disk, config)
    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert latest(disk, "renamed") == 125
    assert rpc_error(disk.predictions.Predict, request_of(ONE, "two")) == (
        NOT_FOUND,
        "Servable not found for request: Latest(two)",
    )
    for version in (124, 125):
        disk.wait_for("two", version, "END")
    reload(disk, disk.config())
    assert latest(disk, "two") == 125
    assert disk.states("two")[125].state == STATES.AVAILABLE


def test_a_changed_policy_takes_effect(disk, config):
    versions = model_of(config, "specific").model_version_policy.specific.versions
    versions[:] = [125]
    reload(disk, config)
    disk.wait_for("specific", 125, "AVAILABLE")
    disk.wait_for("specific", 123, "END")
    assert latest(disk, "specific") == 125


def test_labels_can_be_moved_and_removed(disk, config):
    labels = model_of(config, "all").version_labels
    labels["stable"] = 124
    del labels["canary"]
    labels["new"] = 123
    reload(disk, config)
    assert latest(disk, "all", "stable") == 124
    assert latest(disk, "all", "new") == 123
    request = request_of(ONE, "all")
    request.model_spec.version_label = "canary"
    expected = "Unrecognized servable version label: canary"
    assert rpc_error(disk.predictions.Predict, request) == (INVALID, expected)


def test_a_label_for_an_unavailable_version_is_a_failed_precondition(disk, config):
    model_of(config, "all").version_labels["stable"] = 7
    assert reload_error(disk, config) == (
        FAILED_PRECONDITION,
        "Request to assign label to version 7 of model all, which is not currently "
        "available for inference",
    )
    assert latest(disk, "all", "stable") == 123


def test_a_relative_path_is_reload_error(disk, config):
    model_of(config, "two").base_path = "models/two"
    assert reload_error(disk, config) == (
        INVALID,
        "Expected model two to have an absolute path or URI; got "
        "base_path()=models/two",
    )
    assert latest(disk, "two") == 125


def test_a_model_listed_twice_is_reload_error(disk, config):
    config.model_config_list.config.append(model_of(config, "two"))
    assert reload_error(disk, config) == (
        INVALID,
        "Illegal to list model two multiple times in config list",
    )
    assert latest(disk, "two") == 125


@embedded_only("TensorFlow Serving waits for a model without versions")
def test_a_new_model_that_cannot_be_served_changes_nothing(disk, config):
    model_of(config, "two").name = "nowhere"
    model_of(config, "nowhere").base_path = str(disk.disk / "nowhere")
    code, _ = reload_error(disk, config)
    assert code == FAILED_PRECONDITION
    assert latest(disk, "two") == 125


@embedded_only("TensorFlow Serving waits for a model without versions")
@pytest.mark.parametrize("path", ["/absent", "/etc/passwd", "/etc", "/proc/1/root"])
def test_a_rejected_reload_tells_nothing_about_the_path(disk, config, path):
    model_of(config, "two").name = "nowhere"
    model_of(config, "nowhere").base_path = path
    assert reload_error(disk, config) == (
        FAILED_PRECONDITION,
        "No version of nowhere could be loaded. The server's log has the reason.",
    )


def test_a_reload_without_a_list_is_rejected(disk):
    request = model_management_pb2.ReloadConfigRequest()
    assert rpc_error(disk.models.HandleReloadConfigRequest, request) == (
        INVALID,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
        "ModelConfigList is currently supported",
    )
