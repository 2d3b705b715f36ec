"""Google's checkpoint of BN-Inception: `inception_v2` of TF-Slim."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Linked from research/slim of tensorflow/models. Its content is checked by the names
# and shapes of its variables.
URL = (
    "https://storage.googleapis.com/download.tensorflow.org/models/"
    "inception_v2_2016_08_28.tar.gz"
)
CHECKPOINT = "inception_v2.ckpt"
SCOPE = "InceptionV2"
# The scope of each layer, by its name here without `_conv` and `_bn`.
_STEM = {
    "conv1": "Conv2d_1a_7x7",
    "conv2_reduce": "Conv2d_2b_1x1",
    "conv2": "Conv2d_2c_3x3",
}
_MODULES = {
    **{"3a": "Mixed_3b", "3b": "Mixed_3c", "3c": "Mixed_4a", "4a": "Mixed_4b"},
    **{"4b": "Mixed_4c", "4c": "Mixed_4d", "4d": "Mixed_4e", "4e": "Mixed_5a"},
    **{"5a": "Mixed_5b", "5b": "Mixed_5c"},
}
_BRANCHES = {
    "1x1": "Branch_0/Conv2d_0a_1x1",
    "3x3_reduce": "Branch_1/Conv2d_0a_1x1",
    "3x3": "Branch_1/Conv2d_0b_3x3",
    "double_3x3_reduce": "Branch_2/Conv2d_0a_1x1",
    "double_3x3_a": "Branch_2/Conv2d_0b_3x3",
    "double_3x3_b": "Branch_2/Conv2d_0c_3x3",
    "pool_projection": "Branch_3/Conv2d_0b_1x1",
}
# The modules with strides have neither a 1x1 convolution nor a projection.
_BRANCHES_WITH_STRIDES = {
    "3x3_reduce": "Branch_0/Conv2d_0a_1x1",
    "3x3": "Branch_0/Conv2d_1a_3x3",
    "double_3x3_reduce": "Branch_1/Conv2d_0a_1x1",
    "double_3x3_a": "Branch_1/Conv2d_0b_3x3",
    "double_3x3_b": "Branch_1/Conv2d_1a_3x3",
}
_CLASSIFIER = f"{SCOPE}/Logits/Conv2d_1c_1x1"
# The kernels of a layer here and there.
_KERNELS = {
    keras.layers.Conv2D: {"kernel": "weights"},
    keras.layers.SeparableConv2D: {
        "depthwise_kernel": "depthwise_weights",
        "pointwise_kernel": "pointwise_weights",
    },
}
_STATISTICS = ("beta", "moving_mean", "moving_variance")
# Variables of these names belong to layers; a training checkpoint has others too.
_OF_LAYERS = (
    *("weights", "biases", "depthwise_weights", "pointwise_weights", "gamma"),
    *_STATISTICS,
)
EPSILON = 1e-3
CLASSES, BACKGROUND = 1000, 1
_SHOWN = 5


def layer_scopes() -> dict[str, str]:
    """Return the scope of each convolution in the checkpoint, by its place here."""
    scopes = {place: f"{SCOPE}/{scope}" for place, scope in _STEM.items()}
    for module, scope in _MODULES.items():
        has_strides = module in ("3c", "4e")
        branches = _BRANCHES_WITH_STRIDES if has_strides else _BRANCHES
        for branch, branch_scope in branches.items():
            scopes[f"inception_{module}_{branch}"] = f"{SCOPE}/{scope}/{branch_scope}"
    return scopes


def is_checkpoint(path: str | PathLike[str]) -> bool:
    """Return whether a path is a checkpoint of TensorFlow 1 or the archive of one."""
    path = Path(path)
    if path.with_name(f"{path.name}.index").is_file():
        return True
    return path.is_file() and not path.name.endswith((".weights.h5", ".keras"))


def download() -> Path:
    """Return the published archive, downloaded by Keras and kept.

    Raises:
        ValueError: If it cannot be downloaded.
    """
    try:
        return Path(
            keras.utils.get_file(
                URL.rpartition("/")[2], origin=URL, cache_subdir="models"
            )
        )
    except Exception as error:  # Keras raises a bare Exception among others
        raise ValueError(
            f'Cannot download the weights "imagenet": {error}. Download {URL} by other '
            "means and give its path as `weights`."
        ) from error


def load_checkpoint(model: keras.Model, path: str | PathLike[str]) -> None:
    """Give a network of `BNInception` the weights of a checkpoint of `inception_v2`.

    TF-Slim's batch normalization has no `gamma`, so that becomes 1. The first of the
    1,001 classes there is the background. It is dropped for a model of 1,000 classes;
    a model of any other number of classes keeps its classifier.

    Args:
        model: The network, of full width, with batch normalization, the stem
            `"imagenet"` and the separable first layer.
        path: A checkpoint of TensorFlow 1 (a file, or the path without `.index`), or
            the `.tar.gz` archive of one.

    Raises:
        ValueError: If the file is no checkpoint, or variables are missing, of another
            shape, or of layers that the network does not have.
    """
    with _open(path) as reader:
        shapes = reader.get_variable_to_shape_map()
        wanted, units = _variables(model), _classifier(model)
        problems = [
            f"{name} is missing"
            if name not in shapes
            else f"{name} has shape {tuple(shapes[name])} instead of {shape}"
            for name, (_, shape) in wanted.items()
            if tuple(shapes.get(name, ())) != shape or name not in shapes
        ]
        known = {*wanted, f"{_CLASSIFIER}/weights", f"{_CLASSIFIER}/biases"}
        problems += [
            f"{name} belongs to no layer of the network"
            for name in sorted(shapes)
            if name.startswith(f"{SCOPE}/")
            and name.rpartition("/")[2] in _OF_LAYERS
            and name not in known
        ]
        classifier = {}
        if units in (CLASSES, CLASSES + BACKGROUND):
            expected = {
                "weights": (1, 1, 1024, CLASSES + BACKGROUND),
                "biases": (CLASSES + BACKGROUND,),
            }
            for name, shape in expected.items():
                full_name = f"{_CLASSIFIER}/{name}"
                if tuple(shapes.get(full_name, ())) != shape:
                    found = shapes.get(full_name)
                    problems.append(
                        f"{full_name} is missing"
                        if found is None
                        else f"{full_name} has shape {tuple(found)} instead of {shape}"
                    )
                else:
                    classifier[name] = full_name
        if problems:
            others = len(problems) - _SHOWN
            raise ValueError(
                f"{path} must be a checkpoint of TF-Slim's inception_v2. Received: "
                f"{'; '.join(problems[:_SHOWN])}"
                f"{f'; and {others} others' if others > 0 else ''}. Give another file, "
                "or build the network with its default width and layers."
            )
        # Nothing is assigned before everything was found.
        for name, (variable, _) in wanted.items():
            variable.assign(reader.get_tensor(name))
        for layer in model.layers:
            if layer.name.endswith("_bn") and layer.gamma is not None:
                layer.gamma.assign(np.ones(layer.gamma.shape))
        if classifier:
            layer: Any = model.get_layer("predictions")
            first = CLASSES + BACKGROUND - units
            layer.kernel.assign(
                reader.get_tensor(classifier["weights"])[0, 0, :, first:]
            )
            layer.bias.assign(reader.get_tensor(classifier["biases"])[first:])


def _variables(model: keras.Model) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return each variable of the network and its shape, by its name there."""
    variables = {}
    layers = {layer.name: layer for layer in model.layers}
    for place, scope in layer_scopes().items():
        convolution, normalization = layers[f"{place}_conv"], layers.get(f"{place}_bn")
        if (
            normalization is None
            or getattr(normalization, "epsilon", None) != EPSILON
            or any(not hasattr(normalization, name) for name in _STATISTICS)
        ):
            raise ValueError(
                "`normalization` must be batch normalization with an epsilon of "
                f"{EPSILON} for weights of TF-Slim. Received: {normalization!r} in "
                f"{place}. Use the default of BNInception."
            )
        for name, their_name in _KERNELS[type(convolution)].items():
            variables[f"{scope}/{their_name}"] = getattr(convolution, name)
        for name in _STATISTICS:
            variables[f"{scope}/BatchNorm/{name}"] = getattr(normalization, name)
    return {
        name: (variable, tuple(variable.shape)) for name, variable in variables.items()
    }


def _classifier(model: keras.Model) -> int:
    """Return the number of classes, 0 for a network without the top."""
    last = model.layers[-1]
    return last.units if last.name == "predictions" else 0


@contextmanager
def _open(path: str | PathLike[str]) -> Iterator[Any]:
    """Yield TensorFlow's reader of a checkpoint, or of that in an archive."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(path)
        try:
            if checkpoint.is_file() and tarfile.is_tarfile(checkpoint):
                with tarfile.open(checkpoint) as archive:
                    archive.extractall(folder, filter="data")
                found = sorted(Path(folder).rglob(f"{CHECKPOINT}*"))
                if not found:
                    raise ValueError(f"an archive without {CHECKPOINT}")
                checkpoint = found[0].with_name(CHECKPOINT)
            reader = tf.train.load_checkpoint(str(checkpoint))
        except (
            *(tf.errors.OpError, tarfile.TarError, OSError, EOFError),
            *(ValueError, RuntimeError),
        ) as error:
            reason = str(getattr(error, "message", error)).split("\n")[0][:200]
            raise ValueError(
                f"{path} must be a checkpoint of TF-Slim's inception_v2, or its "
                f".tar.gz archive. Received: {reason}. Download it again."
            ) from error
        yield reader
