"""What the notebooks of the experiments share."""

import json
import sys
from pathlib import Path

import made_up_experiment
import pytest
from IPython.display import Image, Markdown

from bn_keras.experiments import catalog, notebook, pages


@pytest.fixture
def displayed(monkeypatch):
    """Collect what is displayed, including texts that replace others."""
    outputs = []

    class Handle:
        def update(self, text):
            outputs.append(text)

    def display(*shown, display_id=False):
        outputs.extend(shown)
        return Handle() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return outputs


def markdown(outputs):
    return "\n".join(one.data for one in outputs if isinstance(one, Markdown))


@pytest.mark.fast
def test_a_table_is_markdown():
    shown = notebook.table(("a", "b"), [(1, "x"), (2, "|g|")])
    assert shown.data == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | \\|g\\| |"


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Make the made-up experiment the only one, with a page but no published result."""
    monkeypatch.setitem(sys.modules, "bn_keras.experiments.made_up", made_up_experiment)
    monkeypatch.setattr(catalog, "EXPERIMENTS", ("made-up",))
    monkeypatch.setitem(made_up_experiment.PLANS, "default", 1)
    monkeypatch.setenv("BN_KERAS_WORKDIR", str(tmp_path))
    for name in ("PAGES", "RESULTS"):
        monkeypatch.setattr(pages, name, tmp_path / name)
        (tmp_path / name).mkdir()
    (pages.PAGES / "made-up.md").write_text(made_up_experiment.PAGE)


def test_an_experiment_is_measured_once_and_shown(made_up, tmp_path, displayed):
    notebook.show("made-up")
    texts = [shown.data for shown in displayed if isinstance(shown, Markdown)]
    assert texts[:2] == ["`made-up`", "`made-up`: 0 of 1 parts measured"]
    assert texts[3].startswith("`bn-keras reproduce made-up --scale default`: ")
    row = "| The last value of the parabola [0, 1] | 1 | 1.0 | 1 seed | yes | yes |"
    assert row in texts[4]
    assert texts[5] == f"**Set-up.** {made_up_experiment.SETUP}"
    assert texts[6] == "**Published run.** It went `up`."
    (image,) = (shown for shown in displayed if isinstance(shown, Image))
    assert image.data == (tmp_path / "default/made-up/made-up.png").read_bytes()
    displayed.clear()
    notebook.show("made-up")
    assert displayed[1].data == "`made-up`: 1 of 1 parts measured"


def test_a_published_result_is_shown_unless_the_work_folder_has_one(
    made_up, tmp_path, displayed
):
    notebook.show("made-up")
    folder = tmp_path / "default" / "made-up"
    facts = json.loads((folder / "made-up.json").read_text())
    (folder / "made-up.png").rename(pages.RESULTS / "made-up.png")
    facts["rows"][0]["measured"] = "published"
    (pages.RESULTS / "made-up.json").write_text(json.dumps(facts))
    displayed.clear()
    notebook.show("made-up")
    assert "published" not in markdown(displayed)
    folder.rename(tmp_path / "elsewhere")
    displayed.clear()
    notebook.show("made-up")
    assert "published" in markdown(displayed)
    assert not folder.exists()
    notebook.show("made-up", "smoke")  # no published result of that scale
    assert (tmp_path / "smoke" / "made-up" / "made-up.json").is_file()


@pytest.mark.fast
def test_the_work_folder_of_the_command_line_is_found_from_below(tmp_path, monkeypatch):
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
