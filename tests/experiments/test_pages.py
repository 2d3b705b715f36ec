"""The documentation's pages about the experiments, and the published results."""

import json
import re

import pytest
from paths import ROOT

from bn_keras.experiments import figure_3, pages
from bn_keras.experiments.catalog import EXPERIMENTS, load_experiment
from bn_keras.experiments.rows import COLUMNS, cells

pytestmark = pytest.mark.fast


# Those that have been run.
PUBLISHED = [name for name in EXPERIMENTS if pages.read_result(name, "default")]


def test_an_experiment_that_has_not_been_run_says_so():
    for name in set(EXPERIMENTS) - set(PUBLISHED):
        text = (pages.PAGES / f"{name}.md").read_text()
        assert f"Not measured yet: `bn-keras reproduce {name}`" in " ".join(
            text.split()
        )
        assert "## Results" not in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_follow_from_the_published_measurements(name):
    facts = pages.read_result(name, "default")
    experiment = load_experiment(name)
    rows = experiment.rows(facts["measurements"])
    assert [row._asdict() for row in rows] == facts["rows"]
    assert facts["scale"] == facts["measurements"]["scale"] == pages.PUBLISHED_SCALE
    assert facts["title"] == experiment.title
    assert facts["remark"] == pages.read_setup(name)
    for suffix in (".svg", ".png"):
        assert (pages.RESULTS / f"{name}{suffix}").stat().st_size > 10_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_of_a_page_is_the_published_one(name):
    facts = pages.read_result(name, "default")
    text = (pages.PAGES / f"{name}.md").read_text()
    results = text.partition("\n## Results\n")[2]
    lines = [
        [cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")]
        for line in results.splitlines()
        if line[:1] == "|"
    ]
    assert lines[0] == list(COLUMNS)
    assert [tuple(line) for line in lines[2:]] == [*map(cells, facts["rows"])]
    assert text.startswith(f"# {facts['title']}\n")
    assert f"`{facts['command']}`" in " ".join(text.split())
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (pages.PAGES / link).is_file(), link


def test_there_is_a_page_for_each_experiment_and_no_other():
    names = {path.stem for path in (ROOT / "docs" / "results").glob("*.md")}
    assert names - {"index"} == set(EXPERIMENTS)


def test_a_section_is_read_as_paragraphs_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    (tmp_path / "x.md").write_text(
        "# X\n\n## Set-up\n\none\ntwo\n\n\nthree\n\n## What came out\n\nfour\n"
    )
    assert pages.read_setup("x") == "one two\n\nthree"
    assert pages.read_discussion("x", "default") == "four"
    assert pages.read_discussion("x", "smoke") == ""
    assert pages.read_setup("y") == ""


def test_a_result_is_of_its_scale_or_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({"scale": "default"}))
    assert pages.read_result("x", "default") == {"scale": "default"}
    assert pages.read_result("x", "full") is None
    assert pages.read_result("y", "default") is None


def test_the_longer_inception_run_supports_what_its_page_says_of_it():
    """The order and the speed-ups; the page's own words are not compared."""
    path = ROOT / "benchmarks" / "results" / "inception_epochs.json"
    curves = json.loads(path.read_text())["curves"]
    last = curves["inception"][0]["steps"][-1]
    assert last == 15_620
    best = {name: figure_3.best(curve) for name, (curve,) in curves.items()}
    speedup = {name: figure_3.speedups(curves, name)[0] for name in curves}
    assert best["inception"][1] > 0.95 * last  # it is still improving
    order = sorted(best, key=best.__getitem__, reverse=True)
    assert order[:3] == ["bn-x30", "bn-x5-sigmoid", "bn-x5"]
    final = {name: figure_3.final_accuracy(curve) for name, (curve,) in curves.items()}
    text = " ".join((pages.PAGES / "inception.md").read_text().split())
    for name, value in final.items():
        ends = "ends " if name == "inception" else ""
        assert f"{figure_3.LABELS[name]} {ends}at {100 * value:.1f}%" in text
    assert (
        f"BN-x5 is {speedup['bn-x5']:.1f}, BN-x30 {speedup['bn-x30']:.1f} and "
        f"BN-Baseline {speedup['bn-baseline']:.1f} times faster" in text
    )
