"""Ask a TensorFlow Serving server for predictions over gRPC.

Knows no SavedModel and not which server answers: the one here or the real one.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bn_keras_serving.client import channel, streaming
from bn_keras_serving.client.channel import Tls
from bn_keras_serving.client.conversation import (
    Classes,
    Conversation,
    Steps,
    VersionState,
)


class PredictionClient:
    """Asks one model of a server.

    Inputs are compared with the model's signature, which is looked up once, before
    they are sent: what does not fit raises ValueError. Python's numbers and NumPy's
    float64 and int64 take the input's type where every value is within its range;
    arrays of other types must have it, and floats never become integers.

    A call that fails raises `grpc.RpcError` as gRPC made it, with `code()` and
    `details()`: NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE, DEADLINE_EXCEEDED, ...
    Where the server is UNAVAILABLE the call is repeated after growing random pauses,
    about 2.5 s in all.

    What every question takes:

    - `signature_name`: the signature to call; `serving_default` by default.
    - `version`, or `version_label`: the version to ask; the latest by default.
    - `output_filter`: names of the outputs wanted; none of them means all.

    Args:
        address: `host:port` of the server, or `unix:path`.
        model_name: Name of the model.
        timeout: Seconds each answer may take, look-ups and repetitions included.
        tls: A `Tls` for an encrypted connection; none by default.
        retries: Times a call is repeated, 0 to 4.
        wait_for_ready: Wait for a server that is not there yet, up to the timeout,
            instead of raising UNAVAILABLE.
        check: Whether inputs are compared with the signature. Without it arrays are
            sent as they are.

    Raises:
        ValueError: Retries out of range, or TLS files that do not fit.

    Example:
        ```python
        import tempfile

        import numpy as np
        import tensorflow as tf

        from bn_keras_serving import PredictionClient, PredictionServer

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
                answer = client.predict([1, 2])
                assert answer["y"].tolist() == [2, 4]
                rows = client.predict_many(np.arange(100.0), batch_size=32)
                assert [row["y"] for row in rows] == [2 * x for x in range(100)]
                assert client.status() == [(1, "AVAILABLE", "")]
                try:
                    client.predict([[1, 2]])
                except ValueError as error:
                    assert "`x` must be of shape (None,)" in str(error)
        ```
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        timeout: float = 10.0,
        *,
        tls: Tls | None = None,
        retries: int = channel.MAXIMUM_RETRIES,
        wait_for_ready: bool = False,
        check: bool = True,
    ):
        channel.check(address, timeout)
        self._timeout = timeout
        self._conversation = Conversation(model_name, check)
        options = channel.options(tls, retries, wait_for_ready)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options)
        self._methods: Mapping[str, Any] = channel.methods(self._channel)

    def __enter__(self) -> "PredictionClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def predict(
        self,
        inputs: Any,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs.

        Args:
            inputs: Input name to array or nested list, of the signature's shape; or
                one array or list where the signature has one required input.

        Returns:
            Output name to array.

        Raises:
            ValueError: The inputs do not fit the signature.
            grpc.RpcError: The call failed.
        """
        return self._run(
            self._conversation.predict(
                inputs, signature_name, version, output_filter, version_label
            )
        )

    def predict_images(
        self,
        images: Iterable[str | Path | bytes | np.ndarray] | np.ndarray,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs for a batch of images.

        Args:
            images: Paths or contents of JPEG and PNG files, of any size, which the
                signature `predict_encoded` decodes; or uint8 arrays
                `(height, width, channels)` of the model's size for `predict_uint8`.

        Returns:
            Output name to array, a row for each image.

        Raises:
            ValueError: A file is no such image, or the model has no such signature.
            OSError: A file cannot be read.
            grpc.RpcError: The call failed.
        """
        return self._run(
            self._conversation.predict_images(
                images, version, output_filter, version_label
            )
        )

    def predict_many(
        self,
        items: Iterable,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int | None = None,
        in_flight: int = 8,
        progress: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the answers to many items, in order, several requests at a time.

        Items are taken only as requests can be sent, so memory holds those of
        `in_flight` requests. Leaving the loop cancels what is under way. An error
        comes after the answers to the items before it, and its note names the item.

        Args:
            items: Each as `predict` takes its inputs; with `batch_size` each one
                example, without the axis of the batch.
            batch_size: Examples to send in one request; the last may have fewer.
            in_flight: Requests open at a time.
            progress: Whether to show a bar on standard error if it is a terminal.

        Returns:
            For each item output name to array; with `batch_size` the item's row.

        Raises:
            ValueError: An item does not fit the signature.
            grpc.RpcError: A call failed.
        """
        names = list(output_filter)

        def start(inputs):
            return self._conversation.predict(
                inputs, signature_name, version, names, version_label
            )

        look_up = self._conversation.look_up(version, version_label)
        return self._stream(items, start, look_up, batch_size, in_flight, progress)

    def predict_many_images(
        self,
        images: Iterable[str | Path | bytes | np.ndarray],
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int = 8,
        in_flight: int = 8,
        progress: bool = False,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the answers to many images, in order, several requests at a time.

        As `predict_many` does, for images as `predict_images` takes them; files are
        read when their turn comes.
        """
        names = list(output_filter)

        def start(batch):
            return self._conversation.predict_images(
                batch, version, names, version_label
            )

        look_up = self._conversation.look_up(version, version_label)
        return self._stream(images, start, look_up, batch_size, in_flight, progress)

    def classify(
        self,
        examples: Iterable[Mapping[str, Any] | bytes],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> Classes:
        """Return the classes of examples.

        Args:
            examples: For each a dictionary from feature to a number, a string or a
                list of them, or a serialized `tf.train.Example`.

        Returns:
            `Classes(labels, scores)`, arrays `(examples, classes)`.

        Raises:
            ValueError: No examples these, or no signature of that method.
            grpc.RpcError: The call failed.
        """
        return self._run(
            self._conversation.classify(
                examples, signature_name, version, version_label
            )
        )

    def regress(
        self,
        examples: Iterable[Mapping[str, Any] | bytes],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> np.ndarray:
        """Return the values of examples, float32 `(examples,)`; as `classify`."""
        return self._run(
            self._conversation.regress(examples, signature_name, version, version_label)
        )

    def metadata(
        self, version: int | None = None, *, version_label: str | None = None
    ) -> dict[str, dict[str, dict]]:
        """Return the signatures of the model, asked anew.

        Returns:
            `{signature: {"inputs": {name: (dtype, shape)}, "outputs": ...}}`, the
            dtype NumPy's (object for strings), None in a shape for any size, and
            None for a shape of any rank.

        Raises:
            grpc.RpcError: The call failed.
        """
        return self._run(self._conversation.metadata(version, version_label))

    def status(self, version: int | None = None) -> list[VersionState]:
        """Return the state of each version the server knows, the newest first.

        Args:
            version: The one version to tell of; all by default.

        Raises:
            grpc.RpcError: The call failed.
        """
        return self._run(self._conversation.status(version))

    def _run(self, steps: Steps, begun: Any = None) -> Any:
        """Carry every call of a conversation, or those after one that has begun."""
        deadline = time.monotonic() + self._timeout
        try:
            call = None if begun else next(steps)
            while True:
                try:
                    if call is None:
                        response = begun.result()
                    else:
                        left = max(0.0, deadline - time.monotonic())
                        method = self._methods[call.method]
                        response = method(call.request, timeout=left)
                except grpc.FutureCancelledError:
                    call = steps.throw(begun)
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as done:
            return done.value

    def _stream(self, items, start, look_up, batch_size, in_flight, progress):
        streaming.check(batch_size, in_flight)
        bar = streaming.progress_bar(items, progress)
        chunks = streaming.chunks(items, batch_size)

        def begin(inputs):
            steps = start(inputs)
            call = next(steps)
            method = self._methods[call.method]
            return steps, method.future(call.request, timeout=self._timeout)

        def answers():
            with bar:
                self._run(look_up)
                yield from streaming.answers(chunks, begin, self._run, in_flight, bar)

        return answers()
