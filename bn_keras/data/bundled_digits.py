"""The handwritten digits that are bundled with the package."""

from pathlib import Path

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.data_set import Data

DIGIT_NAMES = tuple("0123456789")
# The file's source and license are in optical_digits.txt beside it.
_FILE = Path(__file__).with_name("optical_digits.csv.gz")
_BRIGHTEST = 16
# Every fifth example is a test example.
_TEST_EVERY = 5


def digits() -> Data:
    """Return the 1,797 bundled handwritten digits, images of 8x8 pixels.

    The split is always the same: every fifth example is a test example (360), the
    others are training examples (1,437).

    Returns:
        `Data` with float32 images `(examples, 8, 8, 1)` in [0, 1].

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    ```

    Reference:
        Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", the
        test set, CC BY 4.0.
    """
    table = np.loadtxt(_FILE, np.uint8, delimiter=",")
    images = table[:, :-1].reshape(-1, 8, 8, 1).astype("float32") / _BRIGHTEST
    labels = table[:, -1].astype("int64")
    is_test = np.arange(len(labels)) % _TEST_EVERY == 0
    return Data(
        "digits",
        Arrays(images[~is_test], labels[~is_test]),
        Arrays(images[is_test], labels[is_test]),
        DIGIT_NAMES,
    )
