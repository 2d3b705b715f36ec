"""A client of a TensorFlow Serving server, over gRPC."""

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import grpc
import numpy as np

from bn_keras_serving.client import channel, streaming
from bn_keras_serving.client.channel import Tls
from bn_keras_serving.client.conversation import (
    Answer,
    Classes,
    Conversation,
    Steps,
    VersionState,
)
from bn_keras_serving.client.examples import ExampleLike, ImageLike
from bn_keras_serving.client.inputs import Specs


class PredictionClient:
    """A client of one model on a server.

    Before inputs are sent, their names and types are compared with the model's
    signature, which is looked up once; a mismatch raises ValueError. Python's numbers
    and NumPy's float64 and int64 take the type of the input if every value is within
    its range. Arrays of other types must have that type, and floats never become
    integers.

    A call that fails raises gRPC's own `grpc.RpcError` with `code()` and `details()`:
    NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE, DEADLINE_EXCEEDED, ... While the server is
    UNAVAILABLE the call is repeated after growing random pauses, for about 2.5 s in
    all.

    The methods share these arguments:

    - `signature_name`: Signature to call. Defaults to `serving_default`.
    - `version`, or `version_label`: Version to ask. Defaults to the latest.
    - `output_filter`: Names of the outputs to return. Empty means all.

    Args:
        address: Address of the server, `host:port` or `unix:path`.
        model_name: Name of the model.
        timeout: Seconds that each answer may take, including look-ups and retries.
        tls: Certificates for an encrypted connection, a `Tls`. None for a connection
            without encryption.
        retries: How many times to repeat a call, from 0 to 4.
        wait_for_ready: Whether to wait for a server that is not available yet, until
            the timeout, instead of raising UNAVAILABLE.
        check: Whether to compare names and types of inputs with the signature. If
            False, arrays are sent as they are.
        check_shapes: Whether to compare their shapes, too. A model may accept other
            shapes than its signature declares.

    Raises:
        ValueError: An argument is out of range, or the TLS files do not fit.
        OSError: A TLS file cannot be read.

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
                    client.predict(["one"])
                except ValueError as error:
                    assert "`x` must be of type float32" in str(error)
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
        check_shapes: bool = False,
    ):
        self._timeout = timeout
        self._conversation = Conversation(model_name, check, check_shapes)
        self._channel = channel.connect(
            grpc, address, timeout, tls, retries, wait_for_ready
        )
        self._methods = channel.methods(self._channel)

    def __enter__(self) -> "PredictionClient":
        return self

    def __exit__(self, *_: object) -> None:
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
                a single array or list if the signature has one required input.

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
        images: Iterable[ImageLike] | np.ndarray,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs for a batch of images.

        Args:
            images: Paths or contents of JPEG and PNG files of any size, which the
                signature `predict_encoded` decodes; or uint8 arrays
                `(height, width, channels)` of the model's size for `predict_uint8`.

        Returns:
            Output name to array, with a row for each image.

        Raises:
            ValueError: A file is not an image, or the model does not have the
                signature.
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
        items: Iterable[Any],
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int | None = None,
        in_flight: int = 8,
        progress: bool = False,
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """Yield the answers to many items in order, several requests at a time.

        Items are taken only when a request can be sent, so memory holds the items of
        `in_flight` requests. Leaving the loop cancels the open requests. An error is
        raised after the answers to the items before it, with a note that names the
        item.

        Args:
            items: Items, each as `predict` takes its inputs. With `batch_size`, each
                item is one example, without the batch axis.
            batch_size: Number of examples in a request; the last one may have fewer.
            in_flight: Number of requests open at a time.
            progress: Whether to show a progress bar on standard error if that is a
                terminal. Needs the package rich.

        Returns:
            A generator of output name to array for each item. With `batch_size` the
            arrays are the item's rows.

        Raises:
            ValueError: An item does not fit the signature, or a number is below 1.
            grpc.RpcError: A call failed.
        """
        return self._stream(
            items,
            self._conversation.predict,
            (batch_size, in_flight, progress),
            signature_name=signature_name,
            version=version,
            output_filter=list(output_filter),
            version_label=version_label,
        )

    def predict_many_images(
        self,
        images: Iterable[ImageLike],
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int = 8,
        in_flight: int = 8,
        progress: bool = False,
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """Yield the answers to many images in order, several requests at a time.

        As `predict_many` does, for images as `predict_images` takes them. Files are
        read when their request is sent.
        """
        return self._stream(
            images,
            self._conversation.predict_images,
            (batch_size, in_flight, progress),
            version=version,
            output_filter=list(output_filter),
            version_label=version_label,
        )

    def classify(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> Classes:
        """Return the classes of examples.

        Args:
            examples: For each example a dictionary from feature name to a number, a
                string or a list of them; or a `tf.train.Example`, serialized or not.

        Returns:
            `Classes(labels, scores)`, arrays `(examples, classes)`.

        Raises:
            ValueError: An example is not one of these, or the model has no signature
                of that name for classification.
            grpc.RpcError: The call failed.
        """
        return self._run(
            self._conversation.classify(
                examples, signature_name, version, version_label
            )
        )

    def regress(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> np.ndarray:
        """Return the values of examples, float32 `(examples,)`.

        Takes and raises what `classify` does.
        """
        return self._run(
            self._conversation.regress(examples, signature_name, version, version_label)
        )

    def metadata(
        self, version: int | None = None, *, version_label: str | None = None
    ) -> dict[str, dict[str, Specs]]:
        """Return the signatures of the model, looked up again.

        Returns:
            `{signature: {"inputs": {name: (dtype, shape)}, "outputs": ...}}`. The dtype
            is NumPy's (object for strings). In a shape None stands for any size; None
            instead of a shape stands for any rank.

        Raises:
            ImportError: A type is one of the package ml_dtypes, such as bfloat16, and
                that is not installed.
            grpc.RpcError: The call failed.
        """
        return self._run(self._conversation.metadata(version, version_label))

    def status(self, version: int | None = None) -> list[VersionState]:
        """Return the state of each version that the server knows, the newest first.

        Args:
            version: The only version to report. Defaults to all.

        Raises:
            grpc.RpcError: The call failed.
        """
        return self._run(self._conversation.status(version))

    def _run(self, steps: Steps, future: Any = None) -> Any:
        """Make the calls of a conversation, and return its answer.

        Args:
            steps: The conversation.
            future: Its first call, if that has begun; `steps` waits for its response.
        """
        deadline = time.monotonic() + self._timeout
        try:
            call = None if future else next(steps)
            while True:
                try:
                    if call is None:
                        response = future.result()
                    else:
                        remaining = max(0.0, deadline - time.monotonic())
                        method = self._methods[call.method]
                        response = method(call.request, timeout=remaining)
                except grpc.FutureCancelledError:
                    # Not an RpcError; the future itself is, with code CANCELLED.
                    call = steps.throw(future)
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as stop:
            return stop.value

    def _stream(
        self,
        items: Iterable[Any],
        predict: Callable[..., Steps],
        settings: tuple[int | None, int, bool],
        **selection: Any,
    ) -> Generator[Answer, None, None]:
        batch_size, in_flight, progress = settings
        # Outside the generator, so that errors are raised by the call itself.
        streaming.check(batch_size, in_flight)
        bar = streaming.progress_bar(items, progress)
        chunks = streaming.chunks(items, batch_size)
        look_up = self._conversation.look_up(
            selection["version"], selection["version_label"]
        )

        def begin(inputs: Any) -> tuple[Steps, Any]:
            steps = predict(inputs, **selection)
            call = next(steps)
            method: Any = self._methods[call.method]
            return steps, method.future(call.request, timeout=self._timeout)

        def answers() -> Generator[Answer, None, None]:
            with bar as advance:
                # First, or each of the first requests would look the signatures up.
                self._run(look_up)
                yield from streaming.answers(
                    chunks, begin, self._run, in_flight, advance
                )

        return answers()
