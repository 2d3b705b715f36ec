"""How models are loaded, who may do what, and which requests are logged."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

ShapeChecks = Literal["auto", "strict", "off"]
MixedPrecision = Literal["", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Loading:
    """How versions are loaded and run.

    Args:
        tags: Tags of the graph in the SavedModel.
        shape_checks: Whether the shapes of inputs are compared with the signature. As
            in TensorFlow Serving, a graph may accept other shapes than its signature
            declares. `auto` compares them only where an input of the wrong rank would
            abort the process, and refuses models that declare no rank there; `strict`
            compares them always; `off` never.
        allow_file_operations: Whether to load models whose signatures reach operations
            that read or write files, or run Python.
        retries: How often a failed load is tried again.
        retry_seconds: Seconds between two attempts.
        threads: Maximum number of versions that are loaded at a time. 0 loads one
            model after the other at the start, and one version of each model
            afterwards.
        warmup: Whether to run the recorded requests of a version before serving it.
        warmup_iterations: How often each of them is run.
        intra_op_threads: Threads for one operation; 0 lets TensorFlow decide.
        inter_op_threads: Number of operations that run at a time; 0 lets TensorFlow
            decide.
        session_config_file: File with a `ConfigProto` in text format; None for the
            defaults.
        mixed_precision: `bfloat16` lets oneDNN compute in bfloat16 where that changes
            results little; empty computes in the types of the graph.
        per_model_batching: Whether only versions that contain a file
            `batching_params.pbtxt` are batched, with the sizes and times of that file.

    Raises:
        ValueError: If a value is out of range.
    """

    tags: tuple[str, ...] = ("serve",)
    shape_checks: ShapeChecks = "auto"
    allow_file_operations: bool = False
    retries: int = 5
    retry_seconds: float = 60.0
    threads: int = 0
    warmup: bool = True
    warmup_iterations: int = 1
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    session_config_file: str | Path | None = None
    mixed_precision: MixedPrecision = ""
    per_model_batching: bool = False

    def __post_init__(self) -> None:
        for name, choice in (
            ("shape_checks", ShapeChecks),
            ("mixed_precision", MixedPrecision),
        ):
            value = getattr(self, name)
            if value not in get_args(choice):
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, get_args(choice)))}."
                    f" Received: {name}={value!r}"
                )
        for name, minimum in (
            ("retries", 0),
            ("retry_seconds", 0),
            ("threads", 0),
            ("warmup_iterations", 1),
            ("intra_op_threads", 0),
            ("inter_op_threads", 0),
        ):
            value = getattr(self, name)
            if not value >= minimum:
                raise ValueError(
                    f"`{name}` must be {minimum} or more. Received: {name}={value}"
                )


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may do what.

    Args:
        allow_reload: Whether clients may replace the list of models by
            `HandleReloadConfigRequest`. None allows it if only this machine can
            connect, or TLS verifies the clients.
        allowed_hosts: Host names that REST accepts in the `Host` header. Empty accepts
            every name, or only names of this machine if the server listens on loopback.
        cors: Whether REST allows scripts of any web page to call it.
    """

    allow_reload: bool | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors: bool = False


@dataclasses.dataclass(frozen=True)
class RequestLog:
    """Which requests are logged, and where.

    Args:
        path: File to append a JSON document per line to; `-` for the standard output.
        sampling_rate: Share of the requests that are logged, between 0 and 1.
    """

    path: str | Path
    sampling_rate: float = 1.0
