"""Building and training by a recipe, and what a run leaves."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from bn_keras import BatchNormalization, data
from bn_keras.errors import DivergenceError
from bn_keras.training import build, preprocessing_for, run_record, train
from bn_keras.training.recipes import BN_MLP, BN_X5, CONVNET, RECIPES


@pytest.fixture(scope="module")
def digits():
    return data.digits()


# One of each network in the default suite, as an Inception takes a second to build.
BUILT_BY_DEFAULT = ("mlp", "bn-mlp", "convnet", "bn-convnet", "inception", "bn-x5")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in BUILT_BY_DEFAULT else [pytest.mark.slow])
        for name in RECIPES
    ],
)
def test_every_recipe_builds_with_or_without_batch_normalization(name, digits):
    # Weights are downloaded: tests/models/test_tf_slim_checkpoint.py reads such ones.
    recipe = replace(RECIPES[name], initial_weights=None, freeze_statistics=False)
    model = build(recipe, digits)
    normalizations = [
        layer for layer in model.layers if isinstance(layer, BatchNormalization)
    ]
    assert bool(normalizations) == recipe.batch_normalization
    assert model.output_shape == (None, 10)


def test_keras_does_not_compile_with_xla_on_a_cpu(digits):
    if keras.distribution.list_devices("gpu"):
        pytest.skip("this machine has a GPU, for which Keras chooses XLA")
    assert build(BN_MLP, digits).jit_compile is False


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """The folder, the model and the learning curve of `BN_MLP` after two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    model, history = train(replace(BN_MLP, epochs=2), digits, folder, verbose=0)
    return folder, model, history


def test_a_saved_model_gives_the_same_answers(trained, digits):
    folder, model, history = trained
    assert history["val_accuracy"][-1] > 0.5
    loaded = keras.models.load_model(folder / "bn-mlp.keras")
    np.testing.assert_array_equal(
        loaded.predict(digits.test.images, verbose=0),
        model.predict(digits.test.images, verbose=0),
    )
    with (folder / "bn-mlp.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["steps"]) for row in rows] == [("1", "23"), ("2", "46")]
    assert {row["learning_rate"] for row in rows} == {"0.5"}
    assert all(0 < float(row["seconds"]) < 60 for row in rows)
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"]
    assert {path.suffix for path in folder.iterdir()} == {".keras", ".csv", ".json"}


def test_training_ends_with_the_population_statistics(trained, digits):
    _, model, _ = trained
    # The inputs of the first normalization do not depend on other statistics.
    inputs = digits.train.images.reshape(-1, 64) @ np.asarray(
        model.get_layer("hidden_1_dense").kernel
    )
    layer = model.get_layer("hidden_1_bn")
    np.testing.assert_allclose(layer.moving_mean, inputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, inputs.var(0, ddof=1), rtol=1e-4)


def test_the_same_seed_gives_bitwise_the_same_weights(trained, digits):
    _, model, _ = trained
    other, _ = train(replace(BN_MLP, epochs=2), digits, verbose=0)
    for weight, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("name", ["loss", "weights"])
def test_a_run_that_diverges_stops_and_keeps_a_finite_checkpoint(
    tmp_path, digits, trained, name
):
    class Spoil(keras.callbacks.Callback):
        """Make a weight infinite, or report a loss that is, in the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == 1 and batch == 5:
                if name == "loss":
                    logs["loss"] = float("nan")
                else:
                    kernel = self.model.weights[0]
                    kernel.assign(kernel + np.inf)

    recipe = replace(BN_MLP, epochs=2)
    with pytest.raises(
        DivergenceError,
        match=r"\w+ at step (29|30)\. Received: learning_rate=0.5, the last good",
    ):
        train(recipe, digits, tmp_path, [Spoil()], verbose=0, checkpoint_steps=1)
    model, _ = train(recipe, digits, tmp_path, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    # If an infinite weight had been saved, the weights would not be finite now.
    _, expected, _ = trained
    for weight, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_tensorboard_shows_percentiles_and_the_weights_of_normalizations(
    tmp_path, digits
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = replace(BN_MLP, epochs=2)
    _, history = train(recipe, digits, tmp_path, verbose=0, tensorboard=True)
    events = EventAccumulator(
        str(tmp_path / "bn-mlp.tensorboard"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = set(events.Tags()["tensors"])

    def values(tag):
        return [tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]

    np.testing.assert_allclose(
        values("epoch/val_accuracy"), history["val_accuracy"], rtol=1e-6
    )
    levels = [
        values(f"hidden_3_activation/percentile_{percentile}")
        for percentile in (15, 50, 85)
    ]
    assert np.shape(levels) == (3, 2)
    assert (np.diff(levels, axis=0) > 0).all()
    # Batch normalization centres the input of the nonlinearity.
    assert np.abs(levels[1]).max() < 1
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        assert f"hidden_3_bn/{name}" in tags


@pytest.mark.fast
def test_the_learning_rate_decays_as_the_recipe_says(digits):
    recipe = replace(
        CONVNET, learning_rate=0.2, decay=0.5, decay_epochs=2, batch_size=100
    )
    schedule = build(recipe, digits).optimizer.get_config()["learning_rate"]["config"]
    assert schedule["initial_learning_rate"] == 0.2
    assert (schedule["decay_steps"], schedule["decay_rate"]) == (2 * 14, 0.5)
    assert not schedule["staircase"]


@pytest.mark.fast
def test_an_option_that_a_network_does_not_have_is_an_error(digits):
    with pytest.raises(
        ValueError, match=r"only set options of MLP\. Received: dropout\. Leave"
    ):
        build(replace(BN_MLP, dropout=0.1), digits)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_does_not_change_the_policy(tmp_path, digits, dtype):
    policy = keras.config.dtype_policy()
    recipe = replace(BN_MLP, epochs=3, dtype=dtype)
    model, history = train(recipe, digits, tmp_path, verbose=0)
    assert keras.config.dtype_policy() is policy
    assert model.get_layer("hidden_2_dense").compute_dtype == dtype[6:]
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert history["val_accuracy"][-1] > 0.7


def test_small_mini_batches_are_warned_of(digits):
    with pytest.warns(UserWarning, match="over 8 examples, which is noisy below 16"):
        train(replace(BN_MLP, epochs=1, batch_size=8), digits, verbose=0)


@pytest.mark.fast
def test_the_gradient_is_clipped_only_when_asked(digits):
    assert build(BN_MLP, digits).optimizer.global_clipnorm is None
    clipped = replace(BN_MLP, clip_norm=0.5)
    assert build(clipped, digits).optimizer.global_clipnorm == 0.5


@pytest.mark.fast
def test_the_record_of_a_run_is_read_as_it_was_written(tmp_path, digits):
    recipe = replace(BN_X5, width=0.5)
    preprocessing = preprocessing_for(recipe, digits)
    run = run_record.Run(recipe, "digits", 1437, ("a", "b"), preprocessing)
    run.write(tmp_path / "model.json")
    assert run_record.read_for_model(tmp_path / "model.keras") == run
    assert run_record.read_for_model(tmp_path / "other.keras") is None
    other = run._replace(recipe=replace(recipe, epochs=1, seed=3), examples=1438)
    assert run.differences(other) == ["seed: 0, 3", "examples: 1437, 1438"]
    larger = run._replace(preprocessing=replace(preprocessing, size=(64, 64)))
    assert run.differences(larger) == ["preprocessing.size: (8, 8), (64, 64)"]


@pytest.mark.fast
def test_a_run_shows_itself_in_one_line_and_as_a_table(digits):
    preprocessing = preprocessing_for(BN_MLP, digits)
    run = run_record.Run(BN_MLP, "digits", 1437, digits.class_names, preprocessing)
    assert repr(run).startswith(
        "Run(recipe='bn-mlp', data='digits', examples=1437, classes=10, "
        "preprocessing=Preprocessing(size=(8, 8), "
    )
    table = run._repr_html_().replace(' style="text-align: left"', "")
    assert "Run of bn-mlp" in table
    assert "<th>training examples</th><td>1,437</td>" in table


@pytest.mark.fast
@pytest.mark.parametrize("content", ["", "{}", '{"recipe": {}}', "[1]"])
def test_a_file_that_is_not_a_record_is_an_error(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ValueError, match=r"must hold the record of a training run"):
        run_record.read_for_model(tmp_path / "model.keras")
