"""What one reproduced experiment writes: JSON, SVG, PNG, and where they come from."""

import json
import platform
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import keras
import made_up_experiment
import numpy as np
import pytest
from PIL import Image

from bn_keras import __version__
from bn_keras.experiments import catalog, pages, reproducing
from bn_keras.experiments.catalog import EXPERIMENTS, SCALES, load_experiment
from bn_keras.experiments.reproducing import describe_again, reproduce
from bn_keras.experiments.rows import Row
from bn_keras.experiments.sources import commit, hash_sources


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Make the made-up experiment the only one, with a page about it."""
    name = "bn_keras.experiments.made_up"
    monkeypatch.setitem(sys.modules, name, made_up_experiment)
    monkeypatch.setattr(catalog, "EXPERIMENTS", ("made-up",))
    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "made-up.md").write_text(made_up_experiment.PAGE)


@pytest.fixture
def workdir(made_up, tmp_path):
    """Return a work folder for the made-up experiment, which does not exist yet."""
    return tmp_path / "work"


def read_files(workdir, scale="default"):
    """Return the files of the experiment, from suffix to bytes."""
    folder = workdir / scale / "made-up"
    assert not list(folder.rglob(".*"))
    return {path.suffix: path.read_bytes() for path in folder.glob("made-up.*")}


def test_measurements_figures_and_origin_are_written(workdir):
    facts = reproduce("made-up", workdir, directories={"mnist": "/secret/place"})
    files = read_files(workdir)
    assert set(files) == {".json", ".svg", ".png"}
    assert json.loads(files[".json"]) == facts
    assert list(facts) == [
        *("experiment", "title", "scale", "command", "machine", "versions"),
        *("seconds", "remark", "rows", "measurements"),
    ]
    assert facts["experiment"] == "made-up"
    assert facts["title"] == made_up_experiment.TITLE
    assert facts["remark"] == made_up_experiment.SETUP
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
        "n": "2 seeds",
        "direction": "no",
        "size": "no",
        "fact": "",
    }
    assert [row["direction"] for row in facts["rows"]] == ["no", None, "no"]
    assert facts["measurements"]["sources"] == {
        "made_up_experiment": hash_sources(made_up_experiment.square)
    }
    assert facts["measurements"]["commits"] == [commit()]
    assert facts["measurements"]["scale"] == "default"
    assert facts["measurements"]["seeds"]["seed1"]["values"][-1] == 2.0
    assert facts["measurements"]["seeds"]["seed0"]["directories"] == ["mnist"]


def test_no_file_contains_a_path_of_the_machine(workdir):
    reproduce("made-up", workdir, directories={"mnist": "/secret/place"})
    for content in read_files(workdir).values():
        for path in (b"/secret/place", str(workdir).encode()):
            assert path not in content


def test_the_json_is_strict_and_has_one_line_per_curve(workdir):
    reproduce("made-up", workdir)

    def refuse(constant):
        raise AssertionError(constant)

    text = read_files(workdir)[".json"].decode()
    facts = json.loads(text, parse_constant=refuse)
    assert facts["measurements"]["seeds"]["seed0"]["worst"] is None
    curves = [line for line in text.splitlines() if '"values": [' in line]
    assert len(curves) == 2
    assert all(line.endswith("],") for line in curves)


@pytest.mark.fast
@pytest.mark.parametrize(
    "value",
    [
        "[\n  1,\n  2\n]",
        'a "[ ]" {b} \\n [',
        [["a   b", "x], [y"], [[]], [{}], {}, [1, [2, 3]], "\u03b2"],
    ],
)
def test_formatting_does_not_change_the_content_of_the_json(value):
    assert json.loads(reproducing.format_facts({"a": value})) == {"a": value}


def test_the_figures_are_an_svg_and_a_png_of_150_dots_per_inch(workdir):
    reproduce("made-up", workdir)
    files = read_files(workdir)
    assert ElementTree.fromstring(files[".svg"]).tag.endswith("}svg")
    assert b"<dc:date>" not in files[".svg"]
    with Image.open(workdir / "default" / "made-up" / "made-up.png") as picture:
        assert picture.size == (900, 600)
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert pixels.std() > 10


def test_figures_do_not_depend_on_the_users_matplotlib_style(workdir):
    import matplotlib

    reproduce("made-up", workdir / "a")
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9}):
        reproduce("made-up", workdir / "b")
    first, second = read_files(workdir / "a"), read_files(workdir / "b")
    assert first[".svg"] == second[".svg"]
    assert first[".png"] == second[".png"]


def test_a_resumed_run_keeps_the_origin_of_what_it_does_not_measure(
    workdir, monkeypatch
):
    progress = []
    reproduce("made-up", workdir, on_part=lambda *part: progress.append(part))
    assert progress == [("", 0, 2), ("seed0", 1, 2), ("seed1", 2, 2)]
    before = read_files(workdir)
    progress.clear()
    monkeypatch.setattr(platform, "machine", lambda: "another")
    reproduce("made-up", workdir, jobs=3, on_part=lambda *part: progress.append(part))
    assert progress == [("", 2, 2)]
    assert read_files(workdir) == before

    monkeypatch.setitem(made_up_experiment.PLANS, "default", 3)
    facts = reproduce("made-up", workdir)
    assert facts["machine"]["architecture"] == "another"


def test_the_recorded_command_has_the_jobs_or_is_given_by_the_caller(workdir):
    reproduce("made-up", workdir, "smoke")
    # With the parts measured, no process is started for them.
    (workdir / "smoke" / "made-up" / "made-up.json").unlink()
    facts = reproduce("made-up", workdir, "smoke", jobs=2)
    assert facts["command"] == "bn-keras reproduce made-up --scale smoke --jobs 2"
    facts = reproduce("made-up", workdir, command="make figures")
    assert facts["command"] == "make figures"


def test_smoke_gives_no_verdict(workdir):
    for scale, verdicts in (("smoke", {None}), ("default", {None, "no"})):
        facts = reproduce("made-up", workdir, scale)
        assert {row["direction"] for row in facts["rows"]} == verdicts
        assert {row["size"] for row in facts["rows"]} == verdicts


def test_a_result_is_described_again_without_measuring(workdir, monkeypatch):
    before = reproduce("made-up", workdir)
    folder = workdir / "default" / "made-up"
    changed = replace(
        made_up_experiment.EXPERIMENT,
        title="Another",
        rows=lambda measurements: [Row("a", "b", "c", direction="yes")],
        rounds=None,
    )
    monkeypatch.setattr(made_up_experiment, "EXPERIMENT", changed)
    describe_again("made-up", folder)
    facts = json.loads((folder / "made-up.json").read_text())
    assert facts["title"] == "Another"
    assert [row["claim"] for row in facts["rows"]] == ["a"]
    same = ("command", "machine", "versions", "seconds", "measurements")
    assert all(facts[key] == before[key] for key in same)


def test_a_damaged_result_of_an_earlier_run_is_replaced(workdir):
    folder = workdir / "smoke" / "made-up"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"measurements": 1}'):
        (folder / "made-up.json").write_text(text)
        facts = reproduce("made-up", workdir, "smoke")
        assert json.loads(read_files(workdir, "smoke")[".json"]) == facts
    for damage in ({"machine": None}, {"machine": {}}, {"command": 7}):
        (folder / "made-up.json").write_text(json.dumps(facts | damage))
        assert reproduce("made-up", workdir, "smoke") == facts


@pytest.mark.parametrize("step", ["rounds", "plot", "rows"])
def test_a_failure_leaves_the_earlier_result_unchanged(workdir, monkeypatch, step):
    reproduce("made-up", workdir)
    before = read_files(workdir)

    def fail(*_):
        raise OSError("no")

    failing = replace(made_up_experiment.EXPERIMENT, **{step: fail})
    monkeypatch.setattr(made_up_experiment, "EXPERIMENT", failing)
    with pytest.raises(OSError, match="no"):
        reproduce("made-up", workdir)
    assert read_files(workdir) == before


@pytest.mark.fast
def test_an_unknown_name_or_scale_is_refused_before_anything_is_written(workdir):
    with pytest.raises(
        ValueError, match=r"`name` must be one of made-up\. Received: na"
    ):
        reproduce("made up", workdir)
    with pytest.raises(
        ValueError, match=r"`scale` must be one of smoke, default, full\. Received: sc"
    ):
        reproduce("made-up", workdir, "huge")
    assert not workdir.exists()


def test_the_set_up_is_empty_without_a_page(workdir, monkeypatch):
    monkeypatch.setattr(pages, "PAGES", workdir)
    assert reproduce("made-up", workdir)["remark"] == ""


@pytest.mark.fast
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_declares_what_the_command_line_needs(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    assert set(experiment.plans) == set(SCALES)
    assert experiment.title == experiment.title.strip() != ""
    assert callable(experiment.plot)
    assert callable(experiment.rows)
    assert pages.read_setup(name).count("\n\n") < 3
    assert len(pages.read_setup(name)) > 200
    if pages.read_result(name, "default"):
        assert len(pages.read_discussion(name, "default")) > 200
    assert pages.read_discussion(name, "full") == ""
    with pytest.raises(ValueError, match=r"`scale` must be one of .*Received: scale=5"):
        experiment.run(scale=5)
