"""Several models, found by name, number and label."""

import threading

import numpy as np
import pytest
from serving_models import Model, write
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
from version_fakes import (
    ALL_VERSIONS,
    Loader,
    add_versions,
    config_of,
    few_objects_to_collect,
    labels,
    registry_factory,
    served_version,
    spec,
    states,
    two_models,
    wait_for,
)

from bn_keras_serving.common.errors import (
    InvalidRequestError,
    ServableNotFoundError,
    UnknownLabelError,
)
from bn_keras_serving.configuration import single_model
from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.models.versions import LOAD_ATTEMPTS
from bn_keras_serving.servable.servable import Servable

pytestmark = pytest.mark.usefixtures(few_objects_to_collect.__name__)


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def disk(tmp_path):
    return two_models(tmp_path)


@pytest.fixture
def start(loader):
    yield from registry_factory(loader)


def test_a_model_is_found_by_name_number_and_label(disk, start):
    models = start(config_of(disk, a=ALL_VERSIONS + labels(stable=1, canary=2), b=""))
    assert models.names() == ["a", "b"]
    assert served_version(models, "a") == ("a", 2)
    assert served_version(models, "a", version=1) == ("a", 1)
    assert served_version(models, "a", label="stable") == ("a", 1)
    assert served_version(models, "a", label="canary") == ("a", 2)
    assert served_version(models, "b") == ("b", 5)
    assert states(models, "a") == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert [one.version for one in models.statuses("a")] == [2, 1]
    assert models.statuses("nope") == []


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (spec(""), InvalidRequestError, "ModelSpec has no name specified."),
        (
            spec("nope"),
            ServableNotFoundError,
            "Servable not found for request: Latest(nope)",
        ),
        (
            spec("nope", 7),
            ServableNotFoundError,
            "Servable not found for request: Specific(nope, 7)",
        ),
        (
            spec("b", 7),
            ServableNotFoundError,
            "Servable not found for request: Specific(b, 7)",
        ),
        (
            spec("b", 0),
            ServableNotFoundError,
            "Servable not found for request: Specific(b, 0)",
        ),
        (
            spec("b", label="stable"),
            UnknownLabelError,
            "Unrecognized servable version label: stable",
        ),
        (
            spec("nope", label="stable"),
            UnknownLabelError,
            "Unrecognized servable version label: stable",
        ),
        (
            spec("a", label=""),
            UnknownLabelError,
            "Unrecognized servable version label: ",
        ),
    ],
)
def test_what_is_not_served_is_told_as_the_contract_says(
    disk, start, asked, error, message
):
    models = start(config_of(disk, a=labels(stable=2), b=""))
    with pytest.raises(error) as raised, models.use(asked):
        pass
    assert str(raised.value) == message


def test_a_label_may_outlive_its_version(disk, start):
    models = start(config_of(disk, a=labels(stable=2)))
    add_versions(disk / "a", 3)
    models.reload(config_of(disk, a=labels(stable=2) + ALL_VERSIONS))
    (disk / "a" / "2").rmdir()
    models.reload(config_of(disk, a=labels(stable=2)))
    with pytest.raises(ServableNotFoundError, match=r"Specific\(a, 2\)"):
        served_version(models, "a", label="stable")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "absent which is not there; export a model there first."),
        ("", " without any; export a model there first."),
    ],
)
def test_a_single_model_without_versions_is_refused(disk, start, path, message):
    with pytest.raises(ValueError, match=r"1/saved_model\.pb\. Received: ") as raised:
        start(single_model("m", str(disk / path)))
    assert str(raised.value).endswith(f"{disk / path}{message.removeprefix('absent')}")


def test_a_single_model_that_does_not_load_is_refused_at_once(disk, start, loader):
    loader.broken.add(5)
    with pytest.raises(ValueError, match=r"Expected version 5 in .*half a file"):
        start(config_of(disk, b=""), poll_seconds=0.01)
    assert len(loader.loaded) == 1


def test_one_of_several_models_is_waited_for(disk, start, loader, caplog):
    began = threading.Event()

    def come():
        began.wait(20)
        wait_for(lambda: "Waiting for 1 model(s)" in caplog.text)
        loader.broken.add(1)  # half-copied when it is first seen
        add_versions(disk / "late", 1)
        wait_for(lambda: "half a file" in caplog.text)
        loader.broken.clear()

    coming = threading.Thread(target=come)
    coming.start()
    began.set()
    models = start(config_of(disk, a="", late=""), poll_seconds=0.02)
    coming.join()
    assert served_version(models, "late") == ("late", 1)
    assert caplog.text.count("which is not there") == 1


def test_one_of_several_models_that_fails_ends_the_start(disk, loader):
    loader.broken.add(5)
    models = ModelRegistry(config_of(disk, a="", b=""), loader, poll_seconds=0.01)
    with pytest.raises(ValueError, match=r"Expected version 5 in .*half a file"):
        models.start()
    assert len(loader.loaded) == 1 + LOAD_ATTEMPTS
    assert models.names() == []


def test_without_further_looks_no_model_is_waited_for(disk, start):
    with pytest.raises(ValueError, match="late which is not there"):
        start(config_of(disk, a="", late=""), poll_seconds=0)


def test_a_wait_for_a_model_ends_with_the_close(disk, loader):
    models = ModelRegistry(config_of(disk, a="", late=""), loader, poll_seconds=0.01)
    closing = threading.Timer(0.1, models.close)
    closing.start()
    with pytest.raises(ValueError, match="shutting down"):
        models.start()
    closing.join()


def test_a_configuration_without_models_starts_and_takes_some(disk, start, caplog):
    models = start(ModelServerConfig())
    assert "without models" in caplog.text
    models.reload(config_of(disk, b=""))
    assert served_version(models, "b") == ("b", 5)


def test_a_start_that_cannot_label_is_refused(disk, start):
    message = "label to version 1 of model a, which is not currently available for inf"
    with pytest.raises(ValueError, match=message):
        start(config_of(disk, a=labels(stable=1)))


@pytest.mark.parametrize(
    "seconds", [{"poll_seconds": -1}, {"config_poll_seconds": float("nan")}]
)
def test_seconds_below_zero_are_refused(disk, loader, seconds):
    with pytest.raises(ValueError, match="must be 0 or more"):
        ModelRegistry(config_of(disk), loader, **seconds)


def test_newer_versions_are_found_by_looking(disk, start):
    models = start(config_of(disk, a="", b=""), poll_seconds=0.02)
    add_versions(disk / "a", 3)
    add_versions(disk / "b", 6)
    wait_for(lambda: served_version(models, "a") == ("a", 3))
    wait_for(lambda: served_version(models, "b") == ("b", 6))


def test_zero_seconds_look_only_at_the_start(disk, start, loader):
    models = start(config_of(disk, a=""), poll_seconds=0)
    add_versions(disk / "a", 3)
    threading.Event().wait(0.1)
    assert served_version(models, "a") == ("a", 2)


def test_saved_models_of_two_names_answer_each_for_itself(tmp_path):
    for factor, name in enumerate(("twice", "thrice"), 2):
        (tmp_path / name).mkdir()
        write(Model(factor), tmp_path / name, 1)

    def load(name, version, path):
        return Servable(version, path)

    with ModelRegistry(config_of(tmp_path, twice="", thrice=""), load) as models:
        for factor, name in enumerate(("twice", "thrice"), 2):
            with models.use(spec(name)) as servable:
                rows = {"x": np.ones((1, 4), np.float32)}
                answer = servable.signature().run(rows)["y"]
            np.testing.assert_array_equal(answer, np.full((1, 4), factor))
