"""The data sets of the experiments, shared by the parts that read them."""

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from bn_keras import data

if TYPE_CHECKING:
    from bn_keras.data import Data

_download_lock: Any = threading.Lock()


def share_download_lock(lock: Any) -> None:
    """Use a lock that several processes share.

    Args:
        lock: A `multiprocessing.Lock`. If two processes need the same files, one waits
            while the other downloads them.
    """
    global _download_lock
    _download_lock = lock


@cache
def load_data(name: str, directory: str | None) -> "Data":
    """Read a data set, once per process.

    Args:
        name: A key of `bn_keras.data.DATA_SETS`.
        directory: The folder of its files. With None the bundled or downloaded files
            are read.

    Returns:
        A `bn_keras.data.Data`.
    """
    with _download_lock:
        return data.load(name, directory)
