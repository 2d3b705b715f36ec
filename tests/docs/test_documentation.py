"""The documentation is true: code runs, commands parse, figures were measured."""

import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from optional import import_optional
from paths import ROOT

import bn_keras
import bn_keras_serving
from bn_keras.cli import command_line
from docs import build, pages, pictures
from docs.pages.markdown import load

README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A block of code, with the marks of a comment before it, such as <!-- test: slow -->.
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<marks>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<language>python|sh)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# Python packages by the names that pages ask for.
PURPOSES = {
    "onnx": "writes the ONNX file",
    "tf2onnx": "writes the ONNX file",
    "onnxruntime": "runs the ONNX file",
    "ai_edge_litert": "runs the LiteRT file",
    "openvino": "writes and runs the OpenVINO file",
}


class Block:
    """A block of code of a page."""

    def __init__(self, match):
        self.language = match["language"]
        self.code = inspect.cleandoc(match["code"])
        self.marks = (match["marks"] or "").split()
        self.is_slow = self.marks[:1] in (["slow"], ["needs"])


def blocks(text):
    return [Block(match) for match in BLOCK.finditer(text)]


def page_blocks(path):
    """Return what a test of a page runs: its Python, and what asks the served model."""
    return [
        block
        for block in blocks(path.read_text(encoding="utf-8"))
        if block.language == "python" or "served" in block.marks
    ]


def modules():
    for package in (bn_keras, bn_keras_serving):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def public_objects():
    """Yield public functions, classes and methods with where they are defined."""
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


DOCSTRING_EXAMPLES = [
    pytest.param(block.code, id=f"{name}-{number}")
    for name, value in public_objects()
    for number, block in enumerate(blocks(inspect.cleandoc(value.__doc__ or "")))
    if block.language == "python"
]


@pytest.mark.parametrize("code", DOCSTRING_EXAMPLES)
def test_every_example_of_a_docstring_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})


def test_every_public_name_has_an_example():
    for name in bn_keras.__all__:
        value = getattr(bn_keras, name)
        if not inspect.ismodule(value):
            examples = blocks(inspect.cleandoc(value.__doc__))
            assert [one for one in examples if one.language == "python"], name


def pages_with_code():
    """Yield each page with the blocks to run, slow ones in the longer proofs only."""
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        runnable = page_blocks(path)
        fast = [block for block in runnable if not block.is_slow]
        if fast:
            yield pytest.param(path, fast, id=name)
        if len(fast) < len(runnable):
            slow = [pytest.mark.slow]
            yield pytest.param(path, runnable, id=f"{name} with all", marks=slow)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a folder with a picture, and a server of a model of such pictures."""
    import keras
    import numpy as np

    from bn_keras import BatchNormalization, export_saved_model
    from bn_keras_serving import PredictionServer

    folder = tmp_path_factory.mktemp("served")
    (folder / "bn-keras-demo").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 1))
    keras.utils.save_img(folder / "bn-keras-demo" / "digit.png", picture, scale=False)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, use_bias=False),
            BatchNormalization(),
            keras.layers.Softmax(name="predictions"),
        ]
    )
    export_saved_model(model, folder / "digits")
    with PredictionServer(folder / "digits", port=0, rest_port=0) as server:
        yield folder, server


# What converters of others warn of.
@pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning")
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")
@pytest.mark.parametrize(("path", "runnable"), list(pages_with_code()))
def test_the_code_of_every_page_runs(path, runnable, tmp_path, monkeypatch, request):
    """Run a page's blocks one after the other, as a reader does."""
    monkeypatch.chdir(tmp_path)
    for block in runnable:
        if block.marks[:1] == ["needs"]:
            for module in block.marks[1:]:
                import_optional(module.rstrip(","), PURPOSES[module.rstrip(",")])
        if "old.h5" in block.marks:
            _write_an_old_model(tmp_path / "old.h5")
    addresses = {}
    if any("served" in block.marks for block in runnable):
        folder, server = request.getfixturevalue("served")
        monkeypatch.chdir(folder)
        addresses = {
            "127.0.0.1:8500": server.address,
            "127.0.0.1:8501": server.rest_address,
        }
    namespace = {"__name__": "__main__"}
    for block in runnable:
        code = block.code
        if "served" in block.marks:
            for documented, real in addresses.items():
                code = code.replace(documented, real)
        else:  # A server of its own takes any free port.
            code = code.replace("port=8500", "port=0")
        if block.language == "python":
            exec(compile(code, str(path), "exec"), namespace)
        else:
            _run_in_a_shell(code)


def _run_in_a_shell(code):
    """Run commands that ask a server over REST; each must answer without an error."""
    done = subprocess.run(
        ["bash", "-euc", code.replace("curl ", "curl --silent --show-error --fail ")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "predictions" in done.stdout


def _write_an_old_model(path):
    """Write a model in the format of `tf.keras`."""
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    model.save(path)


def command_lines():
    texts = [path.read_text(encoding="utf-8") for path in PAGES]
    texts += [command_line.EXAMPLES]
    texts += [f"  {command.example}" for command in command_line.COMMANDS.values()]
    for text in texts:
        for line in re.findall(r"^ *(bn-keras .*)", text, re.MULTILINE):
            if not line.startswith("bn-keras COMMAND"):
                yield line


@pytest.mark.fast
@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_every_command_that_is_shown_parses(line):
    words = shlex.split(line, comments=True)
    command_line.build_parser().parse_args(words[1:])


@pytest.mark.parametrize("name", list(pages.PAGES))
def test_generated_pages_say_what_was_measured(name):
    path = ROOT / "docs" / name
    assert path.read_text(encoding="utf-8") == pages.PAGES[name](), (
        "run `python -m docs.pages`"
    )


@pytest.mark.fast
def test_readme_says_what_was_measured():
    text = " ".join(README.read_text(encoding="utf-8").split())
    answers = {row["question"]: row for row in load("comparison")["rows"]}
    large = next(row for name, row in answers.items() if "401,408" in name)
    assert f"{float(large['Keras']):.1f} times too large" in text
    assert abs(float(large["bn_keras"]) - 1) <= 1e-3
    stored = answers["variance stored for 1, 2 and 6"]
    assert (stored["Keras"], stored["bn_keras"]) == (
        "biased (4.67)",
        "unbiased (7.00)",
    )
    assert "4.67, biased | 7.00, unbiased" in text
    ratios = [
        row["ratio"]
        for row in load("layer")["rows"]
        if row["metric"] == "ms" and row["peer"] == "keras"
        if row["case"].count(",") == 3  # a convolutional shape
    ]
    assert len(ratios) == 4
    assert f"{min(ratios):.2f} to {max(ratios):.2f} of the time" in text
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"{min(ratios):.2f} to {max(ratios):.2f} of the time" in index
    errors = {"keras": [], "bn_keras": []}
    for row in load("second_derivatives")["rows"]:
        if row["relative error"] is not None:
            errors[row["layer"]].append(row["relative error"])
    assert f"up to {max(errors['keras']):.0%}" in text
    assert "within 2e-9" in text
    assert max(errors["bn_keras"]) <= 2e-9


@pytest.mark.fast
def test_pages_say_what_was_folded():
    networks = {row["network"]: row for row in load("folding")["rows"]}
    readme = README.read_text(encoding="utf-8")
    assert networks["ResNet50"]["left"] == 0
    assert f"{networks['ResNet50']['folded']} folded, 0 left" in readme
    guide = (ROOT / "docs" / "how-to" / "fold.md").read_text(encoding="utf-8")
    assert f"# all {networks['MobileNetV2']['folded']} are folded" in guide
    for name in ("ResNet50V2", "DenseNet121"):
        row = networks[name]
        assert f"{name} {row['left']} of {row['left'] + row['folded']}" in " ".join(
            guide.split()
        )
    for page in (guide, (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")):
        assert "2e-6 of the largest output" in " ".join(page.split())
    assert max(row["difference"] for row in networks.values()) <= 2e-6


@pytest.mark.fast
@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "serving" / "deploy" / "README.md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_relative_links_lead_somewhere(path):
    text = build.CODE.sub("", path.read_text(encoding="utf-8"))
    for _, address, _ in build.LINK.findall(text):
        if not re.match(r"\w+:", address):
            name = address.partition("#")[0]
            assert not name or (path.parent / name).is_file(), address


@pytest.mark.fast
def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'= "([^"]+\.md)"', navigation))
    built = {page for page in build.sources() if page.endswith(".md")}
    assert named == built | {"reference/command-line.md"}


@pytest.mark.fast
def test_user_documentation_names_no_internal_targets():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(to reach|was asked|[Mm]issed:)", text), path


@pytest.mark.fast
def test_readme_is_short_and_has_the_two_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert len([line for line in lines if line.startswith("python3 -m venv ")]) == 2


@pytest.mark.parametrize(
    "draw",
    [pictures.draw_folding, pictures.draw_export, pictures.draw_figure_1],
    ids=["folding", "export", "figure_1"],
)
def test_pictures_show_what_was_measured(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    draw()
    (drawn,) = tmp_path.iterdir()
    committed = ROOT / "docs" / "pictures" / drawn.name
    assert drawn.read_bytes() == committed.read_bytes(), "run `python -m docs.pages`"


@pytest.mark.fast
def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == bn_keras.__version__
    assert citation["authors"] == [{"name": "The bn-keras developers"}]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    import_optional("zensical", "builds the documentation site")
    import_optional("mkdocstrings", "writes the pages of the reference")
    done = subprocess.run(
        [sys.executable, "-m", "docs.build", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "No issues found" in text
    assert "griffe:" not in text
    for page in build.sources():
        if page.endswith(".md") and page != "index.md":
            assert (tmp_path / "site" / page[:-3] / "index.html").is_file()
    for picture in re.findall(
        r'<img[^>]+src="([^"]+)"',
        "".join(p.read_text() for p in Path(tmp_path / "site").rglob("*.html")),
    ):
        assert not picture.startswith("http")


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "bn_keras", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: bn-keras")
