"""The callback that estimates population statistics during and after training."""

import keras
import numpy as np
import pytest

from bn_keras import BatchNormalization
from bn_keras.training import PopulationStatistics


def trained(callback, epochs=3, **arguments):
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    x = draw.normal(3.0, 2.0, (64, 4)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05, **arguments), "mse")
    y = x[:, :1] - x[:, 1:2]
    callback.data, callback.validation_data = x, (x, y)
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[callback]
    )
    return model, x, history


def assert_fits(model, x):
    inputs = np.asarray(model.layers[0](x), np.float64)
    layer = model.layers[1]
    np.testing.assert_allclose(layer.moving_mean, inputs.mean(0), atol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, inputs.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"use_ema": True, "ema_momentum": 0.9}])
def test_the_statistics_fit_the_weights_at_the_end_of_training(arguments, capsys):
    callback = PopulationStatistics(None)
    model, x, _ = trained(callback, **arguments)
    assert_fits(model, x)
    ((epoch, before, after),) = callback.history
    assert epoch == 3
    assert after < before  # momentum 0.99 and twelve steps
    assert f"population statistics: loss {before:.4g} -> {after:.4g}" in (
        capsys.readouterr().out
    )


def test_the_statistics_are_estimated_every_few_epochs():
    callback = PopulationStatistics(None, every=2, verbose=0, method="pooled")
    model, x, history = trained(callback, epochs=4)
    assert [epoch for epoch, _, _ in callback.history] == [2, 4]
    assert len(history.history["bn_after"]) == 2
    assert_fits(model, x)


@pytest.mark.fast
def test_the_errors_for_wrong_arguments():
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"at least 1\. Received: every="):
            PopulationStatistics(None, every=every)
    with pytest.raises(ValueError, match=r"one of loss\. Received: monitor='auc'"):
        trained(PopulationStatistics(None, monitor="auc"), epochs=1)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (np.ones((8, 4)), {"batches": 3}, "Received: batches"),
        (np.ones((8, 4)), {"method": "mean"}, "Received: method='mean'"),
        (np.ones((8, 4)), {"steps": 0}, "Received: steps=0"),
        (np.ones((8, 4)), {"prior_count": -1}, "Received: prior_count=-1"),
        ((np.ones((8, 4)), np.ones(8)), {}, "a single tuple"),
        (None, {}, "Received: None"),
        (iter([np.ones((8, 4))]), {"every": 1}, "an iterator, list_iterator"),
    ],
)
def test_a_wrong_argument_is_an_error_before_the_first_step(data, arguments, message):
    model = keras.Sequential([keras.Input((4,)), BatchNormalization()])
    model.compile("sgd", "mse")
    x = np.ones((8, 4), "float32")
    callback = PopulationStatistics(data, **arguments)
    with pytest.raises(ValueError, match=message):
        model.fit(x, x, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations) == 0
