"""The moments of all layers for a mini-batch, in one compiled pass of a model."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bn_keras.layer.moment_observer import observe_moments
from bn_keras.layer.moments import Moments


class _LastCallError(BaseException):
    """Ends a pass. Not an `Exception`, which Keras and models may catch."""


class MomentCollector:
    """Calls a model in inference mode and returns the moments that its layers saw.

    The pass is compiled; a model that cannot be compiled is run eagerly.

    Args:
        model: A built model.
        layers: The layers to observe.
        normalize_by_batch: Whether these normalize by the moments of the batch.
        last_call: The number of observed calls after which the pass ends, or None.
        eager_calls: The number of mini-batches to run eagerly first: compiling takes as
            long as a few of them.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[Any],
        normalize_by_batch: bool = False,
        last_call: int | None = None,
        eager_calls: int = 0,
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.normalize_by_batch = normalize_by_batch
        self.last_call = last_call
        self._eager_calls = eager_calls
        self._positions = {id(layer): i for i, layer in enumerate(self.layers)}
        makers = {"tensorflow": self._tensorflow_pass, "jax": self._jax_pass}
        make = makers.get(keras.backend.backend(), lambda: None)
        self._compiled = None if getattr(model, "run_eagerly", False) else make()

    def __call__(self, batch: Any) -> list[tuple[Any, Moments]]:
        """Return the layers that were called, in that order, with their moments.

        Args:
            batch: The inputs of the model.

        Raises:
            ValueError: If a layer is called in a `tf.function` that the model's code
                has made.
        """
        moments = None
        self._eager_calls -= 1
        if self._compiled is not None and self._eager_calls < 0:
            try:
                moments = self._compiled(batch)
            except Exception:
                # Loops of RNNs, for example, and Python code that needs numbers: what
                # is wrong with the model or the data shows without compilation, too.
                self._compiled = None
        if moments is None:
            moments = self._run(batch)
        return [
            (
                self.layers[int(key.partition(" ")[2])],
                Moments(*(np.asarray(ops.convert_to_numpy(x)) for x in moments[key])),
            )
            for key in sorted(moments)
        ]

    def _run(self, batch):
        """Return the moments by the number of the call and the position of the layer.

        The keys are strings that sort in the order of the calls, because compiled
        functions sort the keys of the dictionaries that they return.
        """
        moments, scope = {}, _graph()

        def observe(layer, values):
            if _graph() is not scope:
                raise ValueError(
                    "Batch normalizations must be called by Python code or by a `call` "
                    f"that is a tf.function. Received: layer {layer.path!r}, called in "
                    "another tf.function or loop. Call "
                    "`tf.config.run_functions_eagerly(True)` before the estimate."
                )
            moments[f"{len(moments):08d} {self._positions[id(layer)]}"] = values
            if len(moments) == self.last_call:
                raise _LastCallError

        with (
            observe_moments(self.layers, observe, self.normalize_by_batch, self.model),
            contextlib.suppress(_LastCallError),
        ):
            self.model(batch, training=False)
        return moments

    def _tensorflow_pass(self):
        import tensorflow as tf

        # TensorFlow counts traces by the code of a function, and warns of many. All
        # collectors share the code; a `partial` has none.
        run = functools.partial(self._run)
        return tf.function(run, autograph=False, reduce_retracing=True)

    def _jax_pass(self):
        import jax

        variables = self.model.variables

        @jax.jit
        def run(values, batch):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return self._run(batch)

        # The weights are arguments, not constants of the compiled function.
        return lambda batch: run([variable.value for variable in variables], batch)


def _graph() -> Any:
    """Return the TensorFlow graph that is being built, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
