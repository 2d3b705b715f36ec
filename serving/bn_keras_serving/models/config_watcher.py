"""Reloading of the models' configuration file whenever it changes."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.configuration import read_models

_logger = logging.getLogger(__name__)


def watch_config(
    path: str | Path,
    poll_seconds: float,
    current_config: Callable[[], ModelServerConfig],
    reload: Callable[[ModelServerConfig], None],
    closing: threading.Event,
) -> None:
    """Reload the models whenever the file differs from what is served.

    The function returns once `closing` is set. A file that cannot be read or reloaded
    is logged once and tried again at every poll.

    Args:
        path: The configuration file.
        poll_seconds: Seconds between two polls.
        current_config: Function that returns the configuration that is served.
        reload: Function that replaces it.
        closing: Event that ends the watch.
    """
    last_problem = None
    while not closing.wait(poll_seconds):
        try:
            config = read_models(path)
            if config != current_config():
                reload(config)
            last_problem = None
        except Exception as error:  # whatever happens, the served models stay
            if str(error) != last_problem and not closing.is_set():
                _logger.error("The served models are unchanged: %s", error)
            last_problem = str(error)
