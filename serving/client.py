"""Ask a TensorFlow Serving server for predictions over gRPC.

Knows no SavedModel and not which server answers: the one here or the real one.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import tensors


class VersionState(NamedTuple):
    """State of one version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error: str


class PredictionClient:
    """Asks one model of a server.

    A call that fails raises `grpc.RpcError` as gRPC made it, with `code()` and
    `details()`: NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE, DEADLINE_EXCEEDED, ...

    Args:
        address: `host:port` of the server.
        model_name: Name of the model.
        timeout: Seconds each call may take.

    Example:
        ```python
        import tempfile

        import grpc
        import numpy as np
        import tensorflow as tf

        from serving import PredictionClient, PredictionServer

        model = tf.Module()
        model.double = tf.function(
            lambda x: {"y": 2 * x},
            input_signature=[tf.TensorSpec([None], tf.float32, "x")],
            autograph=False,
        )
        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(model, f"{directory}/1", signatures=model.double)
            with (
                PredictionServer(directory, "double", port=0) as server,
                PredictionClient(server.address, "double", timeout=30.0) as client,
            ):
                answer = client.predict(np.array([1, 2], np.float32))
                assert answer["y"].tolist() == [2, 4]
                assert client.status() == [(1, "AVAILABLE", "")]
                try:
                    client.predict(np.array([1, 2], np.int32))
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        ```
    """

    def __init__(self, address: str, model_name: str, timeout: float = 10.0):
        self._model_name = model_name
        self._timeout = timeout
        self._input_names: dict[tuple[int | None, str], str] = {}
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", tensors.MAXIMUM_MESSAGE_BYTES),
                ("grpc.max_send_message_length", tensors.MAXIMUM_MESSAGE_BYTES),
            ],
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> "PredictionClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def predict(
        self,
        inputs: np.ndarray | Mapping[str, np.ndarray],
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs.

        Args:
            inputs: Input name to array, of the signature's shapes and types; or the
                array alone where the signature has one input. Its name is then
                looked up once; `metadata` forgets it.
            signature_name: Signature to call; `serving_default` by default.
            version: Version to ask; the latest by default.
            output_filter: Names of the outputs wanted; none of them means all.

        Returns:
            Output name to array.

        Raises:
            ValueError: An array alone, for a signature that has not one input.
            grpc.RpcError: The call failed.
        """
        if not isinstance(inputs, Mapping):
            inputs = {self._input_name(signature_name, version): inputs}
        request = predict_pb2.PredictRequest(
            model_spec=self._model_spec(version),
            inputs={
                name: tf.make_tensor_proto(np.asarray(array))
                for name, array in inputs.items()
            },
            output_filter=output_filter,
        )
        request.model_spec.signature_name = signature_name or ""
        response = self._predictions.Predict(request, timeout=self._timeout)
        return {
            name: tensors.from_response(proto)
            for name, proto in response.outputs.items()
        }

    def metadata(self, version: int | None = None) -> dict[str, dict[str, dict]]:
        """Return the signatures of the model.

        Args:
            version: Version to ask; the latest by default.

        Returns:
            `{signature: {"inputs": {name: (dtype, shape)}, "outputs": ...}}`, the
            dtype NumPy's (object for strings), None in a shape for any size, and
            None for a shape of any rank.

        Raises:
            grpc.RpcError: The call failed.
        """
        self._input_names.clear()
        return self._signatures(version)

    def status(self) -> list[VersionState]:
        """Return the state of each version the server knows, the newest first.

        Raises:
            grpc.RpcError: The call failed.
        """
        response = self._models.GetModelStatus(
            get_model_status_pb2.GetModelStatusRequest(
                model_spec=self._model_spec(None)
            ),
            timeout=self._timeout,
        )
        names = get_model_status_pb2.ModelVersionStatus.State.Name
        return [
            VersionState(one.version, names(one.state), one.status.error_message)
            for one in response.model_version_status
        ]

    def _signatures(self, version: int | None) -> dict[str, dict[str, dict]]:
        response = self._predictions.GetModelMetadata(
            get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=self._model_spec(version), metadata_field=["signature_def"]
            ),
            timeout=self._timeout,
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: {
                "inputs": _described(definition.inputs),
                "outputs": _described(definition.outputs),
            }
            for name, definition in sorted(signatures.signature_def.items())
            # TensorFlow's own, such as __saved_model_init_op.
            if not name.startswith("__saved_model")
        }

    def _model_spec(self, version: int | None) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._model_name)
        if version is not None:
            spec.version.value = version
        return spec

    def _input_name(self, signature_name: str | None, version: int | None) -> str:
        signature_name = signature_name or "serving_default"
        key = (version, signature_name)
        if key not in self._input_names:
            signatures = self._signatures(version)
            if signature_name not in signatures:
                raise ValueError(
                    f"Expected one of the signatures {sorted(signatures)}. "
                    f'Received: "{signature_name}"; choose another signature_name.'
                )
            names = sorted(signatures[signature_name]["inputs"])
            if len(names) != 1:
                raise ValueError(
                    f"Expected a dictionary with the inputs {names}. Received: an "
                    "array alone; name it."
                )
            self._input_names[key] = names[0]
        return self._input_names[key]


def _described(infos: Mapping) -> dict[str, tuple[np.dtype, tuple | None]]:
    return {
        name: (
            np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(
                None if dimension.size < 0 else dimension.size
                for dimension in info.tensor_shape.dim
            ),
        )
        for name, info in sorted(infos.items())
    }
