"""The flags of `tensorflow_model_server` that this server only accepts, or refuses."""

import argparse
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from bn_keras.cli import argument_types
from bn_keras.cli.flags import add_flag
from bn_keras.cli.parsers import OneLineParser

# Flags of tensorflow_model_server that are accepted and have no effect, and why.
WITHOUT_EFFECT = {
    "enable_grpc_healthcheck_service": "the health service is always on",
    "flush_filesystem_caches": "the operating system decides what it caches",
    "num_tflite_interpreters_per_pool": "no TensorFlow Lite models are served",
    "num_tflite_pools": "no TensorFlow Lite models are served",
    "num_unload_threads": "each model unloads its versions in a thread of its own",
    "per_process_gpu_memory_fraction": "a GPU's memory is taken as it is needed",
    "remove_unused_fields_from_bundle_metagraph": "only the signatures are kept",
    "skip_initialize_tpu": "TPUs are not supported",
    "xla_cpu_compilation_enabled": "TensorFlow compiles what the model asks for",
    "xla_gpu_compilation_enabled": "TensorFlow compiles what the model asks for",
}
# Flags of tensorflow_model_server that would change answers or weaken the protection,
# and what is missing. They are accepted if they are false or empty.
REFUSED = {
    "enable_profiler": "there is no profiler service",
    "enable_signature_method_name_check": "signatures are checked by their tensors",
    "platform_config_file": "TensorFlow is the only platform",
    "prefer_tflite_model": "TensorFlow Lite models are not served",
    "thread_pool_factory_config_file": "there are no thread pool factories",
    "use_alts_credentials": "only TLS is supported, by --ssl_config_file",
}


def add_options(parser: OneLineParser) -> None:
    """Add the flags in a group of their own."""
    description = (
        f"Accepted without effect: {', '.join(WITHOUT_EFFECT)}. "
        f"Accepted if false or empty: {', '.join(REFUSED)}."
    )
    group = parser.add_argument_group(
        "other flags of tensorflow_model_server",
        textwrap.fill(description, 77, break_on_hyphens=False),
    )
    group.add_argument("--version", action=_Version, help="show the versions and exit")
    for name in WITHOUT_EFFECT:
        add_flag(group, name, nargs="?", const="true", help=argparse.SUPPRESS)
    for name, reason in REFUSED.items():
        add_flag(
            group,
            name,
            nargs="?",
            const="true",
            type=_refuse(reason),
            help=argparse.SUPPRESS,
        )


class _Version(argparse.Action):
    """Show the versions unless the value is false."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(
            *arguments,
            nargs="?",
            const="true",
            default=argparse.SUPPRESS,
            metavar="true|false",
            **settings,
        )

    def __call__(self, parser: argparse.ArgumentParser, _: Any, value: Any, *__: Any):
        if argument_types.boolean(value):
            lines = [f"{name} {version(name)}" for name in ("bn-keras", "tensorflow")]
            print("\n".join(lines))
            parser.exit()


def _refuse(reason: str) -> Callable[[str], None]:
    def convert(text: str) -> None:
        if text.lower() not in ("false", "0", ""):
            raise argparse.ArgumentTypeError(
                f"expected no value or false, since {reason}; received {text}"
            )

    return convert
