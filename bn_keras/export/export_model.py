"""Export a model as a version that TensorFlow Serving can load."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from bn_keras.export import publishing
from bn_keras.export.options import ExportOptions
from bn_keras.export.pipeline import export_with_tensorflow
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
    constants: bool = False,
    precision: str = "float32",
    calibration: Any = None,
    accuracy: float = 0.98,
    calibration_method: str = "max",
    reduce_range: bool = False,
) -> Path:
    """Fold, check and publish a model as the SavedModel `directory/<version>`.

    It holds the weights once for all of these signatures:

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
    error. The graph has no random operation, none that changes a state and none with
    statistics of the batch. Before the version is published, every signature is run in
    the kind of session that TensorFlow Serving uses and compared with the Keras model.
    The version then appears complete, by a single rename. Its folder `assets.extra`
    holds `manifest.json` and a warm-up request for every signature.
    `write_server_files` writes the configuration of the server, unless it exists.

    Weights of 16 kB and more are variables, in the folder `variables`. A server holds
    them once, and constants several times for each signature. Lookup tables are saved
    with them. Strings, integers and recurrent states can be inputs and outputs.

    A warning says where folding loses digits, or where pixels are scaled twice. A model
    of Keras' JAX or PyTorch backend is exported in another process.

    Args:
        model: A built model that `fold_batch_normalization` can fold.
        directory: Folder of the model's versions; created if missing.
        version: A positive integer above every version that was ever in the directory;
            None for one above the highest. Deleted versions count, as long as the file
            `.highest_version` in the directory is kept.
        labels: Labels of the classes, or the path of a UTF-8 text file with one label
            per line; None for the numbers of the classes.
        preprocessing: How the values of images become the model's input. None to divide
            them by 255, or, if the model begins with layers that scale values from 0 to
            255, to leave them as they are.
        samples: Inputs in the structure that the model takes, with at least one
            example, for the comparison, or a batched `tf.data.Dataset`, whose first
            element is used. The first example is also a warm-up request. None for four
            random examples.
        tolerance: The largest difference from the model's outputs, relative to the
            largest value of an output. None for 1e-4 of an output for which everything
            is computed in float32, 1e-2 in float16 and 5e-2 in bfloat16.
        top_k: Number of classes that `classify` returns.
        constants: Whether all weights are constants of the graph, at most 2 GiB.
            Requests take less time, mainly in small batches, but the server needs many
            times the memory.
        precision: What layers in float32 compute in: `"float32"`; `"bfloat16"`, with
            sums in float32 and weights of half the size; or `"int8"`, for convolutions,
            products and what is between them, with weights of a quarter.
        calibration: Some 100 examples that are like those that the model will get, for
            `"int8"`: arrays, a data set or an iterable of batches, as
            `bn_keras.quantization.quantize` takes them, the path of a folder of images
            or of an `.npy` file. Arrays in `uint8` are pixels, if the model takes float
            images.
        accuracy: How well the int8 model must agree with the float model on half of the
            examples, which are held back: the share with the same class, or, if the
            outputs are not scores of classes, 1 less the relative error. Layers that
            cost too much stay float; if that does not suffice, nothing is published. 0
            for no bound.
        calibration_method: Which values a scale covers: `"max"`, `"percentile"` or
            `"mse"`.
        reduce_range: Whether int8 weights have 7 bits, for processors without VNNI.

    Returns:
        The path of the new version.

    Raises:
        TypeError: If the model is subclassed and `fold_batch_normalization` cannot
            follow its `call`.
        ValueError: If an argument is invalid, the model cannot be folded, or the
            outputs of the export are not those of the model or not always the same. If
            the model scales its images itself, and it does not follow from that how
            pixels become its input.
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
    options = ExportOptions(
        labels,
        preprocessing,
        tolerance,
        top_k,
        constants,
        precision,
        accuracy,
        calibration_method,
        reduce_range,
    )
    options.check_calibration(calibration)
    if keras.backend.backend() == "tensorflow":
        return export_with_tensorflow(
            model, directory, version, options, samples, calibration=calibration
        )

    from bn_keras.export.other_backends import export_in_subprocess

    return export_in_subprocess(
        model, directory, version, options, samples, calibration
    )
