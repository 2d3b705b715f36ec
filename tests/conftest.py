"""What several test modules need."""

from pathlib import Path

import pytest

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


@pytest.fixture(scope="session")
def mnist_directory():
    """Folder of the four original MNIST files."""
    if not MNIST.is_dir():
        pytest.skip("the MNIST files are not beside this checkout")
    return MNIST
