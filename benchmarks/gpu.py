"""Measurements on one accelerator, in two calls: `python -m benchmarks.gpu PART FILE`.

`layer`: the layer on JAX against the bandwidth of a copy and Keras' layer, and training
steps of BN-Inception against PyTorch (channels last, autocast, compiled), if PyTorch is
there. `figure3`: the variants of figure 3 at full width on CIFAR-10, data and
augmentation on the device. Each stops after `--seconds`, and the JSON file is written
again after every measurement. Needs this checkout, Keras and JAX, no TensorFlow.
`--smoke` is a size for a CPU. TensorFlow's path on GPUs is not measured here.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.8")

import keras
import numpy as np

from benchmarks.timing import provenance

SHAPES = [(64, 112, 112, 64), (64, 56, 56, 256), (64, 28, 28, 512), (64, 14, 14, 1024)]
SMOKE_SHAPES = [(4, 8, 8, 16)]
DTYPES = ("float32", "bfloat16")
# Multiple of Inception's rate, halvings of it, L2, normalization, activation.
VARIANTS = {
    "inception": (1, 1, 2e-4, False, "relu"),
    "inception-x5": (5, 1, 2e-4, False, "relu"),
    "bn-baseline": (1, 1, 2e-4, True, "relu"),
    "bn-x5": (5, 6, 4e-5, True, "relu"),
    "bn-x30": (30, 6, 4e-5, True, "relu"),
    "bn-x5-sigmoid": (5, 6, 4e-5, True, "sigmoid"),
}
BATCH, MOMENTUM = 32, 0.9


class Result:
    """A JSON file that is whole after every measurement."""

    def __init__(self, path: Path, seconds: float) -> None:
        import jax

        self.path, self.deadline = path, time.monotonic() + seconds
        self.content: dict[str, Any] = {
            **provenance("benchmarks.gpu"),
            "device": str(jax.devices()[0].device_kind),
            "rows": [],
            "left_out": [],
        }

    def has_time(self, name: str) -> bool:
        """Return whether there is time for another measurement; else note its name."""
        if time.monotonic() < self.deadline:
            return True
        self.content["left_out"].append(name)
        self.save()
        return False

    def add(self, **row: Any) -> None:
        """Add a row, print it and save everything."""
        self.content["rows"].append(row)
        print(row, flush=True)
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def seconds_per_call(run: Any, repetitions: int) -> float:
    """Return the seconds of one call, the least of three series."""
    import jax

    last = jax.block_until_ready(run())
    series = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repetitions):
            last = run()
        jax.block_until_ready(last)
        series.append((time.perf_counter() - start) / repetitions)
    return min(series)


def layer_step(layer: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Return a compiled forward and backward pass of a layer."""
    import jax

    layer.build(shape)
    trainable = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]
    keys = jax.random.split(jax.random.key(0))
    x, dy = (jax.random.normal(key, shape).astype(dtype) for key in keys)

    @jax.jit
    def step(x, dy):
        def forward(x, trainable):
            return layer.stateless_call(trainable, state, x, training=True)

        y, backward, statistics = jax.vjp(forward, x, trainable, has_aux=True)
        return y, statistics, backward(dy)

    return lambda: step(x, dy)


def measure_layers(result: Result, smoke: bool) -> None:
    """Compare the layer with Keras' and with copies of the same tensors."""
    import jax

    from bn_keras import BatchNormalization

    layers = {"ours": BatchNormalization, "keras": keras.layers.BatchNormalization}
    for shape in SMOKE_SHAPES if smoke else SHAPES:
        for dtype in DTYPES:
            if not result.has_time(f"layer {shape} {dtype}"):
                return
            x = jax.random.normal(jax.random.key(0), shape).astype(dtype)
            copy = jax.jit(lambda x: x + 1)
            repetitions = 2 if smoke else 30
            copying = seconds_per_call(lambda copy=copy, x=x: copy(x), repetitions)
            policy = "float32" if dtype == "float32" else "mixed_bfloat16"
            for name, kind in layers.items():
                step = layer_step(kind(dtype=policy), shape, dtype)
                seconds = seconds_per_call(step, repetitions)
                result.add(
                    what="layer",
                    case=str(shape),
                    dtype=dtype,
                    contender=name,
                    ms=seconds * 1e3,
                    copies=seconds / copying,  # a copy reads and writes the tensor once
                    copy_gb_per_s=2 * x.nbytes / copying / 1e9,
                )


def inception(size: int, classes: int, width: float, **arguments: Any) -> Any:
    """Return an Inception network for images of a size."""
    from bn_keras.models import Inception

    stem = "small" if size < 128 else "separable"
    return Inception(
        input_shape=(size, size, 3),
        classes=classes,
        stem=stem,
        width=width,
        **arguments,
    )


def measure_training(result: Result, smoke: bool) -> None:
    """Time training steps of BN-Inception on JAX and of the same network in PyTorch."""
    import jax
    import jax.numpy as jnp

    from bn_keras import BatchNormalization

    size, batch, width = (32, 2, 0.25) if smoke else (224, 128, 1.0)
    for normalization in (BatchNormalization, keras.layers.BatchNormalization):
        name = normalization.__module__.partition(".")[0]
        if not result.has_time(f"BN-Inception, {name}"):
            return
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = inception(size, 1000, width, normalization=normalization)
        keras.config.set_dtype_policy("float32")
        state = [
            [variable.value for variable in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        x = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
        y = jnp.arange(batch) % 1000

        @jax.jit
        def step(trainable, other, model=model, x=x, y=y):
            def loss(trainable):
                p, new = model.stateless_call(trainable, other, x, training=True)
                picked = jnp.take_along_axis(p.astype("float32"), y[:, None], 1)
                return -jnp.mean(jnp.log(picked + 1e-7)), new

            gradients, new = jax.grad(loss, has_aux=True)(trainable)
            pairs = zip(trainable, gradients, strict=True)
            return [w - 1e-3 * g for w, g in pairs], new

        run = lambda step=step, state=state: step(*state)  # noqa: E731
        seconds = seconds_per_call(run, 1 if smoke else 10)
        result.add(
            what="training", contender=name, images_per_s=batch / seconds, batch=batch
        )
    measure_pytorch(result, size, batch, smoke)


def measure_pytorch(result: Result, size: int, batch: int, smoke: bool) -> None:
    """Time GoogLeNet with batch normalization in PyTorch, the nearest ready network."""
    if not result.has_time("PyTorch"):
        return
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import torchvision  # pyright: ignore[reportMissingImports]
    except ImportError:
        result.content["left_out"].append("PyTorch: not installed")
        result.save()
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torchvision.models.googlenet(
        aux_logits=False, init_weights=False, num_classes=1000
    )
    network = network.to(device, memory_format=torch.channels_last)
    forward = network if smoke else torch.compile(network)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.to(memory_format=torch.channels_last)
    y = torch.arange(batch, device=device) % 1000

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())  # waits for the device

    repetitions = 1 if smoke else 10
    for _ in range(repetitions):
        step()
    start = time.perf_counter()
    for _ in range(repetitions):
        step()
    seconds = (time.perf_counter() - start) / repetitions
    result.add(
        what="training",
        contender="PyTorch GoogLeNet with BN",
        images_per_s=batch / seconds,
        batch=batch,
    )


def load_pictures(path: Path | None) -> Any:
    """Return training and test images and labels from an `.npz`, or random ones.

    Args:
        path: A file with `x_train`, `y_train`, `x_test` and `y_test`: uint8 images
            `(examples, 32, 32, 3)`. None stands for a few random ones.
    """
    if path is not None:
        arrays = np.load(path)
        return [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (96, 32, 32, 3)).astype("uint8")
    y = draw.integers(0, 10, 96).astype("int32")
    return [x, y, x[:64], y[:64]]


def measure_figure_3(result: Result, options: argparse.Namespace) -> None:
    """Train each variant and note its accuracy while it is trained."""
    import jax

    pictures = [jax.device_put(array) for array in load_pictures(options.data)]
    for seed in range(options.seeds):
        for variant in VARIANTS:
            if not result.has_time(f"{variant}, seed {seed}"):
                continue
            result.add(
                what="figure 3",
                variant=variant,
                seed=seed,
                pictures=str(options.data.name) if options.data else "random",
                **train(variant, seed, pictures, result.deadline, options),
            )


def train(
    variant: str,
    seed: int,
    pictures: Any,
    deadline: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train a variant; return steps, accuracies, losses and where it diverged."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    from bn_keras import BatchNormalization

    x_train, y_train, x_test, y_test = pictures
    multiple, halvings, l2, is_normalized, activation = VARIANTS[variant]
    keras.utils.set_random_seed(seed)
    normalization = partial(BatchNormalization, momentum=0.9) if is_normalized else None
    model = inception(
        options.size,
        10,
        options.width,
        activation=activation,
        normalization=normalization,
        dropout=0.4 if multiple == 1 else 0.0,
        local_response_normalization=multiple == 1,
    )
    kernels = [i for i, v in enumerate(model.trainable_variables) if v.name == "kernel"]
    trainable = [v.value for v in model.trainable_variables]
    other = [v.value for v in model.non_trainable_variables]

    def scale(x):
        x = x.astype("float32") / 127.5 - 1
        shape = (len(x), options.size, options.size, 3)
        return x if options.size == 32 else jax.image.resize(x, shape, "bilinear")

    def augment(key, x):
        keys = jax.random.split(key)
        padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        corners = jax.random.randint(keys[0], (len(x), 2), 0, 9)
        x = jax.vmap(
            lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), (32, 32, 3))
        )(padded, corners)
        mirrored = jax.random.bernoulli(keys[1], 0.5, (len(x), 1, 1, 1))
        return jnp.where(mirrored, x[:, :, ::-1], x)

    def loss(trainable, other, x, y):
        p, other = model.stateless_call(trainable, other, x, training=True)
        picked = jnp.take_along_axis(p, y[:, None], 1)
        entropy = -jnp.mean(jnp.log(jnp.clip(picked, 1e-7, 1)))
        penalty = l2 * sum(jnp.sum(trainable[i] ** 2) for i in kernels)
        return entropy + penalty, (other, entropy)

    def step(carry, number):
        trainable, other, velocity, key = carry
        key, *keys = jax.random.split(key, 3)
        rows = jax.random.randint(keys[0], (BATCH,), 0, len(x_train))
        x = scale(augment(keys[1], x_train[rows]))
        gradients, (other, entropy) = jax.grad(loss, has_aux=True)(
            trainable, other, x, y_train[rows]
        )
        rate = options.rate * multiple * 0.5 ** (halvings * number / options.steps)
        velocity = [
            MOMENTUM * v - rate * g for v, g in zip(velocity, gradients, strict=True)
        ]
        trainable = [w + v for w, v in zip(trainable, velocity, strict=True)]
        return (trainable, other, velocity, key), entropy

    @jax.jit
    def train_chunk(carry, start):
        return jax.lax.scan(step, carry, start + jnp.arange(options.chunk))

    @jax.jit
    def count_right(trainable, other):
        def right(total, rows):
            x, y = rows
            p, _ = model.stateless_call(trainable, other, scale(x), training=False)
            return total + jnp.sum(p.argmax(-1) == y), None

        size = min(500, len(x_test))
        count = len(x_test) // size * size
        batches = (
            x_test[:count].reshape(-1, size, *x_test.shape[1:]),
            y_test[:count].reshape(-1, size),
        )
        return jax.lax.scan(right, 0, batches)[0] / count

    carry = (trainable, other, [0 * w for w in trainable], jax.random.key(seed))
    row: dict[str, Any] = {"steps": [], "accuracy": [], "loss": [], "diverged": None}
    began = time.monotonic()
    for start in range(0, options.steps, options.chunk):
        if time.monotonic() > deadline:
            row["stopped_at"] = start
            break
        carry, entropies = train_chunk(carry, start)
        mean = float(jnp.mean(entropies))
        row["loss"].append(mean if np.isfinite(mean) else None)
        row["steps"].append(start + options.chunk)
        row["accuracy"].append(float(count_right(carry[0], carry[1])))
        if not np.isfinite(mean):
            row["diverged"] = start + options.chunk
            break
    row["seconds"] = time.monotonic() - began
    return row


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["layer", "figure3"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--smoke", action="store_true", help="sizes for a CPU")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as an .npz file")
    parser.add_argument("--rate", type=float, default=0.0015, help="of Inception")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--chunk", type=int, default=400, help="steps of one call")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.smoke:
        options.steps, options.chunk, options.size, options.width = 4, 2, 32, 0.125
    result = Result(options.out, options.seconds)
    if options.part == "layer":
        measure_layers(result, options.smoke)
        measure_training(result, options.smoke)
    else:
        measure_figure_3(result, options)
    result.save()


if __name__ == "__main__":
    main()
