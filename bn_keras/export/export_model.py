"""Write a model as a version that TensorFlow Serving can load.

This file names what is public; the rooms are `contract`, `signatures`, `decoding`,
`scanning`, `checking`, `publishing`, `server_files` and `other_backends`. TensorFlow is
imported only when an export is made.
"""

from dataclasses import asdict
from pathlib import Path

import keras

from bn_keras.export import publishing
from bn_keras.export.contract import contract_of
from bn_keras.export.pipeline import export_here
from bn_keras.export.samples import draw_samples, fit_samples
from bn_keras.export.scanning import refuse_training_mode
from bn_keras.folding import fold_batch_normalization


def export_saved_model(
    model,
    directory,
    *,
    version=None,
    labels=None,
    preprocessing=None,
    samples=None,
    tolerance=None,
    top_k=5,
):
    """Fold, freeze, check and publish `directory/<version>`, a SavedModel.

    The graph holds constants only, one copy for all signatures:

    - `serving_default`: the model's inputs, answered by its outputs.
    - `predict_uint8`: the same for images of the model's size, 0 to 255.
    - `predict_encoded`: the same for JPEG or PNG files of any size.
    - `classify`: `tf.Example`s with a picture in the feature `image/encoded`, answered
      by the `top_k` highest `scores` and their `classes`. Predict and Classify.

    The last three are there if the model's only input is float images, `(batch, height,
    width, 1 or 3)`; the last two if their size is known; the last one if the only
    output is `(batch, classes)`. Inputs and outputs have the names of the model's input
    tensors and output layers, or their keys in a dictionary, made legal by
    `bn_keras.export.naming.legal_names`; an automatic name such as `dense_7` loses
    its number, and an input without a name is `input_layer`.

    Inputs of a wrong rank or shape, empty batches and files that are no pictures are
    an error of the request. The graph holds no random, stateful or batch-statistics
    operation. Every signature is compared with the Keras model, in the session that
    TensorFlow Serving uses, before the version appears by a rename, whole or not at
    all. `assets.extra` holds warm-up requests for every signature and `manifest.json`.
    Server configuration is written beside the versions, by `write_server_files`, where
    it is missing.

    A model of Keras' JAX or PyTorch backend is exported in another process.

    Args:
        model: a built Functional or Sequential Keras model.
        directory: folder of the model's versions; made if missing.
        version: a positive integer above every one used in the directory; None for
            one above the highest. Deleted versions count, as long as the file
            `.highest_version` in the directory is kept.
        labels: the classes' names, a sequence of strings or a text file of one a line;
            None for their numbers.
        preprocessing: a `bn_keras.images.preprocessing.Preprocessing`; None
            divides by 255.
        samples: what the model takes, at least one example, to compare on; None draws
            four examples.
        tolerance: largest difference from the model's answers, in units of an output's
            largest value; None for 1e-4 in float32, 1e-2 in float16, 5e-2 in bfloat16.
        top_k: classes that `classify` answers.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        TypeError: for a subclassed model.
        ValueError: for an argument that is none of these, a model that cannot be
            folded, or one whose export does not answer as it does, or not always the
            same.
        FileExistsError: for a version that was, or may have been, used before.
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
    publishing.check_free(directory, version)
    folding = fold_batch_normalization(model)
    refuse_training_mode(model)
    contract = contract_of(model, folding.model, preprocessing, labels, top_k)
    if samples is None:
        samples = draw_samples(contract)
    else:
        samples = fit_samples(samples, contract)
    if keras.backend.backend() == "tensorflow":
        return export_here(
            model, folding, contract, directory, version, samples, tolerance
        )

    from bn_keras.export.other_backends import export_elsewhere

    settings = {
        "directory": str(directory),
        "version": version,
        "labels": contract.labels,
        "preprocessing": contract.preprocessing and asdict(contract.preprocessing),
        "tolerance": tolerance,
        "top_k": top_k,
    }
    return Path(export_elsewhere(model, contract, samples, settings))
