"""What a test needs that an ordinary machine may lack.

With `CI=true` the gate has installed all of it, so a missing one is a failure there;
elsewhere the test is skipped with the reason.
"""

import importlib
import importlib.util
import os

import pytest


def skip_or_fail(reason: str):
    """Skip the test, or let it fail where everything must be installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; the gate must install it")
    pytest.skip(reason)


def import_optional(module: str, purpose: str):
    """Return the module, or skip the test.

    Args:
        module: Its dotted name.
        purpose: What it is needed for, such as "runs the ONNX file".
    """
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        skip_or_fail(f"{module}, which {purpose}, is not installed")
    return importlib.import_module(module)
