"""The models that TensorFlow Serving's documents use, or equivalents of them."""

import tensorflow as tf
from serving_models import function, write

# The names under which the documents serve them.
HALF_PLUS_TWO = "half_plus_two"
HALF_PLUS_THREE = "saved_model_half_plus_three"


class Signals(tf.Module):
    """The three named inputs of `api_rest.md`, and the classification there."""

    def __init__(self):
        super().__init__()
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "caption": tf.io.FixedLenFeature([], tf.string),
        }

        def classify(inputs):
            parsed = tf.io.parse_example(inputs, features)
            sizes = tf.strings.length(parsed["image"])
            return {
                "classes": parsed["caption"][:, None],
                "scores": tf.cast(sizes, tf.float32)[:, None],
            }

        self.served = {
            "serving_default": function(
                lambda tag, signal, sensor: {
                    "tag": tag,
                    "sum": tf.reduce_sum(signal, 1) + tf.reduce_sum(sensor, [1, 2]),
                },
                tag=([None], tf.string),
                signal=([None, 5], tf.float32),
                sensor=([None, 2, 2], tf.float32),
            ),
            "words": function(lambda x: {"y": x + "!"}, x=([None], tf.string)),
            "pairs": function(lambda x: {"y": 2 * x}, x=([None, 1, 2], tf.int32)),
            "picture": function(
                lambda picture: {"picture_bytes": picture + "\xff"},
                picture=([None], tf.string),
            ),
            "classify_objects": function(classify, inputs=([None], tf.string)),
        }


class Mnist(tf.Module):
    """Has the signature of `serving_basic.md`; the brightest pixel is the class."""

    def __init__(self):
        super().__init__()
        self.served = {
            "predict_images": function(
                lambda images: {"scores": tf.nn.softmax(images[:, :10])},
                images=([None, 784], tf.float32),
            )
        }


def write_half_plus(directory, version, amount, *, exact_types=True):
    """Save y = x / 2 + amount as TensorFlow Serving's test data do, by TensorFlow 1.

    Args:
        directory: Directory of the versions.
        version: Name of the version's directory.
        amount: What is added.
        exact_types: Whether the signatures declare types and shapes, as those of
            half_plus_two do. Those of half_plus_three declare float scalars for
            everything, serialized examples included.
    """
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        a, b = (v1.Variable(value, use_resource=False) for value in (0.5, amount))
        examples = v1.placeholder(tf.string, [None] if exact_types else None)
        features = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        x = tf.identity(v1.parse_example(tf.reshape(examples, [-1]), features)["x"])
        y = tf.identity(a * x + b)
        session.run(v1.global_variables_initializer())

        def info(tensor):
            info = v1.saved_model.build_tensor_info(tensor)
            if not exact_types:
                info.dtype = tf.float32.as_datatype_enum
                info.tensor_shape.Clear()
            return info

        def signature(method, inputs, outputs):
            method = f"tensorflow/serving/{method}"
            return v1.saved_model.build_signature_def(inputs, outputs, method)

        regress = signature("regress", {"inputs": info(examples)}, {"outputs": info(y)})
        signatures = {
            "serving_default": signature("predict", {"x": info(x)}, {"y": info(y)})
        }
        if exact_types:
            signatures["regress_x_to_y"] = regress
            signatures["classify_x_to_y"] = signature(
                "classify", {"inputs": info(examples)}, {"scores": info(y)}
            )
        else:
            signatures["tensorflow/serving/regress"] = regress
        builder = v1.saved_model.Builder(str(directory / version))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def write_documented(directory):
    """Write each of these models to a directory of its name."""
    write_half_plus(directory / HALF_PLUS_TWO, "00000123", 2.0)
    write_half_plus(directory / HALF_PLUS_THREE, "00000123", 3.0, exact_types=False)
    for name, model in (("signals", Signals()), ("mnist", Mnist())):
        (directory / name).mkdir()
        write(model, directory / name, 1)
