"""The registry: several models, found by name, number and label."""

import threading

import pytest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
from version_fakes import (
    ALL_VERSIONS,
    Loader,
    add_versions,
    config_of,
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
from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.models import ModelRegistry

pytestmark = pytest.mark.fast


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
    assert [status.version for status in models.statuses("a")] == [2, 1]
    assert models.statuses("nope") == []


@pytest.mark.parametrize(
    ("model_spec", "error", "message"),
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
def test_errors_for_models_that_are_not_served_follow_the_contract(
    disk, start, model_spec, error, message
):
    models = start(config_of(disk, a=labels(stable=2), b=""))
    with pytest.raises(error) as raised, models.use(model_spec):
        pass
    assert str(raised.value) == message


def test_a_label_may_outlast_its_version(disk, start):
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
        ("absent", ", which does not exist. Export a model to it first."),
        ("", ", which contains no version. Export a model to it first."),
    ],
)
def test_a_single_model_without_versions_is_rejected(disk, start, path, message):
    with pytest.raises(ValueError, match=r"1/saved_model\.pb\. Received: ") as raised:
        start(single_model("m", str(disk / path)))
    assert str(raised.value).endswith(f"{disk / path}{message}")


def test_a_single_model_that_fails_to_load_is_rejected_at_once(disk, start, loader):
    loader.broken.add(5)
    with pytest.raises(ValueError, match=r"Version 5 in .*half a file"):
        start(config_of(disk, b=""), poll_seconds=0.01)
    assert len(loader.loaded) == 1


def test_the_start_waits_for_a_model_among_several(disk, start, loader, caplog):
    began = threading.Event()

    def create_late():
        began.wait(20)
        wait_for(lambda: "Waiting for 1 model(s)" in caplog.text)
        loader.broken.add(1)  # incomplete when it is first seen
        add_versions(disk / "late", 1)
        wait_for(lambda: "half a file" in caplog.text)
        loader.broken.clear()

    creating = threading.Thread(target=create_late)
    creating.start()
    began.set()
    models = start(
        config_of(disk, a="", late=""),
        poll_seconds=0.02,
        loading=Loading(retry_seconds=0.1),
    )
    creating.join()
    assert served_version(models, "late") == ("late", 1)
    assert caplog.text.count("which does not exist") == 1


def test_the_start_fails_if_a_model_among_several_fails(disk, loader):
    loader.broken.add(5)
    models = ModelRegistry(
        config_of(disk, a="", b=""),
        loader,
        poll_seconds=0.01,
        loading=Loading(retries=2, retry_seconds=0.02),
    )
    with pytest.raises(ValueError, match=r"Version 5 in .*half a file"):
        models.start()
    assert len(loader.loaded) == 1 + 3
    assert models.names() == []


def test_the_start_does_not_wait_without_polling(disk, start):
    with pytest.raises(ValueError, match="late, which does not exist"):
        start(config_of(disk, a="", late=""), poll_seconds=0)


def test_close_ends_the_wait_for_a_model(disk, loader):
    models = ModelRegistry(config_of(disk, a="", late=""), loader, poll_seconds=0.01)
    closing = threading.Timer(0.1, models.close)
    closing.start()
    with pytest.raises(ValueError, match="shutting down"):
        models.start()
    closing.join()


def test_models_can_be_added_to_an_empty_configuration(disk, start, caplog):
    models = start(ModelServerConfig())
    assert "lists no models" in caplog.text
    models.reload(config_of(disk, b=""))
    assert served_version(models, "b") == ("b", 5)


def test_a_label_for_an_unavailable_version_is_rejected_at_the_start(disk, start):
    message = "label to version 1 of model a, which is not currently available for inf"
    with pytest.raises(ValueError, match=message):
        start(config_of(disk, a=labels(stable=1)))


@pytest.mark.parametrize(
    "seconds", [{"poll_seconds": -1}, {"config_poll_seconds": float("nan")}]
)
def test_negative_seconds_are_rejected(disk, loader, seconds):
    with pytest.raises(ValueError, match="must be 0 or more"):
        ModelRegistry(config_of(disk), loader, **seconds)


def test_polling_finds_newer_versions(disk, start):
    models = start(config_of(disk, a="", b=""), poll_seconds=0.02)
    add_versions(disk / "a", 3)
    add_versions(disk / "b", 6)
    wait_for(lambda: served_version(models, "a") == ("a", 3))
    wait_for(lambda: served_version(models, "b") == ("b", 6))


def test_zero_seconds_poll_only_at_the_start(disk, start, loader):
    models = start(config_of(disk, a=""), poll_seconds=0)
    add_versions(disk / "a", 3)
    threading.Event().wait(0.1)
    assert served_version(models, "a") == ("a", 2)


@pytest.mark.parametrize(("threads", "at_a_time"), [(0, 1), (1, 1), (2, 2)])
def test_the_start_loads_several_models_at_a_time(
    disk, start, loader, threads, at_a_time
):
    for name in "cd":
        add_versions(disk / name, 7)
    loader.gates = {version: threading.Event() for version in (2, 5, 7)}
    opening = threading.Thread(target=open_in_turn, args=(loader, at_a_time))
    opening.start()
    models = start(
        config_of(disk, a="", b="", c="", d=""), loading=Loading(threads=threads)
    )
    opening.join()
    assert models.names() == ["a", "b", "c", "d"]
    assert loader.highest_concurrency == at_a_time


def open_in_turn(loader, at_a_time):
    """Let the loads continue once that many have begun."""
    wait_for(lambda: len(loader.loaded) == at_a_time)
    threading.Event().wait(0.05)  # for one that should not begin
    for gate in loader.gates.values():
        gate.set()


def test_later_loads_have_the_same_limit(disk, start, loader):
    models = start(
        config_of(disk, a="", b=""), poll_seconds=0.02, loading=Loading(threads=1)
    )
    loader.gates[9] = threading.Event()
    for name in "ab":
        add_versions(disk / name, 9)
    wait_for(lambda: len(loader.loaded) == 3)
    threading.Event().wait(0.1)
    assert len(loader.loaded) == 3
    loader.gates[9].set()
    wait_for(lambda: served_version(models, "a") == ("a", 9))
    wait_for(lambda: served_version(models, "b") == ("b", 9))
