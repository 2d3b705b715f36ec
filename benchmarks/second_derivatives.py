"""Check second derivatives: `python -m benchmarks.second_derivatives --json FILE`.

A gradient penalty and a step of MAML differentiate a gradient. Both are computed in
float64, in training mode, with this layer and with Keras' own, and compared with
central differences of the quantity that is differentiated.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

from benchmarks.timing import provenance
from bn_keras import BatchNormalization

LAYERS = {"bn_keras": BatchNormalization, "keras": keras.layers.BatchNormalization}
INNER_RATE = 0.3
# Central differences of a smooth function in float64: the error of the step, h^2, and
# that of the subtraction, 1e-16 / h, are about equal here.
STEP = 1e-5
# What the differences find where the derivative is zero.
ZERO = 1e-9


def rounded(value):
    """Return `value` to two digits."""
    return float(f"{value:.2g}")


def network(layer):
    """Return a small float64 network, equal weights for every class of `layer`."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="float64"),
            keras.layers.Dense(5, name="dense_1", dtype="float64"),
            layer(name="normalization_1", dtype="float64"),
            keras.layers.Activation("tanh", dtype="float64"),
            keras.layers.Dense(4, name="dense_2", dtype="float64"),
            layer(name="normalization_2", dtype="float64"),
            keras.layers.Activation("tanh", dtype="float64"),
            keras.layers.Dense(1, name="dense_3", dtype="float64"),
        ]
    )
    draw = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(0, 0.7, variable.shape))
    return model


def examples(count=8):
    """Return float64 inputs `(count, 3)` and targets `(count, 1)`."""
    draw = np.random.default_rng(1)
    return draw.normal(size=(count, 3)), draw.normal(size=(count, 1))


def tensorflow_functions(model):
    """Return the penalty and the query loss, functions of a list of weights."""
    import tensorflow as tf

    (support, support_targets), (query, query_targets) = examples(), examples(6)

    def answer(weights, inputs):
        return model.stateless_call(
            weights, model.non_trainable_variables, inputs, training=True
        )[0]

    def penalty(weights):
        inputs = tf.constant(support)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            scores = answer(weights, inputs)
        slopes = tf.norm(tape.gradient(scores, inputs), axis=1)
        return tf.reduce_mean((slopes - 1) ** 2)

    def query_loss(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            errors = answer(weights, tf.constant(support)) - support_targets
            loss = tf.reduce_mean(errors**2)
        # Without a path from the loss, a bias has no gradient.
        gradients = tape.gradient(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        adapted = [w - INNER_RATE * g for w, g in zip(weights, gradients, strict=True)]
        return tf.reduce_mean(
            (answer(adapted, tf.constant(query)) - query_targets) ** 2
        )

    return {"gradient penalty": penalty, "MAML step": query_loss}


def derivative(function, weights):
    """Return TensorFlow's gradient of `function`, an array for each weight."""
    import tensorflow as tf

    variables = [tf.constant(weight) for weight in weights]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        value = function(variables)
    gradients = tape.gradient(
        value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return [gradient.numpy() for gradient in gradients]


def central_differences(function, weights):
    """Return the same by central differences, an array for each weight."""
    import tensorflow as tf

    def value(number, index, change):
        changed = [weight.copy() for weight in weights]
        changed[number][index] += change
        return float(function([tf.constant(weight) for weight in changed]))

    differences = []
    for number, weight in enumerate(weights):
        slopes = np.zeros_like(weight)
        for index in np.ndindex(weight.shape):
            up, down = (value(number, index, sign * STEP) for sign in (1, -1))
            slopes[index] = (up - down) / (2 * STEP)
        differences.append(slopes)
    return differences


def measure():
    """Return a row for each case, layer and weight."""
    rows = []
    for name, layer in LAYERS.items():
        model = network(layer)
        weights = [v.numpy() for v in model.trainable_variables]
        for case, function in tensorflow_functions(model).items():
            pairs = zip(
                model.trainable_variables,
                derivative(function, weights),
                central_differences(function, weights),
                strict=True,
            )
            for variable, gradient, truth in pairs:
                largest = float(np.abs(truth).max())
                error = float(np.abs(gradient - truth).max())
                rows.append(
                    {
                        "case": case,
                        "layer": name,
                        "weight": "/".join(variable.path.split("/")[-2:]),
                        # A bias before a normalization has no effect at all.
                        "largest derivative": rounded(largest) if largest > ZERO else 0,
                        "largest error": rounded(error),
                        "relative error": (
                            rounded(error / largest) if largest > ZERO else None
                        ),
                    }
                )
    return rows


def main():
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure()
    for row in rows:
        print(*(f"{value!s:<24}" for value in row.values()))
    if options.json:
        facts = {**provenance("benchmarks.second_derivatives"), "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
