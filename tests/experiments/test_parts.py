"""The parts of an experiment: measured once, in any number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from bn_keras.experiments import parts
from bn_keras.experiments.data_sets import load_data
from bn_keras.experiments.parts import Part, measure
from bn_keras.experiments.sources import commit, hash_sources


def square(directories, folder, *, number):
    """Return the square of a number, and where it was computed."""
    return {"square": number**2, "process": os.getpid(), "folder": str(folder)}


def fail_at_three(directories, folder, *, number):
    """Return the number, and fail for 3."""
    if number == 3:
        raise ValueError("three")
    return number


def squares(count):
    return [Part(f"square-{n}", square, {"number": n}) for n in range(count)]


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one on which each part takes two and a half seconds."""
    times = count(0.0, 2.5)
    monkeypatch.setattr(parts.time, "perf_counter", lambda: next(times))


@pytest.mark.fast
def test_results_come_in_the_order_of_the_parts_with_their_seconds(clock):
    measured = measure(squares(3))
    assert [result["square"] for result in measured.results.values()] == [0, 1, 4]
    assert list(measured.results) == ["square-0", "square-1", "square-2"]
    assert measured.seconds == 7.5
    assert measured.results["square-0"]["folder"] == "None"


@pytest.mark.fast
def test_what_an_earlier_run_has_measured_is_not_measured_again(tmp_path, clock):
    progress = []
    first = measure(squares(2), tmp_path / "new")
    again = measure(squares(3), tmp_path / "new", on_part=lambda *a: progress.append(a))
    assert progress == [("", 2, 3), ("square-2", 3, 3)]
    for name, result in first.results.items():
        assert again.results[name] == result
    assert (first.seconds, again.seconds) == (5.0, 7.5)


@pytest.mark.fast
def test_other_arguments_are_measured_again(tmp_path):
    measure([Part("one", square, {"number": 1})], tmp_path)
    measured = measure([Part("one", square, {"number": 2})], tmp_path)
    assert measured.results["one"]["square"] == 4


@pytest.mark.fast
@pytest.mark.parametrize("package", ["bn_keras", "keras", "tensorflow"])
def test_another_version_of_a_package_measures_again(tmp_path, monkeypatch, package):
    measure([Part("one", square, {"number": 1})], tmp_path)
    monkeypatch.setattr(f"{package}.__version__", "another")
    progress = []
    measure(
        [Part("one", square, {"number": 1})],
        tmp_path,
        on_part=lambda *a: progress.append(a),
    )
    assert progress == [("", 0, 1), ("one", 1, 1)]


def leave_a_file(directories, folder, *, number, fails):
    """Return the files of the folder, to which each call adds one."""
    files = sorted(path.name for path in folder.iterdir() if path.name != "part.json")
    (folder / f"{number}.{len(files)}").touch()
    if fails:
        raise KeyboardInterrupt
    return files


@pytest.mark.fast
def test_an_interrupted_part_finds_what_it_left_and_another_part_does_not(tmp_path):
    def stop(number):
        with pytest.raises(KeyboardInterrupt):
            measure([part(number)], tmp_path)

    def part(number, fails=True):
        return Part("one", leave_a_file, {"number": number, "fails": fails})

    stop(1)
    stop(1)
    assert len(list((tmp_path / "one").iterdir())) == 3
    stop(2)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "2.0",
        "part.json",
    ]
    measure([part(3, fails=False)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def end_abruptly(directories, folder, *, number):
    """End the process."""
    os._exit(1)


@pytest.mark.slow
def test_a_process_that_ends_unexpectedly_is_reported_with_the_remedy():
    abrupt = [Part(f"end-{n}", end_abruptly, {"number": n}) for n in range(2)]
    with pytest.raises(ValueError, match=r"jobs=2\. .* use fewer processes \(--jobs\)"):
        measure(abrupt, jobs=2)


@pytest.mark.fast
def test_results_from_before_an_error_are_kept(tmp_path):
    four = [Part(f"number-{n}", fail_at_three, {"number": n}) for n in range(1, 5)]
    with pytest.raises(ValueError, match="three"):
        measure(four, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "number-1.json",
        "number-2.json",
    ]


@pytest.mark.slow
def test_several_processes_measure_the_same(tmp_path):
    progress = []
    measured = measure(
        squares(4), tmp_path, jobs=2, on_part=lambda *a: progress.append(a[1:])
    )
    assert [result["square"] for result in measured.results.values()] == [0, 1, 4, 9]
    processes = {result["process"] for result in measured.results.values()}
    assert os.getpid() not in processes
    assert progress == [(done, 4) for done in range(5)]
    assert len(list(tmp_path.glob("*.json"))) == 4


@pytest.mark.fast
@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"part": {}}', "\xff"),
        '{"part": {}, "seconds": NaN, "measured": 1}',
        '{"part": {}, "seconds": "x", "measured": 1}',
        '{"part": {}, "seconds": 1.0, "measured": null}',
    ],
)
def test_a_damaged_result_is_reported_with_the_remedy(tmp_path, content):
    (tmp_path / "square-0.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"square-0\.json.*Delete it"):
        measure([Part("square-0", square, {})], tmp_path)


@pytest.mark.fast
def test_a_folder_in_place_of_a_result_is_reported_before_the_work(tmp_path):
    (tmp_path / "three.json").mkdir()
    work = [Part("three", fail_at_three, {"number": 3})]
    with pytest.raises(ValueError, match=r"three\.json.*Delete it"):
        measure(work, tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize("content", ["", "{", "file", "link"])
def test_a_damaged_folder_of_a_part_is_replaced(tmp_path, content):
    own = tmp_path / "square-0"
    if content == "file":
        own.touch()
    elif content == "link":
        own.symlink_to(tmp_path / "gone")
    else:
        own.mkdir()
        (own / "part.json").write_text(content)
    measured = measure(squares(1), tmp_path)
    assert measured.results["square-0"]["square"] == 0
    assert not own.exists()


@pytest.mark.fast
def test_a_folder_in_which_another_process_measures_is_refused(tmp_path):
    def second(*_):
        with pytest.raises(
            ValueError, match=r"another process is measuring. Wait for it"
        ):
            measure(squares(1), tmp_path)

    measure(squares(1), tmp_path, on_part=second)
    measure(squares(1), tmp_path)


def test_the_last_missing_part_is_measured_in_a_worker(tmp_path):
    measure(squares(1), tmp_path)
    measured = measure(squares(2), tmp_path, jobs=2)
    assert measured.results["square-1"]["process"] != os.getpid()


@pytest.mark.fast
def test_the_name_of_a_part_must_be_a_valid_file_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"must be a valid file name .* Received: name='\.\./x'"
    ):
        measure([Part("../x", square, {"number": 1})], tmp_path)


@pytest.mark.fast
@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_must_be_positive(jobs):
    with pytest.raises(ValueError, match=f"1 or more. Received: jobs={jobs}"):
        measure(squares(1), jobs=jobs)


@pytest.mark.fast
def test_a_data_set_is_read_once_per_process():
    assert load_data("digits", None) is load_data("digits", None)


WAITING = """
import sys, time
from pathlib import Path
from bn_keras.experiments import parts
from bn_keras.experiments.parts import Part, measure
from bn_keras.experiments.sources import commit, hash_sources

def wait(directories, folder, *, number):
    import os
    Path(sys.argv[1], f"{os.getpid()}.pid").touch()
    time.sleep(600)

if __name__ == "__main__":
    measure([Part(f"wait-{n}", wait, {"number": n}) for n in range(2)], jobs=2)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    with subprocess.Popen([sys.executable, script, tmp_path]) as process:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        process.kill()
    workers = [Path("/proc", path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(map(is_running, workers)))


def is_running(folder):
    try:
        return folder.joinpath("stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.fast
def test_a_result_file_has_the_arguments_the_seconds_and_the_result(tmp_path, clock):
    measure([Part("one", fail_at_three, {"number": 1})], tmp_path)
    facts = json.loads((tmp_path / "one.json").read_text())
    assert facts["part"] == {
        "versions": parts.versions(),
        "sources": hash_sources(fail_at_three),
        "arguments": {"number": 1},
    }
    assert facts["commit"] == commit()
    assert facts["measured"] == 1
    assert facts["seconds"] == 2.5


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_of_the_parent_alone_ends_the_workers(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    with subprocess.Popen([sys.executable, script, tmp_path]) as process:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    workers = [Path("/proc", path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(map(is_running, workers)))
