"""What a run shows while it trains, and when it reads the loss of a step."""

import io
import re
import sys
import types

import keras
import numpy as np
import pytest
from rich.console import Console

from bn_keras.training.callbacks import DivergenceStop
from bn_keras.training.progress import ProgressBar
from bn_keras.training.step_logs import StepCallbacks, StepLogs

pytestmark = pytest.mark.fast
LOGS = {"loss": 1.25, "accuracy": 0.5}


def run_epoch(bar, steps, validated=True):
    bar.on_epoch_begin(0)
    for step in range(steps):
        bar.on_train_batch_end(step, LOGS)
    bar.on_test_begin()
    bar.on_epoch_end(0, LOGS | {"val_loss": 2.5, "val_accuracy": 0.25})


def console(**options):
    return Console(file=io.StringIO(), **options)


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances by a second with each look at it."""
    times = iter(range(10**6))
    monkeypatch.setattr(
        "bn_keras.training.progress.time.monotonic", lambda: next(times)
    )


def test_an_epoch_ends_with_throughput_time_left_loss_and_top_1(clock):
    bar = ProgressBar(0, 80, 40, 100, console(width=200), 1e9)
    run_epoch(bar, 40)
    # The clock is looked at once more after the last step.
    assert bar.console.file.getvalue() == (
        "epoch 1/2: 98 images/s, 0:00:41 left, loss 1.25, top-1 50.0%, "
        "test loss 2.5, test top-1 25.0%\n"
    )


def test_a_log_has_a_line_every_so_many_seconds(clock):
    bar = ProgressBar(0, 80, 40, 100, console(width=60), 10.0, "validation")
    run_epoch(bar, 40)
    *lines, last = bar.console.file.getvalue().splitlines()
    assert len(lines) == 4
    pattern = (
        r"epoch 1/2, step \d+/40: [\d,]+ images/s, \S+ left, loss 1.25, top-1 50.0%"
    )
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert last.endswith("validation top-1 25.0%")


@pytest.mark.parametrize(("width", "lines"), [(80, 2), (99, 2), (100, 1), (160, 1)])
def test_a_narrow_terminal_has_the_numbers_in_a_second_line(clock, width, lines):
    bar = ProgressBar(
        0, 99_999 * 2, 99_999, 32, console(width=width, force_terminal=True)
    )
    bar.on_epoch_begin(0)
    for step in range(2):
        bar.on_train_batch_end(step, LOGS)
    bar.step = 90_000
    bar.stop()
    printed = Console(file=io.StringIO(), width=width)
    printed.print(bar._render())
    rows = printed.file.getvalue().splitlines()
    assert len(rows) == lines
    assert "step 90,000/99,999" in rows[0]
    assert rows[0].count("━") >= 9
    assert "loss 1.25" in rows[-1]
    assert all(len(row) <= width for row in rows)


def test_a_notebook_has_a_line_that_is_replaced(clock, monkeypatch):
    shown = []

    class Handle:
        def update(self, text):
            shown.append(text)

    fake = types.ModuleType("IPython.display")
    fake.Pretty = str
    fake.display = lambda text, display_id: (shown.append(text), Handle())[1]
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    bar = ProgressBar(0, 4, 4, 10, console(width=80, force_jupyter=True))
    run_epoch(bar, 4)
    assert len(shown) == 6
    assert shown[1].startswith("epoch 1/1, step 1/4: ")
    assert shown[-1].endswith("test top-1 25.0%")
    assert bar.console.file.getvalue() == ""


class Loss:
    """A number on a device, which counts how often it is read."""

    reads = 0

    def __float__(self):
        Loss.reads += 1
        return 1.0


def test_the_loss_of_a_step_is_read_from_time_to_time_only(monkeypatch):
    monkeypatch.setattr(keras.ops, "is_tensor", lambda value: isinstance(value, Loss))
    monkeypatch.setattr(keras.ops, "convert_to_numpy", lambda value: value)
    times = iter(np.arange(0, 100, 0.001))
    for module in ("progress", "callbacks"):
        name = f"bn_keras.training.{module}.time.monotonic"
        monkeypatch.setattr(name, lambda: next(times))
    stop = DivergenceStop()
    bar = ProgressBar(0, 2000, 2000, 1, console(width=120, force_terminal=True))
    bar.on_epoch_begin(0)
    callbacks = StepCallbacks([stop, bar], add_history=True)
    steps_that_wait = 0
    for step in range(2000):
        before = Loss.reads
        callbacks.on_train_batch_end(step, {"loss": Loss()})
        steps_that_wait += Loss.reads > before
    bar.stop()
    # 2,000 steps with about three looks at the clock each, of a millisecond, are six
    # seconds: twice a second all losses so far are read, four times the last one.
    assert 1 < steps_that_wait < 2000 / 50
    assert Loss.reads > 1500  # but each of them is looked at in the end


def test_the_first_step_that_diverged_is_named_although_it_is_read_later(monkeypatch):
    monkeypatch.setattr("bn_keras.training.callbacks.time.monotonic", lambda: 0.0)
    stop = DivergenceStop(start=10)
    stop._read = 0.0
    for step, loss in enumerate((1.0, 2.0, float("nan"), float("nan"))):
        stop.on_train_batch_end(step, StepLogs({"loss": loss}))
    with pytest.raises(Exception, match="became nan at step 13"):
        stop.on_epoch_end(0, {})


def test_step_logs_are_a_dict_that_callbacks_may_change():
    logs = StepLogs({"loss": 1.0, "accuracy": 0.5})
    logs["loss"] = 2.0
    assert dict(logs) == {"loss": 2.0, "accuracy": 0.5}
    assert logs.get("x", 0.0) == 0.0
    del logs["loss"]
    assert list(logs) == ["accuracy"]
    assert not StepLogs(None)
