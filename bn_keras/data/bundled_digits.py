"""The handwritten digits that come with scikit-learn.

Knows this one set; no file and no network.
"""

import numpy as np

from bn_keras.data.arrays import Arrays
from bn_keras.data.splits import Data

DIGIT_NAMES = tuple("0123456789")


def digits():
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

    Always the same split: each fifth example is a test example (360), the others are
    training examples (1,437).

    Returns:
        `Data` with images `(examples, 8, 8, 1)`.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    ```

    Reference:
        Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits".
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = (bundle.images[..., np.newaxis] / 16).astype("float32")
    labels = bundle.target.astype("int64")
    test = np.arange(len(labels)) % 5 == 0
    return Data(
        "digits",
        Arrays(images[~test], labels[~test]),
        Arrays(images[test], labels[test]),
        DIGIT_NAMES,
    )
