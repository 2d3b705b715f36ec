"""The models of the conformance suite, and the configuration files of a server.

`python tests/conformance/models.py DIR` writes them for TensorFlow Serving itself:

    docker run -p 8500:8500 -p 8501:8501 -v DIR:/models tensorflow/serving \\
        --model_config_file=/models/models.config \\
        --monitoring_config_file=/models/monitoring.config \\
        --allow_version_labels_for_unavailable_models=true \\
        --enable_grpc_healthcheck_service=true \\
        --load_retry_interval_micros=100000
    TFS_ENDPOINT=127.0.0.1:8500 TFS_REST_ENDPOINT=127.0.0.1:8501 TFS_MODELS=DIR \\
        python -m pytest tests/conformance

A second server, with `--enable_batching` and
`--batching_parameters_file=/models/batching.config` in addition, is expected at
`TFS_BATCHING_ENDPOINT` and `TFS_BATCHING_REST_ENDPOINT`. The tests write further
versions into DIR, and can be run with it again.
"""

import argparse
import shutil
import sys
from pathlib import Path

import tensorflow as tf
from tensorflow.python.data.experimental.ops.testing import sleep
from tensorflow_serving.apis import prediction_log_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from serving_examples import FEATURES, Judge, example_of, input_of
from serving_models import Echo, Model, function, predict_log, write

from conformance.documented_models import write_documented

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

CONFIG = """\
model_config_list {{
  config {{
    name: "multiply" base_path: "{base}/multiply" model_platform: "tensorflow"
  }}
  config {{ name: "echo" base_path: "{base}/echo" model_platform: "tensorflow" }}
  config {{ name: "judge" base_path: "{base}/judge" model_platform: "tensorflow" }}
  config {{ name: "swap" base_path: "{base}/swap" model_platform: "tensorflow" }}
  config {{ name: "warmed" base_path: "{base}/warmed" model_platform: "tensorflow" }}
  config {{
    name: "all"
    base_path: "{base}/factors"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 123 }}
    version_labels {{ key: "canary" value: 125 }}
  }}
  config {{
    name: "specific"
    base_path: "{base}/factors"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 123 versions: 124 }} }}
  }}
  config {{
    name: "two"
    base_path: "{base}/factors"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
  config {{
    name: "half_plus_two"
    base_path: "{base}/half_plus_two"
    model_platform: "tensorflow"
  }}
  config {{
    name: "saved_model_half_plus_three"
    base_path: "{base}/saved_model_half_plus_three"
    model_platform: "tensorflow"
  }}
  config {{ name: "signals" base_path: "{base}/signals" model_platform: "tensorflow" }}
  config {{ name: "mnist" base_path: "{base}/mnist" model_platform: "tensorflow" }}
}}
"""
BATCHING = """\
max_batch_size { value: 4 }
batch_timeout_micros { value: 20000 }
max_enqueued_batches { value: 1 }
num_batch_threads { value: 1 }
thread_pool_name { value: "conformance" }
allowed_batch_sizes: 2
allowed_batch_sizes: 4
"""
MONITORING = """\
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""


class Factor(tf.Module):
    """Multiplies, reports the size of its batch, and sleeps for a requested time."""

    def __init__(self, factor):
        super().__init__()

        def after_sleep(microseconds):
            longest = tf.reduce_max(microseconds)
            dataset = tf.data.Dataset.from_tensors(longest).apply(sleep(longest))
            dataset = dataset.take(1)  # otherwise it sleeps again before the end
            slept = dataset.reduce(tf.zeros([], tf.int64), tf.add)
            # A zero that cannot be known before the sleep.
            return tf.minimum(slept, 0)

        self.served = {
            "serving_default": function(
                lambda x: {"y": factor * x}, x=([None], tf.float32)
            ),
            "rows": function(
                lambda x: {"seen": tf.fill(tf.shape(x), tf.shape(x)[0])},
                x=([None], tf.float32),
            ),
            "slow": function(lambda x: {"y": x + after_sleep(x)}, x=([None], tf.int64)),
            "picture": function(
                lambda picture_bytes, size: {
                    "picture_bytes": picture_bytes,
                    "length": tf.strings.length(picture_bytes) + size,
                },
                picture_bytes=([None], tf.string),
                size=([None], tf.int32),
            ),
        }


class Counted(tf.Module):
    """Counts its calls, over all signatures."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0)

        def counted(rows):
            return tf.fill([rows, 1], self.calls.assign_add(1.0))

        def parsed(inputs):
            return tf.shape(tf.io.parse_example(inputs, FEATURES)["x"])[0]

        text = ([None], tf.string)
        self.served = {
            "serving_default": function(
                lambda x: {"calls": counted(tf.shape(x)[0])}, x=([None], tf.float32)
            ),
            "classify": function(
                lambda inputs: {"scores": counted(parsed(inputs))}, inputs=text
            ),
            "regress": function(
                lambda inputs: {"outputs": counted(parsed(inputs))}, inputs=text
            ),
        }


def warm_up_logs():
    """Return a record of each supported kind; `Counted` counts five calls."""
    examples = input_of(example_of(1, 2))
    logs = [prediction_log_pb2.PredictionLog() for _ in range(3)]
    classify, regress, several = logs
    request = classify.classify_log.request
    request.model_spec.signature_name = "classify"
    request.input.CopyFrom(examples)
    request = regress.regress_log.request
    request.model_spec.signature_name = "regress"
    request.input.CopyFrom(examples)
    request = several.multi_inference_log.request
    request.input.CopyFrom(examples)
    for name, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "warmed"
        task.model_spec.signature_name = name
    return [predict_log(x=tf.ones([2])), *logs]


def write_all(directory, base=None):
    """Write every model and configuration file.

    Args:
        directory: Directory to write to, which must be empty.
        base: Path of that directory for the server; the same by default.
    """
    directory = Path(directory).resolve()
    for name in ("multiply", "echo", "judge", "swap", "warmed", "factors"):
        (directory / name).mkdir(parents=True)
    write(Model(1), directory / "multiply", 1)
    write(Model(2), directory / "multiply", 2)
    # None of these is a version: the name is not an integer, or it is a file.
    for name in ("3.partial", "v4", "5e0", ".6"):
        shutil.copytree(directory / "multiply" / "1", directory / "multiply" / name)
    (directory / "multiply" / "notes.txt").write_text("not a version")
    write(Echo(), directory / "echo", 1)
    write(Judge(), directory / "judge", 7)
    write(Factor(1), directory / "swap", 1)
    write(Counted(), directory / "warmed", 1, warm_up_logs())
    write_documented(directory)
    for version in (123, 124, 125):
        write(Factor(version), directory / "factors", version)
    (directory / "factors" / "123").rename(directory / "factors" / "00000123")
    (directory / "models.config").write_text(CONFIG.format(base=base or directory))
    (directory / "batching.config").write_text(BATCHING)
    (directory / "monitoring.config").write_text(MONITORING)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument(
        "--base",
        default="/models",
        help="path of DIR for the server; default: %(default)s",
    )
    options = parser.parse_args()
    write_all(options.directory, options.base)
