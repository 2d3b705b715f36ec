"""README's links become absolute where a package index shows it."""

import importlib.util
import re
import sys
import types

import pytest
from paths import ROOT

pytestmark = pytest.mark.fast
REPOSITORY = "https://example.org/somebody/bn-keras"


@pytest.fixture
def hook(monkeypatch):
    """Return the module of the hook, without the build backend that calls it."""
    interface = types.ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    path = ROOT / "docs" / "readme_hook.py"
    spec = importlib.util.spec_from_file_location("readme_hook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def readme_for(hook, metadata):
    instance = hook.ReadmeHook()
    instance.root = ROOT
    instance.update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    return metadata["readme"]["text"]


def test_without_a_repository_readme_is_as_it_is(hook):
    text = readme_for(hook, {})
    assert text == (ROOT / "README.md").read_text(encoding="utf-8")


def test_with_a_repository_every_link_and_picture_is_absolute(hook):
    text = readme_for(hook, {"urls": {"Repository": f"{REPOSITORY}/"}})
    assert f"]({REPOSITORY}/raw/HEAD/docs/pictures/figure_1.svg)" in text
    assert f"[CITATION.cff]({REPOSITORY}/blob/HEAD/CITATION.cff)" in text
    addresses = re.findall(r"\]\(([^)]+)\)", text)
    assert len(addresses) > 20
    assert all(address.startswith("https://") for address in addresses)
    # What was absolute before is unchanged.
    assert "(https://arxiv.org/abs/1502.03167)" in text
