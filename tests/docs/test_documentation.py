"""What the documentation says runs: README and docstrings."""

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys

import pytest
from paths import ROOT

import bn_keras
import bn_keras_serving
from bn_keras.cli import command_line
from bn_keras.experiments import inception
from bn_keras.experiments.reproducing import EXPERIMENTS
from bn_keras.experiments.rows import cells

README = (ROOT / "README.md").read_text()
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(text):
    return [inspect.cleandoc(block) for block in PYTHON.findall(text)]


def modules():
    for package in (bn_keras, bn_keras_serving):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def public_objects():
    """Public functions, classes and methods, where they are defined."""
    for module in modules():
        for name, value in vars(module).items():
            if (
                name.startswith("_")
                or getattr(value, "__module__", "") != module.__name__
            ):
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{method}", function


EXAMPLES = [
    pytest.param(block, id=f"{name}-{number}")
    for name, value in public_objects()
    for number, block in enumerate(blocks(value.__doc__ or ""))
] + [
    pytest.param(block, id=f"README-{number}")
    for number, block in enumerate(blocks(README))
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_every_example_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "example", "exec"), {"__name__": "__main__"})


def test_every_public_function_of_the_front_door_has_an_example():
    for name in bn_keras.__all__:
        value = getattr(bn_keras, name)
        if not inspect.ismodule(value):
            assert blocks(value.__doc__), f"{name} has no example"


def test_readme_shows_only_commands_that_parse():
    lines = re.findall(r"^bn-keras .*", README + command_line.EXAMPLES, re.MULTILINE)
    lines += re.findall(r"^ +(bn-keras .*)", command_line.EXAMPLES, re.MULTILINE)
    assert len(lines) > 6
    for line in lines:
        command_line.build_parser().parse_args(line.split("#")[0].split()[1:])


def test_readmes_results_are_those_that_were_committed():
    lines = re.findall(
        r"^\|(.*)\| `bn-keras reproduce (\S+)` \|$", README, re.MULTILINE
    )
    assert len(lines) > 3
    for line, name in lines:
        path = ROOT / "benchmarks" / "results" / "reproduce" / f"{name}.json"
        facts = json.loads(path.read_text())
        assert facts["scale"] == "default"
        rows = [cells(row) for row in facts["rows"]]
        assert tuple(cell.strip() for cell in line.split("|")) in rows
    assert {name for _, name in lines} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_readmes_minutes_are_those_that_were_committed(name):
    path = ROOT / "benchmarks" / "results" / "reproduce" / f"{name}.json"
    (minutes,) = re.findall(rf"^\| `{name}` \|.*\| (\d+) \|$", README, re.MULTILINE)
    assert int(minutes) == round(json.loads(path.read_text())["seconds"] / 60)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_said_of_a_result_was_committed_with_it(name):
    """The words about a run, and what its rows say now of what it measured."""
    room = f"bn_keras.experiments.{name.replace('-', '_')}"
    module = importlib.import_module(room)
    path = ROOT / "benchmarks" / "results" / "reproduce" / f"{name}.json"
    facts = json.loads(path.read_text())
    assert facts["remark"].startswith(module.REMARK)
    assert facts["remark"].endswith(module.OUTCOME)
    assert [row._asdict() for row in module.rows(facts["measurements"])] == (
        facts["rows"]
    )
    for suffix in (".svg", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 10_000


def test_the_longer_inception_run_is_told_as_it_was_committed():
    results = ROOT / "benchmarks" / "results"
    longer = json.loads((results / "inception_epochs.json").read_text())
    short = json.loads((results / "reproduce" / "inception.json").read_text())
    curves = longer["curves"]
    default = short["measurements"]["curves"]["paper"]["inception"][0]["steps"][-1]
    last = curves["inception"][0]["steps"][-1]
    assert last == 5 * default
    best = {name: inception.best(curve) for name, (curve,) in curves.items()}
    ratio = {name: inception.speedups(curves, name)[0] for name in curves}
    told = " ".join(inception.OUTCOME.split())
    assert (
        f"five times as many steps, the decay stretched likewise, and one seed, BN-x5 "
        f"needs {ratio['bn-x5']:.1f} and BN-x30 {ratio['bn-x30']:.1f} times fewer steps"
    ) in told
    assert best["inception"][1] > 0.95 * last  # it still rises
    order = sorted(best, key=best.__getitem__, reverse=True)
    assert order[:3] == ["bn-x30", "bn-x5-sigmoid", "bn-x5"]
    assert ratio["bn-x5-sigmoid"] > ratio["bn-x30"] > ratio["bn-x5"]
    (minutes,) = re.findall(r"inception_epochs .*?\((\d+) minutes", README, re.DOTALL)
    assert int(minutes) == round(longer["seconds"] / 60)


def test_readmes_tree_names_what_stands():
    tree = README.split("## The house")[1].split("```")[1]
    for line in tree.splitlines():
        if found := re.match(r"(bn_keras|serving)/", line):
            package = found[1]
        for name in re.findall(r"^ {2}(\w+\.py|\w+/)", line):
            assert (ROOT / package / name).exists(), name
    for package in ("bn_keras", "serving"):
        for path in (ROOT / package).iterdir():
            named = path.name + "/" * path.is_dir()
            if not path.name.startswith("_") and path.name != "py.typed":
                assert re.search(rf"^ .*\b{re.escape(named)}", tree, re.MULTILINE), path
    assert "__main__.py" in tree
    for room in ("bn_keras", "serving", "notebooks", "benchmarks", "tests", ".ci/run"):
        assert (ROOT / room).exists()
        assert room in tree


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "bn_keras", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: bn-keras")
