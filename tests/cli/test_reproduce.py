"""`bn-keras reproduce`: what it prints and writes, how it fails and is resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import made_up_experiment
import pytest
from command_line_calls import error_line, run
from paths import SUPPORT

from bn_keras import errors
from bn_keras.cli import reproduce
from bn_keras.experiments import catalog, reproducing
from bn_keras.experiments.catalog import EXPERIMENTS, SCALES
from bn_keras.experiments.data_sets import load_data

PACKAGE = "bn_keras.experiments"
NAMES = ("mnist", "mnist-sweep", "noise")


def made_up(**replaced):
    """A module whose experiment is the made-up one with other functions in it."""
    experiment = made_up_experiment.EXPERIMENT
    functions = {"run": experiment.run, **vars(experiment), **replaced}
    return types.SimpleNamespace(EXPERIMENT=types.SimpleNamespace(**functions))


def failing(error):
    """An experiment that raises an error."""

    def run(*_):
        raise error

    return made_up(run=run)


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """Three made-up experiments and an empty current folder.

    Returns a function that replaces one of the experiments.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog, "EXPERIMENTS", NAMES)

    def replace(name, module):
        monkeypatch.setitem(sys.modules, f"{PACKAGE}.{name.replace('-', '_')}", module)

    for name in NAMES:
        replace(name, made_up_experiment)
    return replace


def test_one_experiment_prints_its_rows_and_its_files(capsys, experiments):
    status, out, error = run(capsys, "reproduce", "mnist-sweep")
    assert status == 0
    # Long texts are folded, and brackets are not rich's markup.
    assert "mnist-sweep: A parabola <b>& more</b>" in out
    for text in (
        "claim",
        "paper",
        "measured",
        "direction",
        "the parabola [0,",
        "1.5 (1.0 to 2.0)",
    ):
        assert text in out
    folder = "bn-keras-reproduce/default"
    paths = [f"{folder}/mnist-sweep/mnist-sweep.{s}" for s in ("json", "svg", "png")]
    paths.append(f"{folder}/report.html")
    assert re.findall("^wrote (.*)$", out, re.MULTILINE) == paths
    assert all(Path(path).is_file() for path in paths)
    facts = json.loads(Path(paths[0]).read_text())
    assert facts["command"] == "bn-keras reproduce mnist-sweep --scale default"
    assert "Not run: mnist, noise." in Path(paths[-1]).read_text()
    assert error.splitlines() == [
        "mnist-sweep 0/2 already measured",
        "mnist-sweep 1/2 seed0",
        "mnist-sweep 2/2 seed1",
    ]


def test_the_same_command_resumes_and_measures_nothing_again(capsys, experiments):
    run(capsys, "reproduce", "mnist")
    Path("bn-keras-reproduce/default/mnist/parts/seed1.json").unlink()
    _, _, error = run(capsys, "reproduce", "mnist")
    assert error.splitlines() == ["mnist 1/2 already measured", "mnist 2/2 seed1"]
    _, _, error = run(capsys, "reproduce", "mnist")
    assert error.splitlines() == ["mnist 2/2 already measured"]


def test_all_runs_every_experiment_in_order_and_writes_one_report(capsys, experiments):
    status, out, error = run(
        capsys, "reproduce", "all", "--scale", "smoke", "--workdir", "w"
    )
    assert status == 0
    assert [line.split()[:2] for line in error.splitlines()] == [
        [name, count] for name in NAMES for count in ("0/1", "1/1")
    ]
    assert out.count("wrote ") == 3 * len(NAMES) + 1
    report = Path("w/smoke/report.html").read_text()
    assert re.findall('<section id="(.*)">', report) == list(NAMES)
    assert "Not run" not in report


def test_an_experiment_that_fails_does_not_stop_the_others(capsys, experiments):
    experiments("mnist", failing(ValueError("much\nis wrong")))
    experiments("noise", failing(errors.DivergenceError("it diverged")))
    status, _, error = run(capsys, "reproduce", "all", "--scale", "smoke")
    assert status == 1
    lines = error.splitlines()
    assert "bn-keras: mnist failed (much is wrong); continuing with the others" in lines
    assert lines[-2:] == [
        "bn-keras: error: mnist: much is wrong",
        "bn-keras: error: noise: it diverged",
    ]
    report = Path("bn-keras-reproduce/smoke/report.html").read_text()
    assert "Not run: mnist, noise." in report


def test_files_are_written_even_if_the_terminal_is_gone(
    capsys, experiments, monkeypatch
):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(reproduce, "_show", broken)
    _, out, error = run(capsys, "reproduce", "all", "--scale", "smoke")
    assert "failed" not in error
    assert out == ""
    report = Path("bn-keras-reproduce/smoke/report.html").read_text()
    assert all(f'id="{name}"' in report for name in NAMES)


def test_a_report_that_fails_does_not_hide_another_failure(capsys, experiments):
    damaged = Path("bn-keras-reproduce/smoke/noise/noise.json")
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    damaged.with_suffix(".svg").touch()
    experiments("noise", failing(ValueError("much is wrong")))
    _, _, error = run(capsys, "reproduce", "all", "--scale", "smoke")
    assert "bn-keras: error: noise: much is wrong" in error.splitlines()


def test_one_experiment_that_fails_is_one_line_with_the_usual_status(
    capsys, experiments, monkeypatch
):
    experiments("mnist", failing(ValueError("much\nis wrong")))
    assert (
        error_line(capsys, "reproduce", "mnist") == "bn-keras: error: much is wrong\n"
    )
    experiments("mnist", failing(errors.DivergenceError("it diverged")))
    status, out, error = run(capsys, "reproduce", "mnist")
    assert (status, out, error) == (1, "", "bn-keras: error: it diverged\n")
    monkeypatch.setenv("BN_KERAS_TRACEBACK", "1")
    for name in ("mnist", "all"):
        with pytest.raises(errors.DivergenceError):
            run(capsys, "reproduce", name)


def test_an_interrupted_run_can_be_resumed_and_says_so(capsys, experiments):
    interrupts = iter([KeyboardInterrupt()])

    def run_until_seed1(*arguments):
        def stop(part, done, total):
            arguments[-1](part, done, total)
            if done == 1 and (interrupt := next(interrupts, None)):
                raise interrupt

        return made_up_experiment.EXPERIMENT.run(*arguments[:-1], stop)

    experiments("mnist", made_up(run=run_until_seed1))
    status, out, error = run(capsys, "reproduce", "mnist")
    assert (status, out) == (130, "")
    assert error.splitlines() == [
        "mnist 0/2 already measured",
        "mnist 1/2 seed0",
        "bn-keras: mnist interrupted; the same command resumes it",
    ]
    status, _, error = run(capsys, "reproduce", "mnist")
    assert status == 0
    assert error.splitlines() == ["mnist 1/2 already measured", "mnist 2/2 seed1"]


def test_a_terminal_shows_a_bar_with_the_parts(capsys, experiments, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich believe in a terminal
    _, out, error = run(capsys, "reproduce", "mnist")
    assert re.search("mnist 2/2 seed1.*100%", error)
    assert "seed1" not in out


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_a_failed_download_names_the_option_of_the_folder(
    capsys, experiments, monkeypatch, data
):
    def download():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(f"keras.datasets.{data}.load_data", download)
    experiments("mnist", made_up(run=lambda *_: load_data(data, None)))
    line = error_line(capsys, "reproduce", "mnist")
    assert line.startswith("bn-keras: error: Cannot download ")
    assert f" files (--{data}-dir)" in line


def test_a_folder_of_other_files_names_its_option(capsys, experiments):
    experiments("mnist", made_up(run=lambda *_: load_data("cifar10", "d")))
    Path("d").mkdir()
    line = error_line(capsys, "reproduce", "mnist", "--cifar10-dir", "d")
    assert "cifar-10-batches-py" in line
    assert "--cifar10-dir" in line
    assert "--data-dir" not in line


def test_data_folders_and_jobs_are_passed_to_the_experiment(capsys, experiments):
    received = []

    def record(*arguments):
        received.append(arguments[:4])
        return made_up_experiment.EXPERIMENT.run(arguments[0], "smoke")

    experiments("mnist", made_up(run=record))
    Path("d").mkdir()
    status, _, _ = run(
        capsys, "reproduce", "mnist", "--scale", "full", "--jobs", 3, "--workdir", "w",
        "--cifar10-dir", "d",
    )  # fmt: skip
    assert status == 0
    assert received == [(Path("w/full/mnist/parts"), "full", {"cifar10": "d"}, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["minst"], "invalid choice: 'minst'"),
        ([], "NAME"),
        (["mnist", "--scale", "huge"], "invalid choice: 'huge'"),
        (["mnist", "--jobs", "0"], "expected 1 or more, received 0"),
        (["mnist", "--mnist-dir", "gone"], "--mnist-dir must be the folder of the"),
        (["all", "--cifar10-dir", "file"], "--cifar10-dir must be the folder of the"),
        (["mnist", "--workdir", "file"], "Received: file/default, which is a file or"),
    ],
)
def test_a_wrong_command_is_one_line_before_the_work(
    capsys, experiments, monkeypatch, arguments, message
):
    def work(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(reproducing, "reproduce", work)
    Path("file").touch()
    assert message in error_line(capsys, "reproduce", *arguments)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_help_lists_the_experiments_and_the_scales(capsys):
    _, out, _ = run(capsys, "reproduce", "--help")
    out = " ".join(out.split())
    for text in (*EXPERIMENTS, "all", *SCALES.values(), "--cifar10-dir"):
        assert text in out


# Replaces an experiment by one of two parts, the second of which never ends.
PROGRAM = """
import sys
import endless_experiment
sys.modules["bn_keras.experiments.mnist"] = endless_experiment
from bn_keras.cli import command_line
sys.exit(command_line.main(sys.argv[1:]))
"""


def is_alive(group):
    """Return whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_the_process_and_its_workers(tmp_path, jobs):
    parts = tmp_path / "w" / "smoke" / "mnist" / "parts"
    command = [
        *(sys.executable, "-c", PROGRAM, "reproduce", "mnist", "--scale", "smoke"),
        *("--workdir", tmp_path / "w", "--jobs", str(jobs)),
    ]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        text=True,
        start_new_session=True,
        stderr=subprocess.PIPE,
    ) as process:
        while (line := process.stderr.readline()) != "mnist 1/2 seed0\n":
            assert line  # written by TensorFlow while it is imported
        while not (parts / "seed1" / "begun").exists():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest == "bn-keras: mnist interrupted; the same command resumes it\n"
    end = time.monotonic() + 30
    while is_alive(process.pid):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert {path.name for path in parts.iterdir()} == {"seed0.json", "seed1"}
