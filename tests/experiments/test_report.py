"""The report of the experiments: its HTML, and how headless Chromium renders it."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import made_up_experiment
import pytest
from browser import CONTRASTS

from bn_keras.experiments import catalog, pages, reproducing
from bn_keras.experiments.report import write_report

NAMES = ("made-up", "second", "absent")
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run two experiments of three at the scale `default`, and write their pages."""
    root = tmp_path_factory.mktemp("reproduced")
    (root / "pages").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "EXPERIMENTS", NAMES)
        patch.setattr(pages, "PAGES", root / "pages")
        patch.setitem(made_up_experiment.PLANS, "default", 1)
        for name in NAMES[:2]:
            module = f"bn_keras.experiments.{name.replace('-', '_')}"
            patch.setitem(sys.modules, module, made_up_experiment)
            (root / "pages" / f"{name}.md").write_text(made_up_experiment.PAGE)
            reproducing.reproduce(name, root, "default")
    return root


@pytest.fixture
def folder(results, tmp_path, monkeypatch):
    """Return a copy of the results, with their pages where the report looks."""
    monkeypatch.setattr(pages, "PAGES", results / "pages")
    return Path(shutil.copytree(results / "default", tmp_path / "default"))


class Page(HTMLParser):
    """The elements of a page, their attributes and their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.fast
def test_the_report_has_all_rows_and_a_section_per_experiment(folder):
    path = write_report(folder, NAMES)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert [one["id"] for one in page.of("section") if one] == ["made-up", "second"]
    assert [one["href"] for one in page.of("a")] == [
        "#made-up", "#second"
    ]  # fmt: skip
    # The verdict counts of both experiments, and each one's own table.
    assert len(page.of("tr")) == 1 + 2 + 2 * (1 + 3)
    verdicts = [one["class"] for one in page.of("td") if "class" in one]
    assert verdicts.count("yes") == 2 + 2  # a direction and a size
    assert verdicts.count("no") == 2
    shown = " ".join("".join(page.text).split())
    for text in (
        *("Of 4 claims, 2 are confirmed, 2 contradicted, 0 undecided.",),
        *("Scale default: minutes", "Not run: absent."),
        *("The last value of the parabola [0, 1] 1 1.0 1 seed yes yes", "&amp;"),
        *("bn-keras reproduce second --scale default", "Duration0:00:00"),
        "is not markup, and these lines are one paragraph.",
        "What came out of the run in the repository It went up.",
    ):
        assert text in shown or text.replace(" ", "") in shown.replace(" ", ""), text


@pytest.mark.fast
def test_results_and_pages_cannot_inject_markup(folder):
    path = folder / "second" / "second.json"
    facts = json.loads(path.read_text())
    for key in ("title", "command", "remark"):
        facts[key] = SCRIPT
    facts["versions"] = {SCRIPT: SCRIPT}
    facts["machine"] = {"cores": SCRIPT, "architecture": SCRIPT, "devices": [SCRIPT]}
    facts["rows"] = [
        {
            **{"claim": SCRIPT, "paper": SCRIPT, "measured": SCRIPT, "n": SCRIPT},
            **{"direction": None, "size": None, "fact": SCRIPT},
        }
    ]
    path.write_text(json.dumps(facts))
    text = write_report(folder, NAMES).read_text(encoding="utf-8")
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "b"}
    assert len(page.of("img")) == 2
    assert all("src" in one and "onerror" not in one for one in page.of("img"))
    # Its title in both tables, set-up, command, 2 of its versions, 3 of its machine,
    # its row of 4, and the other experiment's set-up.
    assert "".join(page.text).count(SCRIPT) == 2 + 1 + 1 + 2 + 3 + 4 + 1
    assert page.of("img")[1]["alt"].startswith(SCRIPT)


@pytest.mark.fast
def test_the_report_loads_nothing_and_is_deterministic(folder):
    first = write_report(folder, NAMES).read_bytes()
    page = Page(first.decode())
    assert write_report(folder, NAMES).read_bytes() == first
    assert all(one["src"].startswith("data:image/svg+xml;") for one in page.of("img"))
    assert [one["href"] for one in page.of("link")] == ["data:,"]
    assert not re.search(rb"url\(|@import|https?:", first)
    assert [path.name for path in folder.iterdir() if "report" in path.name] == [
        "report.html"
    ]


@pytest.mark.fast
def test_a_report_without_results_says_so(tmp_path):
    text = write_report(tmp_path, NAMES).read_text()
    assert "Not run: made-up, second, absent." in text
    assert "<table>" not in text
    assert "confirmed" not in text


@pytest.mark.fast
def test_an_experiment_without_its_figure_counts_as_not_run(folder):
    (folder / "second" / "second.svg").unlink()
    assert "Not run: second, absent." in write_report(folder, NAMES).read_text()


@pytest.mark.fast
@pytest.mark.parametrize("text", ["{", "[]", '{"title": "x"}'])
def test_a_damaged_file_is_reported_with_the_remedy(folder, text):
    path = folder / "second" / "second.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="`bn-keras reproduce second`") as caught:
        write_report(folder, NAMES)
    assert str(caught.value).startswith(f"{path} must hold the result of")
    assert "Received: a file that cannot be read" in str(caught.value)
    assert "Run that command again" in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.fast
def test_pages_are_quoted_only_for_the_scale_that_they_are_about(folder):
    other = folder.rename(folder.with_name("full"))
    text = write_report(other, NAMES).read_text(encoding="utf-8")
    assert "<h3>Set-up</h3>" in text
    assert "What came out" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_report_fits_and_is_readable(window, folder, width, scheme):
    path = folder / "second" / "second.json"
    facts = json.loads(path.read_text())
    facts["title"] = facts["command"] = facts["remark"] = "x" * 300
    facts["rows"][0]["claim"] = "y" * 150
    path.write_text(json.dumps(facts))
    window.look(width, scheme)
    window.open(write_report(folder, NAMES).as_uri())
    assert window.run(
        "const root = document.documentElement;"
        "return root.scrollWidth <= root.clientWidth"
    )
    pictures = window.run(
        "return [...document.images].map((one) => [one.complete, one.naturalWidth,"
        " one.getBoundingClientRect().width, getComputedStyle(one).backgroundColor])"
    )
    assert len(pictures) == 2
    for complete, natural, seen, ground in pictures:
        assert complete
        assert natural > 0
        assert 250 < seen < width
        assert ground == "rgb(255, 255, 255)"
    # A table is as wide as it must be, and its box scrolls.
    scrolls = window.run(
        "return [...document.querySelectorAll('.scroll')].map((one) =>"
        " one.scrollWidth > one.clientWidth)"
    )
    assert scrolls == ([True] * 3 if width == 400 else [True, False, True])
    ratios = window.run(CONTRASTS)
    assert len(ratios) > 40
    assert min(ratios) >= 4.5  # Web Content Accessibility Guidelines 2, level AA
    dark = window.run("return getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(21, 23, 26)" if scheme == "dark" else "rgb(250, 250, 248)")
    window.command("Emulation.clearDeviceMetricsOverride")


def test_the_browser_loads_nothing_else_and_reports_no_error(window, folder):
    window.complaints()
    window.open(write_report(folder, NAMES).as_uri())
    window.until("return document.readyState === 'complete'")
    asked = window.run(
        "return performance.getEntriesByType('resource').map((one) => one.name)"
    )
    assert [name for name in asked if not name.startswith("data:")] == []
    assert window.complaints() == []
    assert window.text("h1") == "The papers' experiments, reproduced"
    window.run("document.querySelector('a[href=\"#second\"]').click()")
    assert window.run("return location.hash") == "#second"
