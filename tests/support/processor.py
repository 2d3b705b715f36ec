"""What this machine's processor can do in TensorFlow."""

from pathlib import Path

import pytest
import tensorflow as tf

_FILE = Path("/proc/cpuinfo")
_INFORMATION = _FILE.read_text() if _FILE.is_file() else ""
# Without it pairs of int8 products are added in 16 bits, which cuts large sums off.
VNNI = "vnni" in _INFORMATION
# Without it float32 products round some positions of a batch differently.
AVX512 = "avx512f" in _INFORMATION


def skip_signed_products(signed: bool) -> None:
    """Skip a test of exact int8 sums of signed inputs without VNNI."""
    if signed and not VNNI:
        pytest.skip("without VNNI oneDNN halves the weights' range for signed inputs")


def skip_channels_first() -> None:
    """Skip a test where TensorFlow has no channels-first convolution."""
    try:
        tf.nn.conv2d(tf.ones((1, 1, 2, 2)), tf.ones((1, 1, 1, 1)), 1, "SAME", "NCHW")
    except tf.errors.UnimplementedError:
        pytest.skip("TensorFlow has no channels-first convolution on this processor")
