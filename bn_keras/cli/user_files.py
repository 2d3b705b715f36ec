"""Read the files and make the folders that a user names."""

import io
import re
import textwrap
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Keras nests errors, each with the whole configuration. The innermost one is the cause.
_OUTER_ERRORS = re.compile(r".*Exception encountered: ", re.DOTALL)


def make_folder(path: Path) -> None:
    """Create the work directory if it does not exist.

    Raises:
        ValueError: If the path is a file or is below one.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            "--workdir must be a folder, or the name of a new one. Received: "
            f"{path}, which is a file or is below one. Choose another name"
        ) from None


def load_model(path: str | Path) -> Any:
    """Load a `.keras` file.

    Args:
        path: The file.

    Returns:
        A Keras model.

    Raises:
        ValueError: If the file is not a Keras model, or needs the Python code of its
            own layers.
    """
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"The model must be a file whose name ends in .keras. Received: {path}"
            + ("" if path.exists() else ", which does not exist")
            + ". Pass a file that model.save or bn-keras train has written"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"A .keras file must be a zip archive. Received: {path}, which is not one, "
            "or is incomplete. Save the model again"
        )
    import keras

    try:
        return keras.models.load_model(path)
    except Exception as error:  # the code of a layer may raise anything
        message = _OUTER_ERRORS.sub("", str(error)).strip()
        cause = re.split(r"(?<=[.!?])\s", message)[0]
        raise ValueError(
            f"Cannot load {path} as a Keras model: {textwrap.shorten(cause, 300)} If "
            "it has custom layers, import them and use the Python API instead"
        ) from error


def read_inputs(
    path: str | Path, specs: Mapping[str, tuple[Any, Sequence[int | None] | None]]
) -> dict[str, np.ndarray]:
    """Read the inputs of one request.

    Args:
        path: A `.npy` file of the model's only input; a `.npz` file whose keys are the
            names of its inputs; or an image, which becomes a batch of one: the center
            of the image that covers the model's size, in [0, 1], or from 0 to 255 if
            the input is uint8.
        specs: Dict from input name to `(dtype, shape)`, as
            `bn_keras_serving.PredictionClient.metadata` returns it. In a shape, None
            stands for any size; a shape that is None stands for any shape.

    Returns:
        Dict from input name to an array of that type.

    Raises:
        ValueError: If the file cannot be read, or has other inputs or another type.
        OSError: If the file cannot be opened.

    Example:
    ```python
    import tempfile
    import numpy as np
    from bn_keras.cli.user_files import read_inputs

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/batch.npy", np.zeros((2, 4)))
        specs = {"x": (np.dtype("float32"), (None, 4))}
        (batch,) = read_inputs(f"{folder}/batch.npy", specs).values()
    assert batch.dtype == "float32"
    ```
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = _read_numpy(path, np.lib.npyio.NpzFile)
        if set(arrays) != set(specs):
            raise ValueError(
                f"The .npz file must have the keys {', '.join(sorted(specs))}. "
                f"Received: {path} with {', '.join(sorted(arrays))}. Save it with "
                "numpy.savez(file, KEY=array, ...)"
            )
        return {
            name: _cast(path, name, arrays[name], dtype)
            for name, (dtype, _) in specs.items()
        }
    if len(specs) != 1:
        raise ValueError(
            f"The file must have the model's inputs {', '.join(sorted(specs))}. "
            f"Received: {path}. Send a .npz file with these keys"
        )
    ((name, (dtype, shape)),) = specs.items()
    if path.suffix == ".npy":
        return {name: _cast(path, name, _read_numpy(path, np.ndarray), dtype)}
    if shape is None or len(shape) != 4 or shape[-1] not in (1, 3):
        raise ValueError(
            "For an image the model must take (batch, height, width, 1 or 3). "
            f"Received: {path}, for a model that takes "
            f"{'any shape' if shape is None else shape}. Send a .npy file"
        )
    pixels = _read_image(path, shape)
    if np.dtype(dtype) == np.uint8:
        return {name: np.rint(pixels * 255).astype(np.uint8)}
    if np.dtype(dtype).kind == "f":
        pixels = pixels.astype(dtype)
    return {name: _cast(path, name, pixels, dtype)}


def _read_numpy(path: Path, kind: type) -> Any:
    """Return an array, or a dict of arrays from a `.npz` file.

    A pickle is refused, because loading it would run its code.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, kind):
                return content if kind is np.ndarray else dict(content)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except MemoryError as error:
        raise ValueError(
            f"Cannot read {path}: {error}. Send its examples in several files"
        ) from None
    except Exception:  # NumPy raises many kinds of them for a damaged file
        pass
    if kind is np.ndarray:
        arrays, function = "one array", "numpy.save"
    else:
        arrays, function = "named arrays", "numpy.savez"
    raise ValueError(
        f"A {path.suffix} file must hold {arrays} of numbers or strings. Received: "
        f"{path}, which does not. Save it with {function}"
    )


def _cast(path: Path, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the array in the type of the input; only float64 may lose digits."""
    dtype = np.dtype(dtype)
    type_name, remedy = dtype.name, f"array.astype({dtype.name!r})"
    if dtype.kind == "O":
        if array.dtype.kind in "SU":
            return array
        type_name = remedy = "strings"
    # An array from a machine of another byte order has the same type.
    native = array.dtype.newbyteorder("=")
    if native == dtype or (native, dtype) == (np.float64, np.float32):
        return array.astype(dtype)
    raise ValueError(
        f"The model's input {name} must be of type {type_name}. Received: {path} of "
        f"type {array.dtype}. Save it as {remedy}"
    )


def read_encoded(path: str | Path, channels: int) -> bytes:
    """Read an image as a JPEG or PNG file, which exports decode.

    An image of another format becomes a PNG file of the pixels that training sees.

    Args:
        path: The file.
        channels: 1 or 3, the number of channels of the model's images.

    Returns:
        The content of a JPEG or PNG file.

    Raises:
        ValueError: If the file is no image.
        OSError: If the file cannot be opened.
    """
    from bn_keras.images.pixels import JPEG, PNG

    content = Path(path).read_bytes()
    # Not decoded here: the server has TensorFlow's decoders, as training has.
    if content.startswith((JPEG, PNG)):
        return content
    from PIL import Image

    pixels = (_read_image(Path(path), (1, None, None, channels)) * 255).round()
    file = io.BytesIO()
    image = pixels[0].astype(np.uint8)
    Image.fromarray(image[..., 0] if channels == 1 else image).save(file, "PNG")
    return file.getvalue()


def _read_image(path: Path, shape: Sequence[int | None]) -> np.ndarray:
    """Return a batch of one image in [0, 1], as training reads it without a record."""
    from PIL import Image, UnidentifiedImageError

    _, height, width, channels = shape
    try:
        with warnings.catch_warnings():
            # Training takes images of very many pixels too. Pillow still refuses twice
            # the number that it warns about.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                mode, white = image.mode, 255
                if mode.startswith("I;16"):
                    # Pillow's own conversion would clip 16 bits to 8.
                    white = 65535
                    pixels = np.asarray(image, np.float32)
                elif mode in ("1", "L", "LA"):
                    pixels = np.asarray(image.convert("L"), np.float32)
                else:
                    pixels = _colors(image, channels)
                pixels = np.atleast_3d(pixels / white)
                if height and width:
                    pixels = _cover(pixels, height, width)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # Pillow's readers raise many kinds of them
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(
            "The file must be a .npy file, a .npz file or a complete image. Received: "
            f"{path}, which is not one of them{reason}. Convert the file"
        ) from None
    if mode in ("I", "F"):
        raise ValueError(
            "An image must have 8 or 16 bits per channel, so that its white is known. "
            f"Received: {path} of Pillow's mode {mode}. Send a .npy file"
        )
    if pixels.shape[-1] != channels:
        pixels = np.repeat(pixels, channels or 1, axis=-1)
    return pixels[np.newaxis]


def _colors(image: "Image.Image", channels: int | None) -> np.ndarray:
    """Return float32 `(height, width, 3)`, or `(height, width)` for one channel."""
    if image.format in ("GIF", "WEBP", "BMP"):
        # As TensorFlow decodes these: transparency is dropped, but in a GIF it is
        # black, and gray is computed from all three colors by TensorFlow's weights.
        pixels = np.array(image.convert("RGBA"))
        if image.format == "GIF":
            pixels[pixels[..., 3] == 0] = 0
        colors = pixels[..., :3].astype(np.float32)
        if channels != 1:
            return colors
        weights = np.array([0.2989, 0.587, 0.114], np.float32)
        gray = (colors / np.float32(255)) @ weights
        return np.floor(gray * np.float32(255.5)).clip(0, 255)
    return np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)


def _cover(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize until the image covers a size, keeping its aspect, and crop the center."""
    from PIL import Image

    sides = np.array(pixels.shape[:2])
    ratio = (np.array([height, width]) / sides).max()
    rows, columns = np.maximum(np.rint(sides * ratio).astype(int), (height, width))
    if (rows, columns) != tuple(sides):
        # Channel by channel in float32, as Pillow rounds RGB to 8 bits.
        pixels = np.stack(
            [
                np.asarray(
                    Image.fromarray(channel).resize(
                        (columns, rows), Image.Resampling.BILINEAR
                    )
                )
                for channel in np.moveaxis(pixels, -1, 0)
            ],
            -1,
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    return pixels[top : top + height, left : left + width]
