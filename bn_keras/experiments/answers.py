"""Which answers of a network are correct, in the form of a result file."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def pack_answers(correct: Any) -> str:
    """Return which answers are correct as hexadecimal digits, four answers in each.

    Args:
        correct: Booleans, `(pictures,)`.

    Example:
    ```python
    from bn_keras.experiments.answers import pack_answers, unpack_answers

    assert pack_answers([True, False, True, True, False]) == "b0"
    assert unpack_answers(["b0"], 5).tolist() == [[True, False, True, True, False]]
    ```
    """
    return np.packbits(np.asarray(correct, bool)).tobytes().hex()


def unpack_answers(texts: Sequence[str], pictures: int) -> np.ndarray:
    """Return which answers are correct, `(seeds, pictures)`.

    Args:
        texts: What `pack_answers` returned for each seed.
        pictures: The number of pictures.
    """
    rows = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in texts]
    return np.unpackbits(np.array(rows), axis=1, count=pictures).astype(bool)
