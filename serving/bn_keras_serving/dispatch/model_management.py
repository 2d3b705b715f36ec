"""The handlers of ModelService: the state of the models, and a new list of them."""

import logging

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
)

from bn_keras_serving.common.errors import (
    InvalidRequestError,
    ModelNotLoadedError,
    ServableNotFoundError,
    UnmetConditionError,
)
from bn_keras_serving.dispatch.redaction import redact_paths
from bn_keras_serving.models import ModelRegistry

_logger = logging.getLogger(__name__)


def get_model_status(
    models: ModelRegistry, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Return the state of one version of a model, or of all versions.

    Raises:
        ServableNotFoundError: If the model or version has never been configured.
    """
    spec = request.model_spec
    statuses = models.statuses(spec.name)
    missing = f"any versions of model {spec.name}"
    if spec.HasField("version"):
        number = spec.version.value
        statuses = [status for status in statuses if status.version == number]
        missing = f"version {number} of model {spec.name}"
    if not statuses:
        raise ServableNotFoundError(f"Could not find {missing}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        entry = response.model_version_status.add(
            version=status.version, state=status.state.value
        )
        entry.status.SetInParent()  # write the field even if it is OK
        if status.error is not None:
            entry.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
            entry.status.error_message = redact_paths(status.error, models.base_paths())
    return response


def reload_config(
    models: ModelRegistry, request: model_management_pb2.ReloadConfigRequest
) -> model_management_pb2.ReloadConfigResponse:
    """Replace the list of models.

    Raises:
        InvalidRequestError: If this server cannot serve the list.
        UnmetConditionError: If a new model does not load, or a label is for a version
            that is not available.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise InvalidRequestError(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    try:
        models.reload(request.config)
    except ModelNotLoadedError as error:
        # A client must not learn which paths exist on this machine.
        _logger.warning("A client's list of models was refused: %s", error)
        raise UnmetConditionError(
            f"No version of {', '.join(error.models)} could be loaded. The server's "
            "log has the reason."
        ) from None
    # An empty status means OK.
    return model_management_pb2.ReloadConfigResponse(status={})
