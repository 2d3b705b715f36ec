"""What the notebooks of the experiments share."""

import sys
from pathlib import Path

import made_up_experiment
import pytest
from IPython.display import Image, Markdown

from bn_keras.experiments import notebook, reproducing


@pytest.fixture
def displayed(monkeypatch):
    """What is shown, the texts that replace others too."""
    found = []

    class Handle:
        def update(self, text):
            found.append(text)

    def display(*shown, display_id=False):
        found.extend(shown)
        return Handle() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return found


def test_a_table_is_markdown():
    shown = notebook.table(("a", "b"), [(1, "x"), (2, "y")])
    assert shown.data == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


def test_an_experiment_is_measured_once_and_shown(tmp_path, monkeypatch, displayed):
    monkeypatch.setitem(sys.modules, "bn_keras.experiments.made_up", made_up_experiment)
    monkeypatch.setattr(reproducing, "EXPERIMENTS", ("made-up",))
    monkeypatch.setitem(made_up_experiment.PLANS, "default", 1)
    monkeypatch.setenv("BN_KERAS_WORKDIR", str(tmp_path))
    notebook.show("made-up")
    texts = [shown.data for shown in displayed if isinstance(shown, Markdown)]
    assert texts[:2] == ["`made-up`", "`made-up`: 0 of 1 parts measured"]
    assert texts[3].startswith("`bn-keras reproduce made-up --scale default`: ")
    assert "| The last value of the parabola [0, 1] | 1 | 1.0 | yes |" in texts[4]
    assert texts[5].startswith(made_up_experiment.REMARK)
    (image,) = (shown for shown in displayed if isinstance(shown, Image))
    assert image.data == (tmp_path / "default/made-up/made-up.png").read_bytes()
    displayed.clear()
    notebook.show("made-up")
    assert displayed[1].data == "`made-up`: 1 of 1 parts measured"


def test_the_folder_of_the_command_line_is_found_from_below(tmp_path, monkeypatch):
    monkeypatch.delenv("BN_KERAS_WORKDIR", raising=False)
    below = tmp_path / "checkout" / "notebooks"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert notebook.find_workdir() == below / "bn-keras-reproduce"
    (tmp_path / "checkout" / "bn-keras-reproduce").mkdir()
    assert notebook.find_workdir() == below.parent / "bn-keras-reproduce"
    (below / "bn-keras-reproduce").mkdir()
    assert notebook.find_workdir() == below / "bn-keras-reproduce"
    monkeypatch.setenv("BN_KERAS_WORKDIR", "elsewhere")
    assert notebook.find_workdir() == Path("elsewhere")
