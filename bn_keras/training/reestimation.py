"""Re-estimation of the population statistics during and after training."""

from collections.abc import Iterator
from typing import Any

import keras

from bn_keras.population import estimate_population_statistics
from bn_keras.population.estimation import check_arguments

_CHECKED = {"method", "steps", "prior", "prior_count"}


class PopulationStatistics(keras.callbacks.Callback):
    """Estimates the population statistics at the end of training, or every few epochs.

    Moving averages lag behind weights that change quickly, and do not fit averaged
    weights at all: with `use_ema=True` of an optimizer, `SwapEMAWeights` or stochastic
    weight averaging, list this callback after the one that averages the weights; the
    statistics are then those of the averaged weights. `logs` get `bn_before` and
    `bn_after`, the monitored metric on `validation_data`.

    Args:
        data: The data for the estimate, as of `estimate_population_statistics`.
        every: The number of epochs between two estimates, or None for one estimate at
            the end of training.
        validation_data: What `model.evaluate` takes, a tuple or a data set, or None to
            evaluate nothing.
        monitor: The metric of `model.evaluate` to compare.
        verbose: 1 prints the metric before and after, 0 does not.
        **arguments: Other arguments of `estimate_population_statistics`, such as
            `method` and `steps`.

    Raises:
        ValueError: If `every` is neither None nor a positive integer; when training
            begins, if another argument is invalid, or `data` can be read only once and
            `every` is not None; when it ends, if the model has no such metric.

    Example:
    ```python
    import keras
    import numpy as np
    from bn_keras import BatchNormalization
    from bn_keras.training import PopulationStatistics

    x = np.random.default_rng(0).normal(3.0, 1.0, (64, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), BatchNormalization()])
    model.compile(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9), "mse")
    model.fit(x, x, verbose=0, callbacks=[PopulationStatistics(x, verbose=0)])
    assert np.allclose(model.layers[0].moving_mean, x.mean(0), atol=1e-4)
    ```

    Reference:
        Izmailov et al. 2018, "Averaging weights leads to wider optima and better
        generalization", section 3.2.
    """

    def __init__(
        self,
        data: Any,
        every: int | None = None,
        validation_data: Any = None,
        monitor: str = "loss",
        verbose: int = 1,
        **arguments: Any,
    ) -> None:
        super().__init__()
        is_integer = isinstance(every, int) and not isinstance(every, bool)
        if every is not None and (not is_integer or every < 1):
            raise ValueError(
                "`every` must be None or an integer of at least 1. Received: "
                f"every={every!r}"
            )
        self.data, self.every = data, every
        self.validation_data, self.monitor = validation_data, monitor
        self.verbose, self.arguments = verbose, arguments
        # `(epoch, metric before, metric after)` of each estimate.
        self.history: list[tuple[int, float | None, float | None]] = []
        self._epoch = 0

    def on_train_begin(self, logs=None):  # noqa: D102 (Keras documents it)
        # A wrong argument must not wait until training has ended.
        unknown = set(self.arguments) - {*_CHECKED, "include_frozen"}
        if unknown:
            raise ValueError(
                "`arguments` must be those of `estimate_population_statistics`. "
                f"Received: {', '.join(sorted(unknown))}"
            )
        if self.every is not None and isinstance(self.data, Iterator):
            raise ValueError(
                "`data` must be readable for each estimate if `every` is set. "
                f"Received: an iterator, {type(self.data).__name__}. Pass a list or a "
                "data set"
            )
        checked = {key: self.arguments[key] for key in _CHECKED & set(self.arguments)}
        check_arguments(self.data, **checked)

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        self._epoch = epoch + 1
        if self.every is not None and self._epoch % self.every == 0:
            self._estimate(logs)

    def on_train_end(self, logs=None):  # noqa: D102
        done = bool(self.history) and self.history[-1][0] == self._epoch
        # After the last epoch `fit` replaces the weights by their averages.
        if not done or getattr(self.model.optimizer, "use_ema", False):
            self._estimate(logs)

    def _estimate(self, logs: Any) -> None:
        before = self._evaluate()
        model: Any = self.model
        estimate_population_statistics(model, self.data, verbose=0, **self.arguments)
        after = self._evaluate()
        self.history.append((self._epoch, before, after))
        if before is None or after is None:
            return
        if logs is not None:
            logs.update(bn_before=before, bn_after=after)
        if self.verbose:
            print(  # noqa: T201 (as Keras' callbacks do)
                f"population statistics: {self.monitor} {before:.4g} -> {after:.4g}"
            )

    def _evaluate(self) -> float | None:
        if self.validation_data is None:
            return None
        model: Any = self.model
        data = self.validation_data
        arguments = data if isinstance(data, tuple) else (data,)
        results = model.evaluate(*arguments, verbose=0, return_dict=True)
        if self.monitor not in results:
            raise ValueError(
                f"`monitor` must be one of {', '.join(results)}. Received: "
                f"monitor={self.monitor!r}"
            )
        return float(results[self.monitor])
