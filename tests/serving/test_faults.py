"""Damaged, incomplete and deleted versions on disk, while others are served."""

import random
import re
import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from served_process import ServedProcess, wait_until
from serving_models import ROWS, Model, predict_log, request_of, write

from bn_keras_serving.configuration.settings import Loading


def publish(source, target, change=lambda path: None):
    """Copy a version under a temporary name, change it, and rename it to its number."""
    unfinished = target.with_name(f"unfinished-{target.name}")
    shutil.copytree(source, unfinished)
    change(unfinished)
    unfinished.rename(target)


def version_and_factor(served, name):
    with served.predict() as predict:
        answer = predict(request_of(name=name), timeout=60)
    return answer.model_spec.version.value, answer.outputs["y"].float_val[1]


def state(served, name, version):
    return served.states(name).get(version, ("", ""))


def flip(path, seed, bits=64):
    generator, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(bits):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def weights(version):
    (path,) = version.glob("variables/variables.data*")
    return path


def index(version):
    return version / "variables" / "variables.index"


def graph(version):
    return version / "saved_model.pb"


def add_failing_warm_up(version):
    extra = version / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        file.write(predict_log(x=ROWS).SerializeToString())
        file.write(predict_log(x=ROWS.astype("float64")).SerializeToString())


def add_truncated_warm_up(version):
    add_failing_warm_up(version)
    truncate(version / "assets.extra" / "tf_serving_warmup_requests")


# How a version is damaged, and a part of the error in its status.
BROKEN = {
    "flipped bits in the weights": (lambda path: flip(weights(path), 1), "DataLoss"),
    "flipped bits in the index": (lambda path: flip(index(path), 1), ""),
    "flipped bits in the graph": (lambda path: flip(graph(path), 1), ""),
    "half of the weights": (lambda path: truncate(weights(path)), ""),
    "half of the graph": (lambda path: truncate(graph(path)), "parse file"),
    "no weights": (lambda path: weights(path).unlink(), ""),
    "no graph": (lambda path: graph(path).unlink(), "does not exist"),
    "an empty graph": (lambda path: graph(path).write_bytes(b""), ""),
    "a directory as graph": (lambda path: replace_by_directory(graph(path)), ""),
    "a failing warm-up": (add_failing_warm_up, "double is provided"),
    "half of a warm-up": (add_truncated_warm_up, "truncated|corrupted"),
}
OTHERS = ("deleted", "copied slowly", "flipped", "emptied")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Version 2 multiplies by 2, and version 3 by 3."""
    directory = tmp_path_factory.mktemp("saved")
    for version in (2, 3):
        write(Model(version), directory, version)
    return directory


@pytest.fixture(scope="module")
def root(saved, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in (*BROKEN, *OTHERS):
        shutil.copytree(saved / "2", root / name / "2")
    return root


@pytest.fixture(scope="module")
def served(root):
    config = root / "models.config"
    config.write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{root / name}" '
            'model_platform: "tensorflow" }'
            for name in (*BROKEN, *OTHERS)
        )
        + "}"
    )
    # A minute between two attempts is too long for a test.
    loading = Loading(retry_seconds=0.5)
    with ServedProcess(root / "log", config=config, loading=loading) as process:
        yield process
        assert process.exit_status() is None


@pytest.mark.parametrize("name", BROKEN)
def test_a_version_that_cannot_be_loaded_changes_nothing(served, root, saved, name):
    change, error = BROKEN[name]
    publish(saved / "3", root / name / "3", change)
    wait_until(lambda: state(served, name, 3)[0] == "END")
    assert re.search(error, state(served, name, 3)[1]), state(served, name, 3)[1]
    assert version_and_factor(served, name) == (2, 2.0)
    # The next good version is loaded.
    publish(saved / "3", root / name / "4")
    wait_until(lambda: version_and_factor(served, name) == (4, 3.0))


def test_a_version_that_is_copied_in_place_is_tried_until_it_is_complete(
    served, root, saved
):
    directory = root / "copied slowly" / "3"
    directory.mkdir()
    wait_until(lambda: state(served, "copied slowly", 3)[0] == "LOADING")
    shutil.copytree(saved / "3", directory, dirs_exist_ok=True)
    wait_until(lambda: version_and_factor(served, "copied slowly") == (3, 3.0))


def test_requests_to_a_deleted_version_are_answered_or_rejected(served, root, saved):
    """Running requests are answered; later ones learn that there is no version."""
    answers, errors = [], []
    deleted = threading.Event()

    def send_requests():
        with served.predict() as predict:
            while not errors:
                late = deleted.is_set()
                try:
                    answer = predict(request_of(name="deleted"), timeout=60)
                    np.testing.assert_array_equal(
                        answer.outputs["y"].float_val, 2 * ROWS.ravel()
                    )
                    answers.append(late)
                except grpc.RpcError as error:
                    errors.append((error.code(), late))

    clients = [threading.Thread(target=send_requests) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until(lambda: len(answers) > 50)
    shutil.rmtree(root / "deleted" / "2")
    deleted.set()
    for client in clients:
        client.join(60)
    assert {code for code, _ in errors} == {grpc.StatusCode.NOT_FOUND}
    wait_until(lambda: state(served, "deleted", 2)[0] == "END")
    publish(saved / "3", root / "deleted" / "3")
    wait_until(lambda: state(served, "deleted", 3)[0] == "AVAILABLE")
    assert version_and_factor(served, "deleted") == (3, 3.0)


def test_a_loaded_version_does_not_need_its_files(served, root):
    for path in (root / "emptied" / "2").rglob("*"):
        if path.is_file():
            path.unlink()
    assert version_and_factor(served, "emptied") == (2, 2.0)


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_no_graph_with_flipped_bits_crashes_the_process(served, root, saved, count):
    """Whether or not TensorFlow accepts a damaged graph, the process survives."""
    for seed in range(count):
        version = 1000 * count + seed
        bits = (1, 3, 64)[seed % 3]
        publish(
            saved / "2",
            root / "flipped" / str(version),
            lambda path, seed=seed, bits=bits: flip(graph(path), seed, bits),
        )
        wait_until(
            lambda version=version: (
                state(served, "flipped", version)[0] in ("END", "AVAILABLE")
            )
        )
        shutil.rmtree(root / "flipped" / str(version))
    assert served.exit_status() is None
    assert version_and_factor(served, "an empty graph")[1] in (2.0, 3.0)
