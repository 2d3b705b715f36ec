"""Changes to the list of models while they are served."""

import contextlib
import gc
import threading
import time

import pytest
from google.protobuf import text_format
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
    UnmetConditionError,
)
from bn_keras_serving.models.versions import Versions

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


def all_statuses(models):
    """Return everything that a reload may change."""
    return {name: models.statuses(name) for name in models.names()}


def test_a_reload_replaces_the_whole_list(disk, start, loader):
    models = start(config_of(disk, a=""))
    with models.use(spec("a")) as before:
        models.reload(config_of(disk, b="", a=""))
        assert models.names() == ["b", "a"]
        with models.use(spec("a")) as after:
            assert after is before, "a model that stays must not be loaded again"
    models.reload(config_of(disk, b=""))
    assert models.names() == ["b"]
    with pytest.raises(ServableNotFoundError, match=r"Latest\(a\)"):
        served_version(models, "a")
    assert states(models, "a") == {2: "END"}
    models.reload(config_of(disk))
    assert models.names() == []


def test_a_reload_returns_once_new_models_are_loaded(disk, start, loader):
    models = start(config_of(disk, a=""))
    loader.gates = {5: threading.Event()}
    reloading = threading.Thread(target=models.reload, args=(config_of(disk, b=""),))
    reloading.start()
    wait_for(lambda: len(loader.loaded) == 2)
    assert served_version(models, "a") == ("a", 2), (
        "the old list must be served meanwhile"
    )
    assert models.names() == ["a"]
    assert reloading.is_alive()
    loader.gates[5].set()
    reloading.join()
    assert served_version(models, "b") == ("b", 5)


def test_a_changed_policy_is_in_effect_when_the_reload_returns(disk, start):
    models = start(config_of(disk, a=""), poll_seconds=0)
    models.reload(config_of(disk, a=ALL_VERSIONS))
    assert states(models, "a") == {1: "AVAILABLE", 2: "AVAILABLE"}
    models.reload(
        config_of(disk, a="model_version_policy { specific { versions: 1 } }")
    )
    assert states(models, "a") == {1: "AVAILABLE", 2: "END"}


def test_a_changed_base_path_is_loaded_before_the_old_one_is_unloaded(
    disk, start, loader
):
    models = start(config_of(disk, a=""))
    add_versions(disk / "elsewhere", 2)
    config = config_of(disk, a=f'base_path: "{disk}/elsewhere/"')
    loader.broken.add(2)
    with pytest.raises(UnmetConditionError, match="half a file"):
        models.reload(config)
    assert served_version(models, "a") == ("a", 2)
    loader.broken.clear()
    with models.use(spec("a")) as servable:
        models.reload(config)
        assert servable.path == disk / "a" / "2"
        assert served_version(models, "a") == ("elsewhere", 2)
    models.reload(config)
    assert len(loader.loaded) == 3, "a trailing slash must not change the path"


def test_labels_move_between_available_versions(disk, start):
    models = start(config_of(disk, a=ALL_VERSIONS + labels(stable=1, canary=2)))
    models.reload(config_of(disk, a=ALL_VERSIONS + labels(stable=2)))
    assert served_version(models, "a", label="stable") == ("a", 2)
    with pytest.raises(UnknownLabelError, match="canary"):
        served_version(models, "a", label="canary")


def test_labels_for_unavailable_versions_need_permission(disk, start):
    models = start(config_of(disk, a=""), allow_labels_for_unavailable=True)
    models.reload(config_of(disk, a=labels(next=3)))
    with pytest.raises(ServableNotFoundError, match=r"Specific\(a, 3\)"):
        served_version(models, "a", label="next")
    models.reload(config_of(disk, a=labels(next=3)))
    # A label in use must not move to a version that cannot answer.
    with pytest.raises(UnmetConditionError, match="label to version 4 of model a"):
        models.reload(config_of(disk, a=labels(next=4)))
    models.reload(config_of(disk, a=labels(next=2)))
    assert served_version(models, "a", label="next") == ("a", 2)


def rejected_reloads(disk):
    path = f'base_path: "{disk}/b"'
    return {
        "label to version 9 of model a, which is not currently available for infer": (
            UnmetConditionError,
            config_of(disk, a=labels(stable=9), b=""),
        ),
        "late, which does not exist": (
            UnmetConditionError,
            config_of(disk, b="", late=""),
        ),
        "Version 13 in .*broken must load": (
            UnmetConditionError,
            config_of(disk, b="", broken=""),
        ),
        "Expected model b to have an absolute path or URI; got base_path.*=models/b": (
            InvalidRequestError,
            config_of(disk, a="", b='base_path: "models/b"'),
        ),
        "Model b requests unsupported platform cheese": (
            InvalidRequestError,
            config_of(disk, a="", b='model_platform: "cheese"'),
        ),
        "Illegal to list model a multiple times in config list": (
            InvalidRequestError,
            config_of(disk, a="", b='name: "a"' + path),
        ),
        "It is only legal to transition from one ModelConfigList to another": (
            UnmetConditionError,
            ModelServerConfig(),
        ),
    }


@pytest.mark.parametrize("number", range(7))
def test_a_rejected_reload_changes_nothing(disk, start, loader, number):
    models = start(config_of(disk, a=labels(stable=2)))
    before = all_statuses(models)
    add_versions(disk / "broken", 13)
    loader.broken.add(13)
    message, (error, config) = list(rejected_reloads(disk).items())[number]
    with pytest.raises(error, match=message):
        models.reload(config)
    assert all_statuses(models) == before
    assert models.names() == ["a"]
    assert models.statuses("b") == []
    assert served_version(models, "a", label="stable") == ("a", 2)
    gc.collect()
    assert {fake.path.parent.name for fake in loader.fakes} == {"a"}, (
        "b must be unloaded"
    )
    models.reload(config_of(disk, a="", b=""))
    assert served_version(models, "b") == ("b", 5)


def test_reloads_run_one_after_the_other(disk, start, loader):
    models = start(config_of(disk, a=""))
    add_versions(disk / "c", 7)
    loader.gates = {5: threading.Event(), 7: threading.Event()}
    reloads = [
        threading.Thread(target=models.reload, args=(config_of(disk, **names),))
        for names in ({"a": "", "b": ""}, {"a": "", "c": ""})
    ]
    for number, reload in enumerate(reloads, 2):
        reload.start()
        wait_for(lambda number=number: len(loader.loaded) >= min(number, 2))
    for gate in loader.gates.values():
        gate.set()
    for reload in reloads:
        reload.join()
    assert loader.highest_concurrency == 1
    assert models.names() == ["a", "c"]


def test_no_request_fails_while_lists_and_labels_change(disk, start, loader):
    add_versions(disk / "other", 2)
    there = config_of(disk, a=labels(stable=2))
    elsewhere = config_of(disk, a=f'base_path: "{disk}/other"' + labels(stable=2), b="")
    models = start(there, poll_seconds=0)
    stop = threading.Event()
    failures, answers = [], set()

    def use_repeatedly(choice):
        try:
            while not stop.is_set():
                answers.add(served_version(models, "a", **choice))
                time.sleep(1e-4)  # leave some time to the reloads
        except BaseException as error:
            failures.append(error)

    choices = [{}, {"version": 2}, {"label": "stable"}] * 3
    users = [
        threading.Thread(target=use_repeatedly, args=(choice,))
        for choice in choices[:8]
    ]
    for user in users:
        user.start()
    for _ in range(50):
        models.reload(elsewhere)
        models.reload(there)
    stop.set()
    for user in users:
        user.join()
    assert failures == []
    assert answers == {("a", 2), ("other", 2)}


def test_a_model_cannot_be_replaced_between_lookup_and_lending(
    disk, start, monkeypatch
):
    add_versions(disk / "other", 2)
    models = start(config_of(disk, a=""))
    elsewhere = config_of(disk, a=f'base_path: "{disk}/other"')
    reloading = threading.Thread(target=models.reload, args=(elsewhere,))
    lend = Versions.use

    @contextlib.contextmanager
    def lend_slowly(self, version=None):
        reloading.start()
        reloading.join(0.2)
        with lend(self, version) as servable:
            yield servable

    with monkeypatch.context() as patched:
        patched.setattr(Versions, "use", lend_slowly)
        assert served_version(models, "a") == ("a", 2)
    reloading.join()
    assert served_version(models, "a") == ("other", 2)


def test_close_ends_a_reload_in_progress(disk, start, loader):
    models = start(config_of(disk, a=""))
    loader.gates = {5: threading.Event()}
    errors = []

    def reload():
        try:
            models.reload(config_of(disk, a="", b=""))
        except UnmetConditionError as error:
            errors.append(str(error))

    reloading = threading.Thread(target=reload)
    reloading.start()
    wait_for(lambda: len(loader.loaded) == 2)
    models.close(timeout=0.01)
    loader.gates[5].set()
    reloading.join()
    assert len(errors) == 1
    assert states(models, "a") == {2: "END"}
    for name in ("a", "b"):
        with pytest.raises(ServableNotFoundError):
            served_version(models, name)
    with pytest.raises(UnmetConditionError, match="shutting down"):
        models.reload(config_of(disk, b=""))


def test_a_removed_model_is_unloaded_after_its_last_use(disk, start):
    models = start(config_of(disk, a="", b=""))
    with models.use(spec("a")):
        models.reload(config_of(disk, b=""))
        assert states(models, "a") == {2: "UNLOADING"}
    wait_for(lambda: states(models, "a") == {2: "END"})


def test_a_warning_names_the_log_that_there_is(disk, start, caplog):
    start(config_of(disk, a="logging_config { sampling_config { sampling_rate: 1 } }"))
    assert "Model a: `logging_config` is ignored. --request_log logs" in caplog.text


@pytest.fixture
def file(disk):
    """Return a function that replaces the configuration file atomically."""
    path = disk / "models.config"

    def write_file(config):
        text = (
            config if isinstance(config, str) else text_format.MessageToString(config)
        )
        (disk / "temporary").write_text(text)
        (disk / "temporary").rename(path)
        return path

    return write_file


def test_a_changed_file_is_reloaded_and_a_broken_one_changes_nothing(
    disk, start, file, caplog
):
    config = config_of(disk, a="")
    path = file(config)
    models = start(config, config_path=path, config_poll_seconds=0.01)
    file(config_of(disk, a="", b=""))
    wait_for(lambda: models.names() == ["a", "b"])

    def logged_problems():
        return caplog.text.count("The served models are unchanged")

    for number, broken in enumerate(
        [
            "model_config_list { nonsense }",
            "",
            config_of(disk, a="", late=""),
            config_of(disk, a='base_path: "relative"'),
        ],
        1,
    ):
        file(broken)
        wait_for(lambda number=number: logged_problems() == number)
        threading.Event().wait(0.05)
        assert logged_problems() == number, "the same problem must be logged once"
        assert models.names() == ["a", "b"]
    assert "Cannot transition to requested config." in caplog.text  # the empty file
    path.unlink()
    wait_for(lambda: "No such file" in caplog.text)
    file(config_of(disk, b=""))
    wait_for(lambda: models.names() == ["b"])
    path.unlink()
    wait_for(lambda: caplog.text.count("No such file") == 2)
    file("model_config_list {}")
    wait_for(lambda: models.names() == [])


def test_a_file_with_a_missing_model_is_tried_again(disk, start, file):
    config = config_of(disk, a="")
    models = start(config, config_path=file(config), config_poll_seconds=0.01)
    file(config_of(disk, a="", late=""))
    threading.Event().wait(0.05)
    add_versions(disk / "late", 1)
    wait_for(lambda: models.names() == ["a", "late"])


def test_the_file_overrides_a_reload_request(disk, start, file):
    config = config_of(disk, a="")
    models = start(config, config_path=file(config), config_poll_seconds=0.05)
    models.reload(config_of(disk, b=""))
    wait_for(lambda: models.names() == ["a"])


def test_zero_seconds_do_not_watch_the_file(disk, start, file):
    config = config_of(disk, a="")
    models = start(config, config_path=file(config))
    file(config_of(disk, b=""))
    threading.Event().wait(0.05)
    assert models.names() == ["a"]
