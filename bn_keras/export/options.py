"""The options of an export, apart from its place."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from os import PathLike

from bn_keras.images.preprocessing import Preprocessing
from bn_keras.quantization.ranges import METHODS

# How the exported graph may compute.
PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """The options of `export_saved_model`, under the same names.

    Raises:
        ValueError: If an option is not of its type, or not one of its values.
    """

    labels: Iterable[str] | str | PathLike[str] | None = None
    preprocessing: Preprocessing | None = None
    tolerance: float | None = None
    top_k: int = 5
    constants: bool = False
    precision: str = "float32"
    accuracy: float = 0.98
    calibration_method: str = "max"
    reduce_range: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.preprocessing, Preprocessing | None):
            raise ValueError(
                "`preprocessing` must be None or a `Preprocessing`. Received: "
                f"preprocessing={self.preprocessing!r}. Import it from "
                "`bn_keras.images.preprocessing`"
            )
        if self.tolerance is not None and not _is_tolerance(self.tolerance):
            raise ValueError(
                "`tolerance` must be None or a finite number of at least 0. Received: "
                f"tolerance={self.tolerance!r}"
            )
        if type(self.top_k) is not int or self.top_k < 1:
            raise ValueError(
                "`top_k` must be an integer of at least 1. Received: "
                f"top_k={self.top_k!r}"
            )
        if not isinstance(self.constants, bool):
            raise ValueError(
                f"`constants` must be True or False. Received: {self.constants!r}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"`precision` must be {' or '.join(map(repr, PRECISIONS))}. Received: "
                f"precision={self.precision!r}"
            )
        if not _is_tolerance(self.accuracy) or self.accuracy > 1:
            raise ValueError(
                f"`accuracy` must be from 0 to 1. Received: accuracy={self.accuracy!r}"
            )
        if self.calibration_method not in METHODS:
            raise ValueError(
                f"`calibration_method` must be {' or '.join(map(repr, METHODS))}. "
                f"Received: calibration_method={self.calibration_method!r}"
            )
        if not isinstance(self.reduce_range, bool):
            raise ValueError(
                f"`reduce_range` must be True or False. Received: {self.reduce_range!r}"
            )
        only_int8 = ("accuracy", "calibration_method", "reduce_range")
        changed = [
            name
            for name in only_int8
            if getattr(self, name) != getattr(ExportOptions, name)
        ]
        if self.precision != "int8" and changed:
            raise ValueError(
                f"`{changed[0]}` must only be passed with precision='int8'. Received: "
                f"precision={self.precision!r}. Leave `{changed[0]}` out"
            )

    def check_calibration(self, calibration: object) -> None:
        """Check that there is a calibration exactly if the precision needs one.

        Raises:
            ValueError: If not.
        """
        if (calibration is not None) != (self.precision == "int8"):
            raise ValueError(
                "`calibration` must be passed with precision='int8', and only then. "
                f"Received: precision={self.precision!r} and "
                f"{'no' if calibration is None else 'a'} calibration. Pass some 100 "
                "examples that are like those that the model will get, or leave it out"
            )


def _is_tolerance(value: object) -> bool:
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
