"""The settings of the TensorFlow session that runs a model."""

from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from bn_keras_serving.configuration.settings import Loading
from bn_keras_serving.configuration.text_messages import read_text_message


def session_config(loading: Loading) -> config_pb2.ConfigProto:
    """Return the settings of a model's session.

    The threads for one operation belong to the whole process: the first session that
    TensorFlow opens, or its first eager operation, decides how many there are.

    Args:
        loading: How versions are loaded and run. Its numbers override those in its
            `session_config_file`.

    Raises:
        ValueError: If the file cannot be read.
    """
    config = config_pb2.ConfigProto(allow_soft_placement=True)
    if loading.session_config_file is not None:
        read_text_message(loading.session_config_file, config)
    if loading.intra_op_threads:
        config.intra_op_parallelism_threads = loading.intra_op_threads
    if loading.inter_op_threads:
        config.inter_op_parallelism_threads = loading.inter_op_threads
    if loading.mixed_precision == "bfloat16":
        rewriter = config.graph_options.rewrite_options
        rewriter.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    return config
