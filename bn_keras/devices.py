"""Which devices Keras and TensorFlow see, decided before they use any."""

import contextlib
import os


def start_keras(gpus: bool = True) -> None:
    """Import Keras, decide which devices it sees, and open TensorFlow's.

    Args:
        gpus: Whether Keras is going to compute on GPUs.
    """
    configure_keras(gpus)
    _open_tensorflow_devices()


def start_tensorflow(gpus: bool = True) -> None:
    """Import TensorFlow, decide which devices it sees, and open them.

    Args:
        gpus: Whether TensorFlow is going to compute on GPUs.
    """
    _configure_tensorflow(gpus)
    _open_tensorflow_devices()


def configure_keras(gpus: bool = True) -> None:
    """Import Keras and decide which devices it and TensorFlow see.

    On another backend than TensorFlow, TensorFlow only reads data. It sees no GPU then,
    because it would reserve memory that the backend needs.

    Args:
        gpus: Whether Keras is going to compute on GPUs.
    """
    import keras

    _configure_tensorflow(gpus and keras.backend.backend() == "tensorflow")


def _configure_tensorflow(gpus: bool) -> None:
    # TensorFlow takes the memory of a GPU as it needs it, not all of it at once. Worker
    # processes inherit the variable, and a user who wants all of it can say so.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import tensorflow as tf

    if not gpus:
        # A program that calls the command line may have used a GPU already.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")


def _open_tensorflow_devices() -> None:
    import tensorflow as tf

    # TensorFlow must connect to a cluster before it opens devices.
    if "TF_CONFIG" not in os.environ:
        tf.config.list_logical_devices()
