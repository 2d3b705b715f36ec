"""Trainings of the kinds in which batch normalization is known to fail."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from normalization_oracle import tensorflow_only

from bn_keras import BatchNormalization

pytestmark = [pytest.mark.slow, tensorflow_only]


def draw(seed=0):
    return np.random.default_rng(seed)


def test_a_dcgan_learns_the_scale_of_its_images():
    import tensorflow as tf

    class Gan(keras.Model):
        """Normalization in both networks; real and made images in separate batches."""

        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential(
                [
                    keras.Input((8,)),
                    layers.Dense(4 * 4 * 16, use_bias=False),
                    layers.Reshape((4, 4, 16)),
                    BatchNormalization(),
                    layers.ReLU(),
                    layers.Conv2DTranspose(8, 4, 2, "same", use_bias=False),
                    BatchNormalization(),
                    layers.ReLU(),
                    layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
                ]
            )
            self.discriminator = keras.Sequential(
                [
                    keras.Input((16, 16, 1)),
                    layers.Conv2D(8, 4, 2, "same"),
                    layers.LeakyReLU(0.2),
                    layers.Conv2D(16, 4, 2, "same", use_bias=False),
                    BatchNormalization(),
                    layers.LeakyReLU(0.2),
                    layers.Flatten(),
                    layers.Dense(1),
                ]
            )

        def compile(self):
            super().compile()
            self.optimizers = [keras.optimizers.Adam(2e-3, 0.5) for _ in range(2)]
            self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

        def train_step(self, real):
            noise = tf.random.normal((tf.shape(real)[0], 8))
            with tf.GradientTape(persistent=True) as tape:
                made = self.generator(noise, training=True)
                scores = [self.discriminator(x, training=True) for x in (real, made)]
                losses = (
                    self.loss_of(tf.ones_like(scores[0]), scores[0])
                    + self.loss_of(tf.zeros_like(scores[1]), scores[1]),
                    self.loss_of(tf.ones_like(scores[1]), scores[1]),
                )
            networks = (self.discriminator, self.generator)
            for loss, network, optimizer in zip(
                losses, networks, self.optimizers, strict=True
            ):
                weights = network.trainable_variables
                optimizer.apply_gradients(
                    zip(tape.gradient(loss, weights), weights, strict=True)
                )
            return {"discriminator": losses[0], "generator": losses[1]}

    keras.utils.set_random_seed(0)
    gan = Gan()
    gan.compile()
    images = 0.6 + 0.1 * draw().normal(size=(256, 16, 16, 1)).astype("float32")
    history = gan.fit(images, batch_size=32, epochs=20, verbose=0).history
    assert np.isfinite(history["generator"]).all()
    made = gan.generator(draw(1).normal(size=(64, 8)), training=False)
    assert abs(float(np.mean(made)) - 0.6) < 0.15


def test_a_pointnet_classifies_clouds_of_points():
    def cloud(label, count=64):
        points = draw(label).normal(size=(200, count, 3))
        shapes = (points / np.linalg.norm(points, axis=-1, keepdims=True), points)
        return (shapes[label] * 2 + 5).astype("float32")  # far from the origin

    x = np.concatenate([cloud(0), cloud(1)])
    y = np.repeat([0, 1], 200)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 3))])
    for width in (16, 32, 64):
        model.add(layers.Conv1D(width, 1, use_bias=False))
        model.add(BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    model.add(layers.GlobalMaxPooling1D())
    model.add(layers.Dense(2, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=25, epochs=12, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.95


def test_a_convolutional_lstm_predicts_the_next_frame():
    frames = draw().normal(size=(64, 6, 8, 8, 1)).astype("float32").cumsum(1)
    x, y = frames[:, :-1], frames[:, 1:]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, 8, 8, 1)),
            layers.ConvLSTM2D(8, 3, padding="same", return_sequences=True),
            BatchNormalization(momentum=0.9),
            layers.TimeDistributed(layers.Conv2D(1, 1)),
            layers.TimeDistributed(BatchNormalization(momentum=0.9)),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, y, batch_size=16, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]
    in_inference = model.evaluate(x, y, verbose=0)
    assert in_inference < 2 * losses[-1]


def test_maml_adapts_to_sine_waves_in_one_step():
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(32),
            BatchNormalization(),
            layers.Activation("tanh"),
            layers.Dense(32),
            BatchNormalization(),
            layers.Activation("tanh"),
            layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(5e-3)

    def loss(weights, x, y):
        state = model.non_trainable_variables
        predictions, _ = model.stateless_call(weights, state, x, training=True)
        return tf.reduce_mean(tf.square(predictions - y))

    @tf.function
    def adapted_loss(weights, x, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            before = loss(weights, x[:10], y[:10])
        gradients = tape.gradient(before, weights, unconnected_gradients="zero")
        adapted = [w - 0.05 * g for w, g in zip(weights, gradients, strict=True)]
        return before, loss(adapted, x[10:], y[10:])

    @tf.function
    def outer_step(x, y):
        with tf.GradientTape() as tape:
            weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
            tape.watch(weights)
            total = tf.add_n([adapted_loss(weights, x[i], y[i])[1] for i in range(8)])
        gradients = tape.gradient(total, weights)
        optimizer.apply(gradients, model.trainable_variables)
        return total / 8

    def tasks(seed, count=8):
        random = draw(seed)
        x = random.uniform(-3, 3, (count, 30, 1))
        phase = random.uniform(0, np.pi, (count, 1, 1))
        return x.astype("float32"), np.sin(x + phase).astype("float32")

    losses = [float(outer_step(*tasks(seed))) for seed in range(400)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-50:]) < 0.4 * np.mean(losses[:20])
    assert ops.all(ops.isfinite(model.layers[1].gamma))
