"""Ask a TensorFlow Serving server for predictions from an event loop.

Knows no SavedModel and not which server answers: the one here or the real one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
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


class AsyncPredictionClient:
    """Asks one model of a server, as `PredictionClient` does, to be awaited.

    Arguments, answers and errors are those of `PredictionClient`; the streams take
    asynchronous iterables too. A stream that is left early is best closed with
    `contextlib.aclosing`.

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
        RuntimeError: It is made where no event loop runs.

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
                one, other = await asyncio.gather(
                    client.predict([1, 2]), client.predict([3])
                )
                assert one["y"].tolist() == [2, 4]
                assert other["y"].tolist() == [6]
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
    ):
        asyncio.get_running_loop()  # the one that gRPC will stay with
        channel.check(address, timeout)
        self._timeout = timeout
        self._conversation = Conversation(model_name, check)
        options = channel.options(tls, retries, wait_for_ready)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, tls.credentials(), options)
        self._methods: Mapping[str, Any] = channel.methods(self._channel)

    async def __aenter__(self) -> "AsyncPredictionClient":
        return self

    async def __aexit__(self, *_) -> None:
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
        images: Iterable[str | Path | bytes | np.ndarray] | np.ndarray,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs for a batch of images."""
        # Files are read beside the event loop.
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
        items: Iterable | AsyncIterable,
        signature_name: str | None = None,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int | None = None,
        in_flight: int = 8,
        progress: bool = False,
    ) -> AsyncIterator[dict[str, np.ndarray]]:
        """Yield the answers to many items, in order, several requests at a time."""
        names = list(output_filter)

        def ask(inputs):
            return self.predict(
                inputs, signature_name, version, names, version_label=version_label
            )

        look_up = self._conversation.look_up(version, version_label)
        return self._stream(items, ask, look_up, batch_size, in_flight, progress)

    def predict_many_images(
        self,
        images: Iterable[str | Path | bytes | np.ndarray] | AsyncIterable,
        version: int | None = None,
        output_filter: Iterable[str] = (),
        *,
        version_label: str | None = None,
        batch_size: int = 8,
        in_flight: int = 8,
        progress: bool = False,
    ) -> AsyncIterator[dict[str, np.ndarray]]:
        """Yield the answers to many images, in order, several requests at a time."""
        names = list(output_filter)

        def ask(batch):
            return self.predict_images(
                batch, version, names, version_label=version_label
            )

        look_up = self._conversation.look_up(version, version_label)
        return self._stream(images, ask, look_up, batch_size, in_flight, progress)

    async def classify(
        self,
        examples: Iterable[Mapping[str, Any] | bytes],
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
        examples: Iterable[Mapping[str, Any] | bytes],
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
    ) -> dict[str, dict[str, dict]]:
        """Return the signatures of the model, asked anew."""
        return await self._run(self._conversation.metadata(version, version_label))

    async def status(self, version: int | None = None) -> list[VersionState]:
        """Return the state of each version the server knows, the newest first."""
        return await self._run(self._conversation.status(version))

    async def _run(self, steps: Steps) -> Any:
        """Carry every call of a conversation."""
        deadline = time.monotonic() + self._timeout
        try:
            call = next(steps)
            while True:
                left = max(0.0, deadline - time.monotonic())
                method = self._methods[call.method]
                try:
                    response = await method(call.request, timeout=left)
                except grpc.RpcError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(response)
        except StopIteration as done:
            return done.value

    def _stream(self, items, ask, look_up, batch_size, in_flight, progress):
        streaming.check(batch_size, in_flight)
        bar = streaming.progress_bar(items, progress)
        chunks = streaming.chunks_of_either(items, batch_size)

        async def answers():
            with bar:
                await self._run(look_up)
                found = streaming.answers_awaited(chunks, ask, in_flight, bar)
                async with contextlib.aclosing(found):
                    async for answer in found:
                        yield answer

        return answers()
