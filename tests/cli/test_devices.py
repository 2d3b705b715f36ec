"""The devices that each command lets Keras and TensorFlow use, with fakes of both."""

import os
import sys
import types

import pytest

from bn_keras.cli import command_line

pytestmark = pytest.mark.fast

DATA = ["--data", "digits"]
LINES = {
    "demo": ["demo"],
    "train": ["train", "mlp", *DATA, "--workdir", "w"],
    "dry run": ["train", "mlp", *DATA, "--workdir", "w", "--dry-run"],
    "evaluate": ["evaluate", "m.keras", *DATA],
    "export": ["export", "m.keras", "d"],
    "serve": ["serve", "d"],
    "predict": ["predict", "--address", "h:1", "--model-name", "m", "x.npy"],
    "data": ["data", "convert", *DATA, "--out", "o"],
    "reproduce": ["reproduce", "mnist"],
    "recipes": ["recipes"],
    "completion": ["completion", "bash"],
}
ALL_DEVICES = ["CPU:0", "GPU:0", "GPU:1"]


class FakeTensorFlow:
    """The parts of `tensorflow.config` that are used, on a machine with two GPUs."""

    def __init__(self):
        self.config = self
        self.visible = ALL_DEVICES
        self.opened = None
        self.memory_grows = None

    def set_visible_devices(self, devices, kind):
        if self.opened is not None:
            raise RuntimeError("devices cannot be modified after being initialized")
        self.visible = [name for name in self.visible if kind not in name] + devices

    def list_logical_devices(self):
        if self.opened is None:
            self.opened = self.visible
            # TensorFlow reads the variable when it opens the GPUs.
            self.memory_grows = os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH")


@pytest.fixture
def tf(monkeypatch):
    fake = FakeTensorFlow()
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setattr(os, "environ", {})
    return fake


@pytest.fixture
def use_backend(monkeypatch):
    """Return a function that makes Keras have a backend."""

    def use(name):
        backend = types.SimpleNamespace(backend=lambda: name)
        fake = types.SimpleNamespace(backend=backend)
        monkeypatch.setitem(sys.modules, "keras", fake)

    return use


def start(command):
    options = command_line.parse(LINES[command])
    options.command.start(options)


@pytest.mark.parametrize("command", ["predict", "recipes", "completion"])
def test_a_command_that_needs_no_device_imports_nothing(monkeypatch, command):
    for name in ("keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    start(command)


@pytest.mark.parametrize(
    "command", ["demo", "train", "evaluate", "export", "serve", "reproduce"]
)
def test_a_command_that_computes_opens_the_gpus_and_their_memory_grows(
    tf, use_backend, command
):
    use_backend("tensorflow")
    start(command)
    assert tf.opened == ALL_DEVICES
    assert tf.memory_grows == "true"


@pytest.mark.parametrize("command", ["dry run", "data"])
def test_a_command_that_only_reads_and_builds_opens_no_gpu(tf, use_backend, command):
    use_backend("tensorflow")
    start(command)
    assert tf.opened == ["CPU:0"]


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "export"])
def test_tensorflow_sees_no_gpu_beside_another_backend(
    tf, use_backend, command, backend
):
    use_backend(backend)
    start(command)
    assert tf.opened == ["CPU:0"]


def test_serve_needs_no_keras(tf, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    start("serve")
    assert tf.opened == ALL_DEVICES


def test_a_cluster_is_connected_before_devices_are_opened(tf, use_backend):
    os.environ["TF_CONFIG"] = "{}"
    use_backend("tensorflow")
    start("train")
    assert tf.opened is None


def test_a_user_may_let_tensorflow_reserve_all_memory(tf, use_backend):
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "false"
    use_backend("tensorflow")
    start("train")
    assert tf.memory_grows == "false"


def test_a_second_command_of_a_process_keeps_the_devices(tf, use_backend):
    use_backend("tensorflow")
    start("train")
    start("data")
    assert tf.opened == ALL_DEVICES
