"""Loading and swapping of versions: with SavedModels, and under load."""

import shutil
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf
from serving_models import Model, write
from tensorflow.python.framework import error_interpolation
from version_fakes import LATEST, Fake, config_of, spec, states_of, wait_for

from bn_keras_serving.models import ModelRegistry
from bn_keras_serving.models.versions import Versions
from bn_keras_serving.servable.servable import Servable

ONES = np.ones((1, 4), np.float32)


def test_two_saved_models_give_their_own_answers(doubling, tmp_path):
    (tmp_path / "thrice").mkdir()
    write(Model(3), tmp_path / "thrice", 1)
    shutil.copytree(doubling, tmp_path / "twice")

    def load(name, version, path):
        return Servable(version, path)

    with ModelRegistry(config_of(tmp_path, twice="", thrice=""), load) as models:
        for factor, name in enumerate(("twice", "thrice"), 2):
            with models.use(spec(name)) as servable:
                answer = servable.signature().run({"x": ONES})["y"]
            np.testing.assert_array_equal(answer, factor * ONES)


def test_a_saved_model_is_served_once_it_is_complete(doubling, tmp_path):
    # As `cp -r` does it: file by file, and each of them bit by bit.
    versions = Versions("m", tmp_path, LATEST, Servable, retries=99, retry_seconds=0)
    source = doubling / "2"
    files = sorted(path for path in source.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name.startswith("variables.data"))  # it is needed
    for file in files:
        target = tmp_path / "2" / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        for size in (0, len(content) // 2):
            target.write_bytes(content[:size])
            versions.poll()
            assert not versions.available(), target
            assert states_of(versions.statuses()) == {2: "LOADING"}
        target.write_bytes(content)
    versions.poll()
    with versions.use() as servable:
        outputs = servable.signature().run({"x": ONES})
        memory = weakref.ref(servable)
    np.testing.assert_array_equal(outputs["y"], 2 * ONES)
    del servable
    versions.close()
    assert states_of(versions.statuses()) == {2: "END"}
    assert memory() is None


def test_no_use_fails_during_two_hundred_swaps(tmp_path):
    (tmp_path / "1").mkdir()
    versions = Versions("m", tmp_path, LATEST, Fake, poll_seconds=0)
    versions.poll()
    versions.watch()
    failures, seen = [], set()
    stop = threading.Event()

    def use_repeatedly():
        last = 0
        try:
            while not stop.is_set():
                with versions.use() as servable:
                    assert servable.version >= last, "an older version came back"
                    last = servable.version
                    state = states_of(versions.statuses())[last]
                    assert state in ("AVAILABLE", "UNLOADING"), state
                    seen.add(last)
        except BaseException as error:
            failures.append(error)

    users = [threading.Thread(target=use_repeatedly) for _ in range(8)]
    for user in users:
        user.start()
    for version in range(2, 202):
        (tmp_path / str(version - 1)).rename(tmp_path / str(version))
        versions.poll()
    stop.set()
    for user in users:
        user.join()
    assert failures == []
    assert len(seen) > 1
    expected = dict.fromkeys(range(1, 201), "END") | {201: "AVAILABLE"}
    wait_for(lambda: states_of(versions.statuses()) == expected)
    versions.close()


def test_the_text_about_a_damaged_version_is_not_searched(
    doubling, tmp_path, monkeypatch
):
    # TensorFlow's search takes minutes if the text quotes a graph.
    monkeypatch.setattr(error_interpolation, "interpolate_graph", None)
    path = shutil.copytree(doubling / "2", tmp_path / "2")
    (data,) = path.glob("variables/variables.data*")
    data.write_bytes(data.read_bytes()[:4])
    with pytest.raises(tf.errors.OpError):
        Servable(2, path)
