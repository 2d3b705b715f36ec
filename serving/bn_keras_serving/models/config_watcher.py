"""Follow the configuration file of the models while they are served.

Knows neither models nor what a configuration means.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bn_keras_serving.configuration import read_models

_logger = logging.getLogger(__name__)


def follow(
    path: str | Path,
    seconds: float,
    served: Callable[[], ModelServerConfig],
    reload: Callable[[ModelServerConfig], None],
    closing: threading.Event,
) -> None:
    """Reload whenever a file says something else than is served, until `closing`.

    A file that cannot be read or reloaded is logged once, and tried again at each look.

    Args:
        path: The file.
        seconds: Between two looks.
        served: Returns what is served now.
        reload: Takes what the file says instead.
        closing: Set to end.
    """
    refused = None
    while not closing.wait(seconds):
        try:
            config = read_models(path)
            if config != served():
                reload(config)
            refused = None
        except Exception as error:  # whatever it is, the models go on serving
            if str(error) != refused and not closing.is_set():
                _logger.error("The models stay as they are: %s", error)
            refused = str(error)
