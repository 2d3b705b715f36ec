"""What one reproduced experiment leaves: JSON, SVG, PNG, and where they come from."""

import importlib
import json
import platform
import sys
import xml.etree.ElementTree as ElementTree

import keras
import made_up_experiment
import numpy as np
import pytest
from PIL import Image

from bn_keras import __version__
from bn_keras.experiments import reproducing
from bn_keras.experiments.reproducing import EXPERIMENTS, SCALES, reproduce


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """The one experiment that there is."""
    name = "bn_keras.experiments.made_up"
    monkeypatch.setitem(sys.modules, name, made_up_experiment)
    monkeypatch.setattr(reproducing, "EXPERIMENTS", ("made-up",))
    return made_up_experiment


def written(workdir, scale="default"):
    """The files of the experiment, from suffix to bytes."""
    folder = workdir / scale / "made-up"
    assert not list(folder.rglob(".*"))
    return {path.suffix: path.read_bytes() for path in folder.glob("made-up.*")}


def test_measurements_figures_and_origin_are_written(tmp_path):
    facts = reproduce("made-up", tmp_path, directories={"mnist": "/secret/place"})
    files = written(tmp_path)
    assert set(files) == {".json", ".svg", ".png"}
    assert json.loads(files[".json"]) == facts
    assert list(facts) == [
        *("experiment", "title", "scale", "command", "machine", "versions"),
        *("seconds", "remark", "rows", "measurements"),
    ]
    assert facts["experiment"] == "made-up"
    assert facts["title"] == made_up_experiment.TITLE
    assert facts["command"] == "bn-keras reproduce made-up --scale default"
    assert facts["versions"] == {
        "python": platform.python_version(),
        "bn_keras": __version__,
        "keras": keras.__version__,
        "tensorflow": sys.modules["tensorflow"].__version__,
        "numpy": np.__version__,
    }
    assert facts["machine"]["cores"] >= 1
    assert facts["machine"]["devices"][0].startswith(("cpu", "gpu"))
    assert facts["rows"][0] == {
        "claim": "The last value of the parabola [0, 1]",
        "paper": "1",
        "measured": "1.5 (1.0 to 2.0)",
        "agrees": False,
    }
    assert [row["agrees"] for row in facts["rows"]] == [False, None, False]
    assert facts["measurements"]["seeds"]["seed1"]["values"][-1] == 2.0
    assert facts["measurements"]["seeds"]["seed0"]["directories"] == ["mnist"]


def test_no_file_names_a_path_of_the_machine(tmp_path):
    reproduce("made-up", tmp_path, directories={"mnist": "/secret/place"})
    for content in written(tmp_path).values():
        for path in (b"/secret/place", str(tmp_path).encode()):
            assert path not in content


def test_the_json_is_strict_and_has_a_line_for_each_curve(tmp_path):
    reproduce("made-up", tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    text = written(tmp_path)[".json"].decode()
    facts = json.loads(text, parse_constant=refuse)
    assert facts["measurements"]["seeds"]["seed0"]["worst"] is None
    curves = [line for line in text.splitlines() if '"values": [' in line]
    assert len(curves) == 2
    assert all(line.endswith("],") for line in curves)


@pytest.mark.parametrize(
    "value",
    [
        "[\n  1,\n  2\n]",
        'a "[ ]" {b} \\n [',
        [["a   b", "x], [y"], [[]], [{}], {}, [1, [2, 3]], "\u03b2"],
    ],
)
def test_the_lines_of_the_json_change_nothing_of_it(value):
    assert json.loads(reproducing._text({"a": value})) == {"a": value}


def test_the_figures_are_a_vector_picture_and_one_of_150_dots_an_inch(tmp_path):
    reproduce("made-up", tmp_path)
    files = written(tmp_path)
    assert ElementTree.fromstring(files[".svg"]).tag.endswith("}svg")
    assert b"<dc:date>" not in files[".svg"]
    with Image.open(tmp_path / "default" / "made-up" / "made-up.png") as picture:
        assert picture.size == (900, 600)
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert pixels.std() > 10


def test_the_same_measurements_give_the_same_figures_whatever_the_style(tmp_path):
    import matplotlib

    reproduce("made-up", tmp_path / "a")
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9}):
        reproduce("made-up", tmp_path / "b")
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    assert first[".svg"] == second[".svg"]
    assert first[".png"] == second[".png"]


def test_a_run_goes_on_and_keeps_the_origin_of_what_it_did_not_measure(
    tmp_path, monkeypatch
):
    told = []
    reproduce("made-up", tmp_path, on_part=lambda *facts: told.append(facts))
    assert told == [("", 0, 2), ("seed0", 1, 2), ("seed1", 2, 2)]
    before = written(tmp_path)
    told.clear()
    monkeypatch.setattr(platform, "machine", lambda: "another")
    reproduce("made-up", tmp_path, jobs=3, on_part=lambda *facts: told.append(facts))
    assert told == [("", 2, 2)]
    assert written(tmp_path) == before

    monkeypatch.setitem(made_up_experiment.PLANS, "default", 3)
    facts = reproduce("made-up", tmp_path)
    assert facts["machine"]["architecture"] == "another"


def test_the_command_tells_of_the_jobs_or_is_the_caller_s(tmp_path):
    facts = reproduce("made-up", tmp_path, "smoke", jobs=2)
    assert facts["command"] == "bn-keras reproduce made-up --scale smoke --jobs 2"
    facts = reproduce("made-up", tmp_path, command="make figures")
    assert facts["command"] == "make figures"


def test_smoke_gives_no_verdict(tmp_path):
    for scale, verdicts in (("smoke", {None}), ("default", {None, False})):
        facts = reproduce("made-up", tmp_path, scale)
        assert {row["agrees"] for row in facts["rows"]} == verdicts


def test_a_damaged_result_of_an_earlier_run_is_replaced(tmp_path):
    folder = tmp_path / "smoke" / "made-up"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"measurements": 1}'):
        (folder / "made-up.json").write_text(text)
        facts = reproduce("made-up", tmp_path, "smoke")
        assert json.loads(written(tmp_path, "smoke")[".json"]) == facts
    for damage in ({"machine": None}, {"machine": {}}, {"command": 7}):
        (folder / "made-up.json").write_text(json.dumps(facts | damage))
        assert reproduce("made-up", tmp_path, "smoke") == facts


@pytest.mark.parametrize("step", ["run", "plot", "rows"])
def test_what_fails_leaves_the_earlier_result(tmp_path, monkeypatch, step):
    reproduce("made-up", tmp_path)
    before = written(tmp_path)

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(made_up_experiment, step, fail)
    with pytest.raises(OSError, match="no"):
        reproduce("made-up", tmp_path)
    assert written(tmp_path) == before


def test_agreement_that_numpy_found_is_json(tmp_path, monkeypatch):
    row = made_up_experiment.Row("a", "b", "c", np.bool_(True))
    monkeypatch.setattr(made_up_experiment, "rows", lambda _: [row])
    assert reproduce("made-up", tmp_path)["rows"][0]["agrees"] is True


def test_an_unknown_name_or_scale_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"`name` must be one of made-up. Received: na"
    ):
        reproduce("made up", tmp_path)
    with pytest.raises(
        ValueError, match=r"`scale` must be one of smoke, default, full"
    ):
        reproduce("made-up", tmp_path, "huge")
    assert list(tmp_path.iterdir()) == []


def test_what_came_out_is_told_at_the_scale_where_it_did(tmp_path):
    told = {
        scale: reproduce("made-up", tmp_path, scale)["remark"]
        for scale in ("smoke", "default")
    }
    assert told["smoke"] == made_up_experiment.REMARK
    assert told["default"] == (
        f"{told['smoke']}\n\nWhat came out of the run whose results the package's "
        "README has:\n\nIt went up."
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_what_is_asked_of_it(name):
    module = importlib.import_module(f"bn_keras.experiments.{name.replace('-', '_')}")
    assert set(module.PLANS) == set(SCALES)
    assert module.TITLE == module.TITLE.strip() != ""
    assert module.REMARK.strip() != ""
    assert isinstance(module.OUTCOME, str)
    with pytest.raises(ValueError, match=r"`scale` must be one of .*Received: scale=5"):
        module.run(scale=5)
    assert callable(module.plot)
    assert callable(module.rows)
