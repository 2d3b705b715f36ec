"""TensorFlow Serving's own test of its server, with this server in its place.

The environment variable `TFS_SOURCES` names a checkout of
https://github.com/tensorflow/serving; its
`tensorflow_serving/model_servers/tensorflow_model_server_test.py` starts
`tensorflow_model_server` and compares answers. Here a script of that name runs
`bn-keras serve "$@"`.
"""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from command_line_calls import COMMAND, user_environment

from bn_keras.cli import command_line

pytestmark = pytest.mark.slow

SUITE = "model_servers/tensorflow_model_server_test.py"
CLASS = "TensorflowModelServerTest"
# Tests that cannot pass, with the reason.
IMPOSSIBLE = {
    "testPredictOnTfLite": "TensorFlow Lite models are not served",
    "testPredictWithSignatureDefOnTfLite": "TensorFlow Lite models are not served",
    "test_tf_text": "its model needs the operations of the package tensorflow_text",
    "test_profiler_service_with_valid_trace_request": "there is no profiler service",
}
# Tests whose model has an input named as Keras 2 names it.
KERAS_2 = {
    "test_sequential_keras_saved_model_save",
    "test_distrat_sequential_keras_saved_model_save",
}
RUN = """
import runpy
import sys

import tensorflow_serving

# The package installed has the protocol, the checkout has the helper of the test.
tensorflow_serving.__path__.append(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Stands in for the package of that name, which the helper uses for one function.
PORTPICKER = """
import socket


def pick_unused_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
"""


@pytest.fixture(scope="module")
def sources():
    directory = os.environ.get("TFS_SOURCES")
    if not directory:
        pytest.skip("TFS_SOURCES does not name a checkout of tensorflow/serving")
    return Path(directory).resolve() / "tensorflow_serving"


@pytest.fixture(scope="module")
def names(sources):
    """The names of all tests in the suite."""
    (suite,) = (
        node
        for node in ast.parse((sources / SUITE).read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert suite.name == CLASS
    return {
        node.name
        for node in suite.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    }


def failures(directory, sources, names, **environment):
    """Run tests of the suite; return the names of those that fail, with the error."""
    files = directory / "tf_serving" / "tensorflow_serving"
    (files / "model_servers").mkdir(parents=True)
    (files / "servables").symlink_to(sources / "servables")
    command = files / "model_servers" / "tensorflow_model_server"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(COMMAND)} serve "$@"\n')
    command.chmod(0o755)
    (directory / "run.py").write_text(RUN)
    (directory / "portpicker.py").write_text(PORTPICKER)
    (directory / "tmp").mkdir()
    suite = (sources / SUITE).read_text()
    # `tensorflow.python.platform.flags` has no attribute `os` any more.
    suite = suite.replace("flags.os.environ", "os.environ")
    (directory / "suite.py").write_text(suite)
    report = directory / "report.xml"
    done = subprocess.run(
        [
            sys.executable,
            directory / "run.py",
            sources,
            directory / "suite.py",
            f"--xml_output_file={report}",
            *(f"{CLASS}.{name}" for name in sorted(names)),
        ],
        env={
            **user_environment(),
            "TEST_SRCDIR": str(directory),
            "TEST_TMPDIR": str(directory / "tmp"),
            "TMPDIR": str(directory / "tmp"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert report.exists(), done.stdout
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    assert {case.get("name") for case in cases} == set(names), done.stdout
    return {
        case.get("name"): f"{problem.get('message')}\n{done.stdout}"
        for case in cases
        for problem in [*case.iter("failure"), *case.iter("error")]
    }


def test_the_suite_passes(sources, names, tmp_path):
    assert len(names) >= 30
    assert set(IMPOSSIBLE) | KERAS_2 <= names
    possible = names - set(IMPOSSIBLE) - KERAS_2
    assert len(possible) >= 24
    assert failures(tmp_path, sources, possible) == {}


def test_the_models_of_keras_2_are_served(sources, tmp_path):
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras, which is Keras 2, is not installed")
    failed = failures(tmp_path, sources, KERAS_2, TF_USE_LEGACY_KERAS="1")
    assert failed == {}


def test_every_flag_in_its_sources_is_known(sources):
    main = (sources / "model_servers" / "main.cc").read_text()
    flags = re.findall(r'tensorflow::Flag\(\s*"(\w+)"', main)
    assert len(flags) > 40
    (commands,) = command_line.build_parser()._subparsers._group_actions
    serve = commands.choices["serve"]
    serve.load()
    known = {option.lstrip("-") for option in serve._option_string_actions}
    assert set(flags) - known == set()
