"""Versions on disk, and requests in NumPy, without a port."""

import gc
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from serving_models import ROWS, Echo, Model, predict_log, write

from serving.servables import (
    LOAD_ATTEMPTS,
    ServableNotFoundError,
    Servables,
    State,
    UnknownLabelError,
    VersionStatus,
)
from serving.signatures import (
    ExecutionError,
    InvalidRequestError,
    SignatureNotFoundError,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Versions 2 and 3, multiplying by 2 and 3, and 9 with a bad warm-up."""
    directory = tmp_path_factory.mktemp("saved")
    write(Model(2), directory, 2)
    write(Model(3), directory, 3)
    bad = predict_log(x=np.ones((1, 5), np.float32))
    write(Model(9), directory, 9, [predict_log(x=ROWS), bad])
    return directory


@pytest.fixture(scope="module")
def loaded(saved, tmp_path_factory):
    """Version 2 behind a name with zeros, among names that are no versions."""
    directory = tmp_path_factory.mktemp("multiply")
    shutil.copytree(saved / "2", directory / "00000002")
    for name in ("7.5", "-8", "+9", "1_0", "\u0663", "unfinished-11", str(2**63)):
        (directory / name).mkdir()
    (directory / "12").touch()
    with Servables(directory, "multiply") as servables:
        yield servables


@pytest.fixture
def directory(saved, tmp_path):
    shutil.copytree(saved / "2", tmp_path / "model" / "2")
    return tmp_path / "model"


@pytest.fixture
def copy(saved, directory):
    def copy_version(source, version):
        unfinished = directory / "unfinished"
        shutil.copytree(saved / str(source), unfinished)
        return unfinished.rename(directory / str(version))

    return copy_version


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def states(servables):
    return {one.version: one.state.value for one in servables.versions("model")}


def factor_of(servable):
    outputs = servable.signature().run({"x": np.ones((1, 4), np.float32)})
    return outputs["y"][0, 0]


def test_only_directories_named_by_an_integer_are_versions(loaded):
    assert loaded.versions("multiply") == [VersionStatus(2, State.AVAILABLE)]


def test_the_model_is_named_after_its_directory(directory):
    assert Servables(directory).model_name == "model"
    assert Servables(directory / "2" / "..").model_name == "model"


def test_a_model_answers_what_numpy_computes(loaded):
    with loaded.use("multiply") as servable:
        outputs = servable.signature().run({"x": ROWS})
    np.testing.assert_array_equal(outputs["y"], 2 * ROWS)
    np.testing.assert_array_equal(outputs["total"], ROWS.sum(1))
    assert outputs["y"].dtype == np.float32


def test_a_named_signature_runs_with_its_two_inputs(loaded):
    with loaded.use("multiply", version=2) as servable:
        outputs = servable.signature("pair").run({"a": ROWS, "b": 10 * ROWS})
    np.testing.assert_array_equal(outputs["sum"], 11 * ROWS)


def test_an_input_with_a_default_may_be_left_out(loaded):
    with loaded.use("multiply") as servable:
        shifted = servable.signature("shifted")
        np.testing.assert_array_equal(shifted.run({"x": ROWS})["y"], ROWS + 3)
        five = np.float32(5).reshape(())
        outputs = shifted.run({"x": ROWS, "shift": five})
        np.testing.assert_array_equal(outputs["y"], ROWS + 5)
        with pytest.raises(InvalidRequestError, match="Signature input alias: x"):
            shifted.run({"shift": five})
        with pytest.raises(InvalidRequestError, match="Inputs contains invalid name"):
            shifted.run({"x": ROWS, "shfit": five})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("other",), ServableNotFoundError, r"request: Latest\(other\)"),
        (("other", 2), ServableNotFoundError, r"request: Specific\(other, 2\)"),
        (("multiply", 7), ServableNotFoundError, r"request: Specific\(multiply, 7\)"),
        (("multiply", None, "best"), UnknownLabelError, "version label: best"),
    ],
)
def test_what_is_not_loaded_is_not_lent(loaded, arguments, error, message):
    with pytest.raises(error, match=message), loaded.use(*arguments):
        pass


def test_an_unknown_signature_is_not_found(loaded):
    with (
        loaded.use("multiply") as servable,
        pytest.raises(SignatureNotFoundError, match='key "nope" not found'),
    ):
        servable.signature("nope")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"0!=1 len\({}\) != len\({x}\).* Missing but required: {x}"),
        ({"x": ROWS, "z": ROWS}, r"2!=1 .*Sent extra: {z}\. Missing .*: {}"),
        ({"z": ROWS}, r"alias: x\(feed name: serving_default_x:0\) .* request {z}"),
        ({"x": ROWS.astype(np.float64)}, r"arg\[0\] to be float but double is"),
        ({"x": ROWS.astype(np.int32)}, r"arg\[0\] to be float but int32 is"),
        ({"x": np.array([["a"] * 4])}, r"arg\[0\] to be float but string is"),
        ({"x": np.zeros((1, 4), "M8[s]")}, r"to be float but datetime64\[s\] is"),
        ({"x": ROWS[0]}, r"shape \(None, 4\).*Received: shape \(4,\).*batch axis"),
        ({"x": ROWS[None]}, r"shape \(None, 4\).*Received: shape \(1, 2, 4\)"),
        ({"x": ROWS[0, 0]}, r"shape \(None, 4\).*Received: shape \(\)"),
        ({"x": ROWS[:, :3]}, r"shape \(None, 4\).*Received: shape \(2, 3\)"),
        ({"x": ROWS[:0]}, r"at least one example.*Received: shape \(0, 4\)"),
    ],
)
def test_inputs_unlike_the_signature_are_refused(loaded, inputs, message):
    with (
        loaded.use("multiply") as servable,
        pytest.raises(InvalidRequestError, match=message),
    ):
        servable.signature().run(inputs)


@pytest.mark.parametrize("shape", [(8, 8, 3), (), (1, 1, 8, 8, 3), (0, 8, 8, 3)])
def test_a_shape_that_kills_a_convolution_never_reaches_it(loaded, shape):
    with (
        loaded.use("multiply") as servable,
        pytest.raises(InvalidRequestError, match="Received: shape"),
    ):
        servable.signature("image").run({"x": np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("output_filter", "message"),
    [
        (["nope"], "alias not found in signature: nope Outputs .* set {total,y}."),
        (["y", "y"], "duplicate output tensor alias: y"),
    ],
)
def test_an_output_filter_unlike_the_signature_is_refused(
    loaded, output_filter, message
):
    with loaded.use("multiply") as servable:
        with pytest.raises(InvalidRequestError, match=message):
            servable.signature().run({"x": ROWS}, output_filter)
        assert set(servable.signature().run({"x": ROWS}, ["y"])) == {"y"}


def test_an_error_of_the_model_keeps_its_cause(loaded):
    with (
        loaded.use("multiply") as servable,
        pytest.raises(ExecutionError, match="Tensor had Inf") as raised,
    ):
        servable.signature("checked").run({"x": np.full_like(ROWS, np.inf)})
    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)


def test_a_signature_of_strings_takes_and_answers_bytes(tmp_path):
    write(Echo(), tmp_path, 1)
    words = np.array([b"a\x00", "\u00e9".encode(), b""], object)
    with Servables(tmp_path, "echo") as servables, servables.use("echo") as servable:
        outputs = servable.signature("string").run({"x": words})
    assert outputs["y"].tolist() == words.tolist()
    assert outputs["first"].shape == ()
    assert outputs["first"][()] == b"a\x00"


def test_a_directory_that_is_not_there_tells_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"1/saved_model\.pb.* which is not there; "):
        Servables(tmp_path / "absent").start()


def test_a_file_given_for_a_directory_is_told_so(tmp_path):
    (file := tmp_path / "model").write_text("")
    with pytest.raises(ValueError, match="model which is a file; give the directory"):
        Servables(file).start()


def test_a_directory_without_versions_tells_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"1/saved_model\.pb.* without any; export"):
        Servables(tmp_path).start()


def test_a_version_given_for_its_model_is_told_so(directory):
    with pytest.raises(ValueError, match="give the directory above this version"):
        Servables(directory / "2").start()


def test_a_first_version_that_does_not_load_is_told(tmp_path):
    (tmp_path / "4").mkdir()
    with pytest.raises(ValueError, match=r"Expected version 4 .* Received: OSError"):
        Servables(tmp_path).start()


def test_a_model_without_signatures_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={})
    with pytest.raises(ValueError, match="with serving signatures"):
        Servables(tmp_path).start()


def test_a_newer_version_takes_over_and_the_old_one_ends(directory, copy):
    with Servables(directory, poll_seconds=0.02) as servables:
        copy(3, 10)
        wait_for(lambda: states(servables) == {10: "AVAILABLE", 2: "END"})
        with servables.use("model") as servable:
            assert (servable.version, factor_of(servable)) == (10, 3)
        assert [one.version for one in servables.versions("model")] == [10, 2]


def test_a_request_under_way_keeps_its_version_alive(directory, copy):
    with Servables(directory, poll_seconds=0.02) as servables:
        with servables.use("model") as servable:
            copy(3, 3)
            wait_for(lambda: states(servables) == {3: "AVAILABLE", 2: "UNLOADING"})
            assert factor_of(servable) == 2
            memory = weakref.ref(servable)
        del servable
        wait_for(lambda: states(servables)[2] == "END")
        wait_for(lambda: gc.collect() is not None and memory() is None)


def test_taking_the_latest_version_away_brings_the_last_one_back(directory, copy):
    copy(3, 3)
    with Servables(directory, poll_seconds=0.02) as servables:
        assert states(servables) == {3: "AVAILABLE"}
        shutil.rmtree(directory / "3")
        wait_for(lambda: states(servables) == {3: "END", 2: "AVAILABLE"})
        with servables.use("model") as servable:
            assert factor_of(servable) == 2


def test_a_directory_that_vanishes_leaves_the_model_serving(directory):
    with Servables(directory) as servables:
        shutil.rmtree(directory)
        servables.poll()
        with servables.use("model") as servable:
            assert factor_of(servable) == 2


def half_copy(saved, directory):
    (half := directory / "3").mkdir()
    whole = (saved / "3" / "saved_model.pb").read_bytes()
    (half / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    return half


def test_a_version_seen_half_copied_is_served_once_it_is_whole(directory, saved):
    with Servables(directory, poll_seconds=60) as servables:
        half_copy(saved, directory)
        servables.poll()
        assert states(servables) == {3: "LOADING", 2: "AVAILABLE"}
        assert "saved_model.pb" in servables.versions("model")[0].error
        shutil.copytree(saved / "3", directory / "3", dirs_exist_ok=True)
        servables.poll()
        assert states(servables) == {3: "AVAILABLE", 2: "END"}
        assert servables.versions("model")[0].error is None


def test_a_version_that_never_becomes_whole_ends_when_a_newer_one_comes(
    directory, copy, saved
):
    with Servables(directory, poll_seconds=60) as servables:
        half_copy(saved, directory)
        servables.poll()
        copy(3, 4)
        servables.poll()
        assert states(servables) == {4: "AVAILABLE", 3: "END", 2: "END"}
        assert "saved_model.pb" in servables.versions("model")[1].error


def test_a_half_copied_version_leaves_the_good_one_and_ends_after_five_attempts(
    directory, copy, saved
):
    with Servables(directory, poll_seconds=60) as servables:
        half = half_copy(saved, directory)
        for _ in range(LOAD_ATTEMPTS):
            assert states(servables).get(3) != "END"
            servables.poll()
        assert states(servables) == {3: "END", 2: "AVAILABLE"}
        assert "saved_model.pb" in servables.versions("model")[0].error
        shutil.rmtree(half)
        copy(3, 3)  # now whole, but its number has had its chances
        servables.poll()
        with servables.use("model") as servable:
            assert factor_of(servable) == 2
        copy(3, 4)
        servables.poll()
        assert states(servables) == {4: "AVAILABLE", 3: "END", 2: "END"}


def test_one_failing_warm_up_record_fails_the_load(directory, copy):
    with Servables(directory, poll_seconds=60) as servables:
        copy(9, 9)
        for _ in range(LOAD_ATTEMPTS):
            servables.poll()
        assert states(servables) == {9: "END", 2: "AVAILABLE"}
        assert "Received: shape (1, 5)" in servables.versions("model")[0].error


def test_warm_up_runs_every_record_before_the_version_serves(tmp_path, monkeypatch):
    from serving.signatures import Signature

    ran = []
    run = Signature.run
    monkeypatch.setattr(
        Signature,
        "run",
        lambda self, inputs, outputs=(): (
            ran.append(inputs["x"][0, 0]) or run(self, inputs, outputs)
        ),
    )
    records = [predict_log(x=ROWS + number) for number in range(3)]
    write(Model(2), tmp_path, 1, records)
    with Servables(tmp_path, "warm"):
        assert ran == [0, 1, 2]


def test_too_many_warm_up_records_fail_the_load(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.servables.MAXIMUM_WARM_UP_RECORDS", 2)
    write(Model(2), tmp_path, 1, [predict_log(x=ROWS)] * 3)
    with pytest.raises(ValueError, match="at most 2 warm-up records"):
        Servables(tmp_path).start()


def test_no_request_fails_while_versions_swap(directory, copy):
    answers, failures = [], []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with servables.use("model") as servable:
                    answers.append((servable.version, int(factor_of(servable))))
            except Exception as error:
                failures.append(error)

    with Servables(directory, poll_seconds=0.02) as servables:
        askers = [threading.Thread(target=ask) for _ in range(2)]
        for one in askers:
            one.start()
        for version in (3, 4):
            copy(3, version)
            wait_for(lambda version=version: (version, 3) in answers)
        stop.set()
        for one in askers:
            one.join()
    assert not failures
    assert set(answers) == {(2, 2), (3, 3), (4, 3)}


def test_a_closed_model_is_not_lent_any_more(directory):
    servables = Servables(directory)
    servables.start()
    servables.close()
    assert states(servables) == {2: "END"}
    with pytest.raises(ServableNotFoundError), servables.use("model"):
        pass
