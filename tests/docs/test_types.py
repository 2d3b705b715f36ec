"""What a type checker says of a user's script, against the installed wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from optional import import_optional
from paths import ROOT, SUPPORT

SCRIPT = SUPPORT / "typed_user_script.py"


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory):
    """Return an interpreter that sees the wheel, then this environment's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target"]
    subprocess.run([*pip, site_packages, ROOT], check=True)
    # The wheel's folder comes first, so the checkout is not used.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return venv / "bin" / "python"


@pytest.mark.slow
def test_every_public_call_has_types(wheel_python, tmp_path):
    import_optional("pyright", "checks the types")
    shutil.copy(SCRIPT, tmp_path / "script.py")
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "reportMissingTypeStubs": False})
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson"),
            *("--pythonpath", wheel_python, "-p", tmp_path),
        ],
        env={**os.environ, "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    messages = {kind: [] for kind in ("error", "warning", "information")}
    for diagnostic in diagnostics:
        line = diagnostic["range"]["start"]["line"] + 1
        messages[diagnostic["severity"]].append(f"{line}: {diagnostic['message']}")
    assert messages["error"] == []
    assert messages["warning"] == []
    revealed = [text for text in messages["information"] if "Type of" in text]
    assert len(revealed) == SCRIPT.read_text().count("reveal_type(")
    unknown = [text for text in revealed if re.search(r"\bUnknown\b", text)]
    assert unknown == []
