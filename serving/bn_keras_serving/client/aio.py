"""A client of a TensorFlow Serving server for event loops, over gRPC."""

import asyncio
import contextlib
import functools
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
)
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


class AsyncPredictionClient:
    """A client of one model on a server, for event loops.

    Arguments, answers and errors are those of `PredictionClient`, and its methods are
    coroutines. `predict_many` and `predict_many_images` return asynchronous iterators
    and take asynchronous iterables too; close one that you leave early with
    `contextlib.aclosing`.

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
        RuntimeError: No event loop is running.

    Example:
        ```python
        import asyncio
        import tempfile

        import tensorflow as tf

        from bn_keras_serving import AsyncPredictionClient, PredictionServer

        model = tf.Module()
        model.double = tf.function(
            lambda x: {"y": 2 * x},
            input_signature=[tf.TensorSpec([None], tf.float32, "x")],
            autograph=False,
        )

        async def ask(address):
            async with AsyncPredictionClient(address, "double", timeout=30.0) as client:
                first, second = await asyncio.gather(
                    client.predict([1, 2]), client.predict([3])
                )
                assert first["y"].tolist() == [2, 4]
                assert second["y"].tolist() == [6]
                rows = client.predict_many(range(100), batch_size=32)
                assert [row["y"] async for row in rows] == [2 * x for x in range(100)]

        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(model, f"{directory}/1", signatures=model.double)
            with PredictionServer(directory, "double", port=0) as server:
                asyncio.run(ask(server.address))
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
        asyncio.get_running_loop()  # gRPC would bind to a loop that never runs
        self._timeout = timeout
        self._conversation = Conversation(model_name, check, check_shapes)
        self._channel = channel.connect(
            grpc.aio, address, timeout, tls, retries, wait_for_ready
        )
        self._methods = channel.methods(self._channel)

    async def __aenter__(self) -> "AsyncPredictionClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def predict(
        self,
        inputs: Any,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs."""
        return await self._run(
            self._conversation.predict(
                inputs, signature_name, version, output_filter, version_label
            )
        )

    async def predict_images(
        self,
        images: Iterable[ImageLike] | np.ndarray,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs for a batch of images."""
        # In a thread, since reading files would block the event loop.
        steps = await asyncio.to_thread(
            self._conversation.predict_images,
            images,
            version,
            output_filter,
            version_label,
        )
        return await self._run(steps)

    def predict_many(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int | None = None,
        in_flight: int = 8,
        progress: bool = False,
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """Yield the answers to many items in order, several requests at a time."""
        return self._stream(
            items,
            self.predict,
            (batch_size, in_flight, progress),
            signature_name=signature_name,
            version=version,
            output_filter=list(output_filter),
            version_label=version_label,
        )

    def predict_many_images(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int = 8,
        in_flight: int = 8,
        progress: bool = False,
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        """Yield the answers to many images in order, several requests at a time."""
        return self._stream(
            images,
            self.predict_images,
            (batch_size, in_flight, progress),
            version=version,
            output_filter=list(output_filter),
            version_label=version_label,
        )

    async def classify(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> Classes:
        """Return the classes of examples."""
        return await self._run(
            self._conversation.classify(
                examples, signature_name, version, version_label
            )
        )

    async def regress(
        self,
        examples: Iterable[ExampleLike],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        version_label: str | None = None,
    ) -> np.ndarray:
        """Return the values of examples, float32 `(examples,)`."""
        return await self._run(
            self._conversation.regress(examples, signature_name, version, version_label)
        )

    async def metadata(
        self, version: int | None = None, *, version_label: str | None = None
    ) -> dict[str, dict[str, Specs]]:
        """Return the signatures of the model, looked up again."""
        return await self._run(self._conversation.metadata(version, version_label))

    async def status(self, version: int | None = None) -> list[VersionState]:
        """Return the state of each version that the server knows, the newest first."""
        return await self._run(self._conversation.status(version))

    async def _run(self, steps: Steps) -> Any:
        """Make the calls of a conversation, and return its answer."""
        deadline = time.monotonic() + self._timeout
        try:
            call = next(steps)
            while True:
                remaining = max(0.0, deadline - time.monotonic())
                method = self._methods[call.method]
                try:
                    response = await method(call.request, timeout=remaining)
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as stop:
            return stop.value

    def _stream(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        predict: Callable[..., Awaitable[Answer]],
        settings: tuple[int | None, int, bool],
        **selection: Any,
    ) -> AsyncGenerator[Answer, None]:
        batch_size, in_flight, progress = settings
        # Outside the generator, so that errors are raised by the call itself.
        streaming.check(batch_size, in_flight)
        bar = streaming.progress_bar(items, progress)
        chunks = streaming.async_chunks(items, batch_size)
        look_up = self._conversation.look_up(
            selection["version"], selection["version_label"]
        )
        ask = functools.partial(predict, **selection)

        async def answers() -> AsyncGenerator[Answer, None]:
            with bar as advance:
                # First, or each of the first requests would look the signatures up.
                await self._run(look_up)
                results = streaming.async_answers(chunks, ask, in_flight, advance)
                # Not left to the garbage collector, which cannot await the tasks.
                async with contextlib.aclosing(results):
                    async for result in results:
                        yield result

        return answers()
