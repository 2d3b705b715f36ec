"""The status page, and the JSON document with its contents."""

import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.dispatch.dispatcher import Dispatcher
from bn_keras_serving.dispatch.error_mapping import StatusError
from bn_keras_serving.rest import protocol

_FILE = Path(__file__).with_suffix(".html")


@functools.cache
def page() -> bytes:
    """Return the HTML of the page, which requests `status.json` by itself."""
    return _FILE.read_bytes()


def status_json(dispatcher: Dispatcher) -> bytes:
    """Return the server, and the versions and requests of each model, as JSON.

    The texts are not escaped, although model names come from the operator and error
    messages from anywhere; the page escapes them.
    """
    summaries = dispatcher.metrics.summary()
    history = dispatcher.metrics.history.read()
    models = [
        {
            "name": name,
            "versions": _versions(dispatcher, name),
            "signatures": _signatures(dispatcher, name),
            "history": history.get(name),
            **summaries.get(name, {"requests": {}, "latencies": []}),
        }
        for name in sorted(dispatcher.models.names())
    ]
    server = {
        "versions": _installed_versions(),
        "host": socket.gethostname(),
        "uptime_seconds": dispatcher.metrics.history.uptime(),
        "requests_per_second": sum(model["per_second"] for model in history.values()),
    }
    unknown = summaries.get("", {"requests": {}})["requests"]
    status = {"server": server, "models": models, "unknown_models": unknown}
    return json.dumps(status).encode()


@functools.cache
def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in ("bn-keras", "tensorflow"):
        # TensorFlow has further packages, such as tensorflow-cpu.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _versions(dispatcher: Dispatcher, name: str) -> list[dict[str, str]]:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
    try:
        response = dispatcher.answer("GetModelStatus", request)
    except StatusError:
        return []
    state_name = get_model_status_pb2.ModelVersionStatus.State.Name
    return [
        {
            # As text, because numbers in JavaScript are exact only up to 2**53.
            "version": str(status.version),
            "state": state_name(status.state),
            "error": status.status.error_message,
        }
        for status in response.model_version_status
    ]


def _signatures(dispatcher: Dispatcher, name: str) -> dict[str, dict[str, Any]]:
    try:
        _, signatures = protocol.get_metadata(
            dispatcher, model_pb2.ModelSpec(name=name)
        )
    except StatusError:
        return {}
    return {
        key: {
            "method": definition.method_name.rpartition("/")[2],
            "inputs": _tensor_infos(definition.inputs),
            "outputs": _tensor_infos(definition.outputs),
        }
        for key, definition in sorted(signatures.signature_def.items())
        # Leave out TensorFlow's own, such as __saved_model_init_op.
        if not key.startswith("__saved_model")
    }


def _tensor_infos(
    infos: Mapping[str, meta_graph_pb2.TensorInfo],
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "type": tensors.type_name(info.dtype),
            "shape": None
            if info.tensor_shape.unknown_rank
            else [
                None if dimension.size < 0 else dimension.size
                for dimension in info.tensor_shape.dim
            ],
        }
        for name, info in sorted(infos.items())
    }


def _content_hashes(tag: str) -> str:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page().decode(), re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(
        f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests
    )


# Should the page ever fail to escape a text, the browser still runs no other script.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_content_hashes('script')}; "
        f"style-src {_content_hashes('style')}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
