"""Read the files that a user names: models, arrays, images.

Knows file formats and what a model says of its inputs; no server and no command line.
"""

import re
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image, UnidentifiedImageError

# Of the deepest of Keras' nested errors, whose text holds the whole configuration.
_CAUSE = re.compile(r".*Exception encountered: ", re.DOTALL)


def load_model(path) -> Any:
    """Load a `.keras` file.

    Args:
        path: the file.

    Returns:
        A Keras model.

    Raises:
        ValueError: for a file that is no Keras model, or one that needs the Python code
            of its own layers.
    """
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"Expected a model file that ends in .keras. Received: {path}"
            + ("" if path.exists() else ", which does not exist")
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"Expected a .keras file, which is a zip archive. Received: {path}, which "
            "is none, or only the begin of one; save the model again"
        )
    try:
        return keras.models.load_model(path)
    except Exception as error:  # whatever the layers' own code raises
        cause = re.split(r"(?<=[.!?])\s", _CAUSE.sub("", str(error)).strip())[0]
        raise ValueError(
            f"Cannot load {path} as a Keras model: {textwrap.shorten(cause, 300)} If "
            "it holds layers of its own, import their code and do the same in Python"
        ) from error


def read_inputs(path, expected) -> dict[str, np.ndarray]:
    """Read the inputs of one request.

    Args:
        path: a `.npy` file of the model's one input; a `.npz` file whose keys are the
            names of its inputs; or an image, which becomes a batch of one: fitted to
            the model's size, in [0, 1], or of a uint8 input from 0 to 255.
        expected: dict from input name to `(dtype, shape)`, None standing for any size
            or for any shape, as `serving.PredictionClient.metadata` tells it.

    Returns:
        Dict from input name to an array of that type.

    Raises:
        ValueError: for a file that cannot be read, or another type or number of inputs.
        OSError: for a file that is not there.

    Example:
    ```python
    import tempfile
    import numpy as np
    from bn_keras.cli.user_files import read_inputs

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/batch.npy", np.zeros((2, 4)))
        expected = {"x": (np.dtype("float32"), (None, 4))}
        (batch,) = read_inputs(f"{folder}/batch.npy", expected).values()
    assert batch.dtype == "float32"
    ```
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = _read_numpy(path, np.lib.npyio.NpzFile)
        if set(arrays) != set(expected):
            raise ValueError(
                f"Expected a .npz file with the keys {', '.join(sorted(expected))}. "
                f"Received: {path} with {', '.join(sorted(arrays))}; save it with "
                "numpy.savez(file, KEY=array, ...)"
            )
        return {
            name: _typed(path, name, arrays[name], dtype)
            for name, (dtype, _) in expected.items()
        }
    if len(expected) != 1:
        raise ValueError(
            f"The model takes the inputs {', '.join(sorted(expected))}. Received: "
            f"{path}; send a .npz file whose keys are these"
        )
    ((name, (dtype, shape)),) = expected.items()
    if path.suffix == ".npy":
        return {name: _typed(path, name, _read_numpy(path, np.ndarray), dtype)}
    if shape is None or len(shape) != 4 or shape[-1] not in (1, 3):
        raise ValueError(
            "An image needs a model that takes (batch, height, width, 1 or 3). "
            f"Received: {path} for a model that takes "
            f"{'any shape' if shape is None else shape}; send a .npy file"
        )
    pixels = _read_image(path, shape)
    if np.dtype(dtype) == np.uint8:
        return {name: np.rint(pixels * 255).astype(np.uint8)}
    if np.dtype(dtype).kind == "f":
        pixels = pixels.astype(dtype)
    return {name: _typed(path, name, pixels, dtype)}


def _read_numpy(path, kind) -> Any:
    """An array, or a dict of them; never a pickle, which would run code."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, kind):
                return found if kind is np.ndarray else dict(found)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except MemoryError as error:
        raise ValueError(
            f"Cannot read {path}: {error}; send its examples in several files"
        ) from None
    except Exception:  # numpy raises all kinds of them for a damaged file
        pass
    what = "one array" if kind is np.ndarray else "named arrays"
    save = "numpy.save" if kind is np.ndarray else "numpy.savez"
    raise ValueError(
        f"Expected a {path.suffix} file of {what} of numbers or strings. Received: "
        f"{path}, which is none; save it with {save}"
    )


def _typed(path, name, array, dtype):
    """The array in the input's type; only float64 loses digits on its way."""
    dtype = np.dtype(dtype)
    type_name, mend = dtype.name, f"array.astype({dtype.name!r})"
    if dtype.kind == "O":
        if array.dtype.kind in "SU":
            return array
        type_name = mend = "strings"
    # The same type in the byte order of another machine is the same type.
    native = array.dtype.newbyteorder("=")
    if native == dtype or (native, dtype) == (np.float64, np.float32):
        return array.astype(dtype)
    raise ValueError(
        f"The model's input {name} is of type {type_name}. Received: {path} of type "
        f"{array.dtype}; save it as {mend}"
    )


def _read_image(path, shape):
    _, height, width, channels = shape
    try:
        with warnings.catch_warnings():
            # Pillow warns of an image of very many pixels before it refuses twice that.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                mode = image.mode
                # One channel of 16 bits: Pillow's own conversion would clip it.
                if mode.startswith("I;16"):
                    full = 65535
                    image = Image.fromarray(np.asarray(image, np.float32))
                else:
                    full = 255
                    image = image.convert("L" if channels == 1 else "RGB")
                if height and width:
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(image, np.float32) / full
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # Pillow's readers raise all kinds of them
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(
            "Expected a .npy file, a .npz file or a whole image. Received: "
            f"{path}, which is none of them{reason}"
        ) from None
    if mode in ("I", "F"):
        raise ValueError(
            "Expected an image of 8 or 16 bits a channel, whose values end at white. "
            f"Received: {path} of Pillow's mode {mode}; send a .npy file"
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], channels, axis=-1)
    return pixels[np.newaxis]
