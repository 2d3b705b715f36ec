"""A small model, as it is, trained, exported and served, for the tests of commands."""

import pytest

from bn_keras.cli import command_line

# Keras and TensorFlow are imported in the fixtures, because the tests of arguments use
# neither.


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    import keras

    from bn_keras import BatchNormalization

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, use_bias=False),
            BatchNormalization(),
            keras.layers.Softmax(name="probabilities"),
        ]
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def exported(model_file, tmp_path_factory):
    """A folder with version 1 of the model."""
    folder = tmp_path_factory.mktemp("exported") / "m"
    assert command_line.main(["export", str(model_file), str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def server(exported):
    from bn_keras_serving import PredictionServer

    with PredictionServer(exported, port=0) as server:
        yield server


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model that `bn-keras train` has trained for one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", "bn-mlp", "--data", "digits", "--workdir", str(folder)]
    assert command_line.main([*arguments, "--epochs", "1"]) == 0
    return folder / "bn-mlp.keras"
