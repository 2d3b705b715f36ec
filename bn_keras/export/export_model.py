"""Export a model as a version that TensorFlow Serving can load."""

from collections.abc import Iterable
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from bn_keras.export import publishing
from bn_keras.export.contract import make_contract
from bn_keras.export.determinism import refuse_training_mode
from bn_keras.export.pipeline import export_with_tensorflow
from bn_keras.export.samples import draw_samples, flatten_samples
from bn_keras.folding import fold_batch_normalization
from bn_keras.images.preprocessing import Preprocessing


def export_saved_model(
    model: keras.Model,
    directory: str | PathLike[str],
    *,
    version: int | None = None,
    labels: Iterable[str] | str | PathLike[str] | None = None,
    preprocessing: Preprocessing | None = None,
    samples: Any = None,
    tolerance: float | None = None,
    top_k: int = 5,
) -> Path:
    """Fold, freeze, check and publish a model as the SavedModel `directory/<version>`.

    The graph holds the weights as constants, once for all of these signatures:

    - `serving_default` takes the model's inputs and returns its outputs.
    - `predict_uint8` takes images of the model's size with values from 0 to 255.
    - `predict_encoded` takes JPEG or PNG files of any size.
    - `classify`, for the method Classify, takes `tf.train.Example`s with an image file
      in the feature `image/encoded` and returns the `top_k` highest `scores` and their
      `classes`. The other signatures are for the method Predict.

    `predict_uint8` exists if the model's only input is float images `(batch, height,
    width, channels)` with 1 or 3 channels, `predict_encoded` if in addition their size
    is known, and `classify` if in addition the only output is `(batch, classes)`.

    Inputs have the names of the model's input tensors and outputs those of its output
    layers, or their keys in a dictionary, after `bn_keras.export.naming.legal_names`.
    An automatic name such as `dense_7` loses its number, and an input without a name
    is called `input_layer`.

    A request with a wrong rank or shape, an empty batch or a damaged image file gets an
    error. The graph has no random operation, no stateful one and none with statistics
    of the batch. Before the version is published, every signature is run in the kind of
    session that TensorFlow Serving uses and compared with the Keras model. The version
    then appears complete, by a single rename. Its folder `assets.extra` holds
    `manifest.json` and a warm-up request for every signature. `write_server_files`
    writes the configuration of the server, unless it exists.

    A model of Keras' JAX or PyTorch backend is exported in another process.

    Args:
        model: A built Functional or Sequential model.
        directory: Folder of the model's versions; created if missing.
        version: A positive integer above every version that was ever in the directory;
            None for one above the highest. Deleted versions count, as long as the file
            `.highest_version` in the directory is kept.
        labels: Labels of the classes, or the path of a text file with one label per
            line; None for the numbers of the classes.
        preprocessing: How the values of images become the model's input; None to
            divide them by 255.
        samples: Inputs in the structure that the model takes, with at least one
            example, for the comparison; None for four random examples.
        tolerance: The largest difference from the model's outputs, relative to the
            largest value of an output; None for 1e-4 in float32, 1e-2 in float16 and
            5e-2 in bfloat16.
        top_k: Number of classes that `classify` returns.

    Returns:
        The path of the new version.

    Raises:
        TypeError: If the model is subclassed.
        ValueError: If an argument is invalid, the model cannot be folded, or the
            outputs of the export are not those of the model or not always the same.
        FileExistsError: If the version was, or may have been, used before.
        OSError: If the directory cannot be written.

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
    # First of all, because everything else takes seconds.
    publishing.check_version(directory, version)
    folding = fold_batch_normalization(model)
    refuse_training_mode(model)
    contract = make_contract(model, folding.model, preprocessing, labels, top_k)
    if samples is None:
        samples = draw_samples(contract)
    else:
        samples = flatten_samples(samples, contract)
    if keras.backend.backend() == "tensorflow":
        return export_with_tensorflow(
            model, folding, contract, directory, version, samples, tolerance
        )

    from bn_keras.export.other_backends import export_in_subprocess

    settings = {
        "directory": str(directory),
        "version": version,
        "labels": contract.labels,
        "preprocessing": contract.preprocessing and asdict(contract.preprocessing),
        "tolerance": tolerance,
        "top_k": top_k,
    }
    return Path(export_in_subprocess(model, contract, samples, settings))
