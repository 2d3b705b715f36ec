"""The committed notebooks run, and are committed as they ran."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_runs_and_draws(path, tmp_path, monkeypatch):
    monkeypatch.setenv("BN_KERAS_SCALE", "smoke")
    monkeypatch.setenv("BN_KERAS_WORKDIR", str(tmp_path / "reproduced"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.fast
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_is_committed_as_it_ran_at_default_scale(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    # An encoded picture may contain any letters, so it is left out of the search below.
    pictures = [output.get("data", {}).pop("image/png", None) for output in outputs]
    assert any(pictures)
    assert not [one for one in outputs if one.output_type == "error"]
    assert not [one for one in outputs if one.get("name") == "stderr"]
    text = nbformat.writes(notebook)
    assert not re.search(r"/(work|tmp|root|home)\b", text)
    assert "--scale smoke" not in text
