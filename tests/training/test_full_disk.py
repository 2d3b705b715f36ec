"""A training run on a file system that becomes full, a real one."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
from command_line_calls import COMMAND, user_environment

ARGUMENTS = ["train", "bn-mlp", "--data", "digits", "--epochs", "3", "--workdir", "run"]
# In a mount namespace of its own: mount a file system of $1 kB, train, note the status
# and what checkpoints are left, make space, and do the same again.
SCRIPT = """
set -e
mount -t tmpfs -o size="$1"k tmpfs disk
cd disk
shift
set +e
"$@" 2> ../error; echo $? > ../status
find . -mindepth 1 | sort > ../left
mount -o remount,size=20m .
"$@" 2> ../error-of-second; echo $? > ../status-of-second
cp -r run ..
"""


def mounts():
    """Return whether this user may mount a file system in a namespace."""
    command = ["unshare", "--map-root-user", "--mount", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run([COMMAND, *ARGUMENTS], cwd=folder, check=True, capture_output=True)
    return keras.models.load_model(folder / "run" / "bn-mlp.keras").get_weights()


# A checkpoint takes 126 kB, two checkpoints and the model three times as
# much: the disk becomes full in the first, second or third epoch, or at the end.
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(size, marks=[] if size == 288 else [pytest.mark.slow])
        for size in range(96, 416, 16)
    ],
)
@pytest.mark.skipif(not mounts(), reason="this user may not mount file systems")
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
    tmp_path, size, uninterrupted
):
    (tmp_path / "disk").mkdir()
    subprocess.run(
        [
            *("unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"),
            *(str(size), COMMAND, *ARGUMENTS),
        ],
        cwd=tmp_path,
        check=True,
        env=user_environment(),
        capture_output=True,
    )
    error = (tmp_path / "error").read_text()
    assert (tmp_path / "status").read_text() == "2\n", error
    assert "No space left on the device of" in error.splitlines()[-1]
    assert "Traceback" not in error
    left = (tmp_path / "left").read_text().split()
    assert not [name for name in left if ".tmp-" in name]
    assert "./run/bn-mlp.keras" not in left
    # The first checkpoint fits except on the smallest disks; no later one replaces it.
    steps = [name for name in left if name.count("/") == 3 and "/step-" in name]
    assert len(steps) == min(2, (size - 4) // 126)
    second = (tmp_path / "error-of-second").read_text()
    assert (tmp_path / "status-of-second").read_text() == "0\n", second
    assert "damaged" not in second
    resumed = keras.models.load_model(tmp_path / "run" / "bn-mlp.keras").get_weights()
    for weight, expected in zip(resumed, uninterrupted, strict=True):
        np.testing.assert_array_equal(weight, expected)
