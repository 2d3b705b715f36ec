"""What int8 convolutions compute on processors with fewer instructions."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT
from processor import VNNI

SCRIPT = ROOT / "tests" / "support" / "int8_on_processor.py"


def measure(**variables):
    process = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["AVX512_CORE", "AVX2"])
def test_seven_bits_never_overflow_without_vnni(instructions):
    errors = measure(ONEDNN_MAX_CPU_ISA=instructions)
    # One of 127 integers, and half of one.
    assert errors["unsigned normal 7"] < 0.008
    assert errors["unsigned extreme 7"] < 1e-6
    # With 8 bits the sum of two products is cut off at 16 bits.
    assert errors["unsigned extreme 8"] > 0.4
    # For signed inputs oneDNN halves the weights' range, which costs a bit.
    assert errors["signed extreme 8"] < 1e-6
    assert errors["signed normal 8"] < 0.03
    assert errors["signed normal 7"] < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [{"ONEDNN_MAX_CPU_ISA": "ALL"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}]
)
def test_eight_bits_are_exact_with_vnni(variables):
    if not VNNI:
        pytest.skip("this processor has no VNNI")
    errors = measure(**variables)
    for name, error in errors.items():
        assert error < 0.008, name
