"""The status page for people, and what it shows.

Knows no socket: documents out.
"""

import base64
import functools
import hashlib
import json
import re
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from bn_keras_serving.common import tensors
from bn_keras_serving.common.errors import StatusError
from bn_keras_serving.dispatch.dispatcher import Inference
from bn_keras_serving.rest import protocol

_FILE = Path(__file__).with_name("page.html")


@functools.cache
def document() -> bytes:
    """Return the page, which asks for its contents itself."""
    return _FILE.read_bytes()


def status(inference: Inference) -> bytes:
    """Return what the page shows, as JSON: each model, its versions and requests.

    Model names come from the operator and texts of errors from anywhere: the page
    escapes them.
    """
    counted = inference.metrics.summary()
    models = [
        {
            "name": name,
            "versions": _versions(inference, name),
            "signatures": _signatures(inference, name),
            **counted.get(name, {"requests": {}, "latencies": []}),
        }
        for name in sorted(inference.models.names())
    ]
    unknown = counted.get("", {"requests": {}})["requests"]
    return json.dumps({"models": models, "unknown_models": unknown}).encode()


def _versions(inference: Inference, name: str) -> list[dict]:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
    try:
        response = inference.answer("GetModelStatus", request)
    except StatusError:
        return []
    states = get_model_status_pb2.ModelVersionStatus.State.Name
    return [
        {
            # As text: JavaScript's numbers end at 2**53.
            "version": str(one.version),
            "state": states(one.state),
            "error": one.status.error_message,
        }
        for one in response.model_version_status
    ]


def _signatures(inference: Inference, name: str) -> dict[str, dict]:
    try:
        _, signatures = protocol.metadata(inference.answer, protocol.Target(name))
    except StatusError:
        return {}
    return {
        key: {
            "method": definition.method_name.rpartition("/")[2],
            "inputs": _described(definition.inputs),
            "outputs": _described(definition.outputs),
        }
        for key, definition in sorted(signatures.signature_def.items())
        # TensorFlow's own, such as __saved_model_init_op.
        if not key.startswith("__saved_model")
    }


def _described(infos) -> dict[str, dict]:
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


def _hashes(tag: str) -> str:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", document().decode(), re.DOTALL)
    digests = (hashlib.sha256(one.encode()).digest() for one in contents)
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)


# Should the page ever fail to escape a text, the browser still runs no other script.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; "
        f"style-src {_hashes('style')}; connect-src 'self'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
