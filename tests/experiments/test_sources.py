"""The hash of the sources that a function can run."""

import sys
import types

import pytest

from bn_keras.experiments import mnist_training, parts, sources
from bn_keras.experiments.parts import Part, measure
from bn_keras.experiments.sources import commit, hash_sources, is_current

pytestmark = pytest.mark.fast


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return a function that writes a module of the user's, and its function."""

    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        module = types.ModuleType("script")
        module.__file__ = str(path)
        exec(text, module.__dict__)
        monkeypatch.setitem(sys.modules, "script", module)
        sources._hash_module.cache_clear()
        return module.double

    return write


CODE = (
    "RATE = 2\n\ndef double(directories, folder, number):\n    return RATE * number\n"
)


def test_a_changed_constant_is_another_version_and_a_comment_is_not(script):
    before = hash_sources(script(CODE))
    assert hash_sources(script(CODE.replace("RATE = 2", "RATE = 3"))) != before
    for same in ("# why\n" + CODE, CODE.replace(":\n", ':\n    """Double."""\n')):
        assert hash_sources(script(same)) == before


def test_a_result_of_a_changed_constant_is_measured_again(script, tmp_path):
    def run(text):
        progress = []
        part = Part("one", script(text), {"number": 5})
        measured = measure(
            [part], tmp_path / "parts", on_part=lambda *a: progress.append(a)
        )
        return measured.results["one"], progress[0]

    assert run(CODE) == (10, ("", 0, 1))
    assert run(CODE) == (10, ("", 1, 1))
    assert run(CODE.replace("RATE = 2", "RATE = 3")) == (15, ("", 0, 1))


def test_modules_that_are_imported_lazily_or_by_name_count(monkeypatch):
    read = set()
    find = sources._find

    def note(module):
        path = find(module)
        if path is not None:
            read.add(module)
        return path

    monkeypatch.setattr(sources, "_find", note)
    sources._hash_module.cache_clear()
    hash_sources(mnist_training.observe_training)
    assert {
        "bn_keras.training.build_model",  # through the table of bn_keras.training
        "bn_keras.layer.kernels",  # through other modules
        "bn_keras.data.mnist_files",  # named by a text in the catalog
    } <= read
    assert not {
        name for name in read if name.startswith(("bn_keras.cli", "bn_keras.ex"))
    } - {
        "bn_keras.experiments.mnist_training",
        "bn_keras.experiments.data_sets",
    }


def test_a_result_is_current_if_all_its_sources_are(monkeypatch):
    name, value = parts.__name__, hash_sources(measure)
    assert is_current({name: value})
    assert not is_current({name: value, sources.__name__: "0"})
    assert not is_current(None)
    assert not is_current({})


def test_the_commit_is_a_short_name_or_none():
    name = commit()
    assert name is None or len(name.removesuffix("+")) == 10
