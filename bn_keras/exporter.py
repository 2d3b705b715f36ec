"""Write a model as a version that TensorFlow Serving can load.

Knows SavedModel and TensorFlow Serving's directory of versions; no server and no data
set. TensorFlow is imported only when an export is made.
"""

from pathlib import Path

import keras

from bn_keras.files import published
from bn_keras.folding import fold_batch_normalization


def export_saved_model(model, directory, *, version=None):
    """Fold, freeze and write `directory/<version>`, a SavedModel for inference.

    The signature `serving_default` takes the model's inputs and answers its outputs by
    their Keras names. The graph holds constants only. Inputs of a wrong rank or shape,
    and empty batches, are an error of the request (some of TensorFlow's CPU kernels
    abort the whole server on them). The version appears by a rename, whole or not at
    all.

    Args:
        model: a built Functional or Sequential Keras model.
        directory: folder of the model's versions; made if missing.
        version: a positive integer; None for one above the highest there.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        ValueError: for a version that is not a positive integer, or a model that
            cannot be folded.
        FileExistsError: where the version is there already.
        OSError: where the directory cannot be written.

    Example:
    ```python
    import tempfile
    import keras
    from bn_keras import BatchNormalization, export_saved_model

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), BatchNormalization()]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = export_saved_model(model, f"{folder}/model")
        assert path.name == "1"
        assert export_saved_model(model, f"{folder}/model").name == "2"
    ```

    Reference:
        Ioffe & Szegedy 2015, Algorithm 2, step 11.
    """
    if version is not None and (type(version) is not int or version < 1):
        raise ValueError(
            f"The version must be a positive integer. Received: {version!r}"
        )
    directory = Path(directory)
    if version is not None and (directory / str(version)).exists():
        raise FileExistsError(_taken(directory, version))
    serving_default = _frozen(fold_batch_normalization(model).model)
    directory.mkdir(parents=True, exist_ok=True)
    if version is None:
        version = 1 + max(versions(directory), default=0)
    path = directory / str(version)
    if path.exists():
        raise FileExistsError(_taken(directory, version))
    import tensorflow as tf

    with published(path) as beside:
        tf.saved_model.save(
            tf.Module(), str(beside), signatures={"serving_default": serving_default}
        )
    return path


def versions(directory):
    """The version numbers in a folder, ascending: names that parse as an integer.

    Args:
        directory: an existing folder.

    Returns:
        A list of ints.
    """
    return sorted(
        int(path.name)
        for path in Path(directory).iterdir()
        if path.is_dir() and path.name.isascii() and path.name.isdigit()
    )


def _taken(directory, version):
    return (
        f"Version {version} is already in {directory}. Expected a number never used "
        "before: leave `version` out to get the next one"
    )


def _frozen(model):
    """The signature `serving_default`: every variable of the model a constant."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Exporting needs Keras' TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()!r}; save the model as .keras and export it with "
            "KERAS_BACKEND=tensorflow"
        )
    # The input layers' names: those of unnamed tensors count the process's tensors.
    names = [tensor._keras_history.operation.name for tensor in model.inputs]
    specs = {
        name: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name)
        for name, tensor in zip(names, model.inputs, strict=True)
    }

    def infer(**inputs):
        checked = []
        for name, spec in specs.items():
            value = tf.ensure_shape(inputs[name], spec.shape)
            nonempty = tf.debugging.assert_positive(
                tf.shape(value)[0], message=f"The input {name!r} holds no example."
            )
            with tf.control_dependencies([nonempty]):
                checked.append(tf.identity(value))
        return keras.tree.flatten(model(pack(checked), training=False))

    def pack(flat):
        return keras.tree.pack_sequence_as(model._inputs_struct, flat)

    frozen = convert_variables_to_constants_v2(
        tf.function(infer).get_concrete_function(**specs)
    )

    # Freezing loses the outputs' names; this thin function gives them back.
    def serve(**inputs):
        outputs = frozen(**inputs)
        return dict(zip(model.output_names, outputs, strict=True))

    return tf.function(serve).get_concrete_function(**specs)
