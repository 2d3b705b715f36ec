"""The start of the command line: what it imports, how long it takes, how it ends."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from command_line_calls import COMMAND

from bn_keras import __main__ as console_script
from bn_keras.cli.command_line import COMMANDS

HEAVY = ("keras", "tensorflow", "jax", "numpy", "grpc", "rich", "PIL", "matplotlib")
# Runs the console script for each list of arguments in turn, and prints for each one
# its status and the modules of HEAVY and of the commands that have been imported.
PROGRAM = """
import contextlib, io, json, sys
from bn_keras.__main__ import main
heavy, *lines = json.loads(sys.argv[1])
for line in lines:
    sys.argv[1:] = line
    with contextlib.redirect_stdout(io.StringIO()), \\
            contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main()
        except SystemExit as exit_:
            status = exit_.code
    modules = [name for name in heavy if name in sys.modules]
    print(json.dumps([status, modules]))
"""
HELP = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
WRONG = [
    [],
    ["trian"],
    ["train", "mpl"],
    ["train", "mlp", "--data", "digits", "--workdir", "w", "--epochs", "x"],
    ["train", "mlp", "--data", "digits", "--workdir", "w", "--epoch", "3"],
    ["serve", "d", "--port", "70000"],
    ["data", "convret"],
    ["predict", "--address", "x", "--model-name", "m", "x.npy"],
]


def imported_modules(names, *lines):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([names, *lines])],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help_imports_no_heavy_package():
    reports = imported_modules(HEAVY, *HELP, ["data", "convert", "--help"])
    assert reports == [[0, []]] * (len(HELP) + 1)


def test_a_wrong_command_imports_no_heavy_package():
    assert imported_modules(HEAVY, *WRONG) == [[2, []]] * len(WRONG)


def test_commands_without_arithmetic_import_no_heavy_package():
    lines = [["recipes"], *(["completion", shell] for shell in ("bash", "zsh", "tcsh"))]
    assert imported_modules(HEAVY, *lines) == [[0, []]] * len(lines)


def test_only_the_chosen_command_is_imported():
    modules = [f"bn_keras.cli.{name}" for name in COMMANDS]
    assert imported_modules(modules, ["--help"]) == [[0, []]]
    assert imported_modules(modules, ["serve", "--help"]) == [
        [0, ["bn_keras.cli.serve"]]
    ]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "--help"], ["trian"]],
    ids=" ".join,
)
def test_a_command_that_computes_nothing_takes_less_than_0_3_seconds(arguments):
    def processor_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Of several measurements the fastest is least disturbed by other processes. On a
    # busy machine the time on the clock would say more about those.
    assert min(processor_seconds() for _ in range(3)) < 0.3


def test_python_m_runs_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "bn_keras", "trian"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bn-keras: error: argument COMMAND: invalid choice")


def test_output_of_the_imports_is_shown_if_the_start_fails(capfd):
    def start():
        with console_script._silence_stderr():
            os.write(2, b"hidden")
            raise ImportError

    with pytest.raises(ImportError):
        start()
    assert capfd.readouterr().err == "hidden"


def test_output_of_the_imports_is_hidden_otherwise(capfd):
    with console_script._silence_stderr():
        os.write(2, b"hidden")
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"


# A console script whose command is the module FAKE.
FAKE_PROGRAM = """
import sys, types
from bn_keras import __main__
from bn_keras.cli import command_line
FAKE = types.SimpleNamespace(start=lambda options: None, run=lambda options: 0)
command_line.parse = lambda: types.SimpleNamespace(command=FAKE)
"""


def start_program(code, **settings):
    return subprocess.Popen(
        [sys.executable, "-c", f"{FAKE_PROGRAM}{code}\nsys.exit(__main__.main())"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_start_silently_even_if_an_import_swallows_it():
    code = """
import os, time
def start(options):
    os.write(2, b"hidden")
    print("started", flush=True)
    try: time.sleep(60)
    except BaseException: pass
FAKE.start = start
"""
    with start_program(code) as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, b"")


@pytest.mark.parametrize("method", ["start", "run"])
def test_a_package_that_is_missing_is_one_line(method):
    code = f"""
def fail(options):
    import no_such_package.module
FAKE.{method} = fail
"""
    with start_program(code) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert error.startswith(
        b"bn-keras: error: The package no_such_package must be installed."
    )
    assert error.count(b"\n") == 1


def test_an_error_of_the_start_is_raised_if_asked():
    environment = {**os.environ, "BN_KERAS_TRACEBACK": "1"}
    with start_program("FAKE.start = None", env=environment) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"TypeError: 'NoneType' object is not callable" in error


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_of_the_output_that_has_gone_ends_a_command_silently(flush):
    code = f"""
def run(options):
    sys.stdin.read()
    print("much " * 100, flush={flush})
    return 0
FAKE.run = run
"""
    with start_program(code, stdin=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (141, b"")


def test_a_pipe_that_breaks_elsewhere_is_an_error():
    code = "def run(options): raise BrokenPipeError(32, 'Broken pipe')\nFAKE.run = run"
    with start_program(code) as process:
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (2, b"bn-keras: error: Broken pipe\n")


def test_a_character_that_the_terminal_cannot_show_is_replaced():
    code = "FAKE.run = lambda options: print('L\\u221e norm') or 0"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    with start_program(code, env=environment) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output, error) == (0, b"L? norm\n", b"")


def test_sigterm_lets_a_command_remove_its_temporary_files(tmp_path):
    code = """
import time
from bn_keras.atomic_files import atomic_write
def run(options):
    with atomic_write("model") as temporary_path:
        temporary_path.write_text("half")
        print("started", flush=True)
        time.sleep(60)
FAKE.run = run
"""
    with start_program(code, cwd=tmp_path) as process:
        assert process.stdout.readline() == b"started\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_command_runs_ends_with_130():
    code = """
import time
def run(options):
    print("started", flush=True)
    time.sleep(60)
FAKE.run = run
"""
    with start_program(code) as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, b"")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_does_not_crash_while_the_interpreter_ends(number):
    """`os.abort` stands for a thread of C++ that outlives the objects it uses."""
    code = """
import atexit, os, time
def run(options):
    atexit.register(os.abort)
    print("started", flush=True)
    time.sleep(60)
FAKE.run = run
"""
    with start_program(code) as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (128 + number, b"")
