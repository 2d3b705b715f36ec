"""Memory that loading a model has freed goes back to the operating system."""

import ctypes
from pathlib import Path

import pytest

from bn_keras_serving.servable import memory

BLOCKS, SIZE = 20_000, 4_000  # 80 MB, in blocks that malloc keeps when they are freed


def resident_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def test_freed_memory_is_returned():
    if memory._malloc_trim() is None:
        pytest.skip("only glibc can return memory")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pointers = [libc.malloc(SIZE) for _ in range(BLOCKS)]
    for pointer in pointers:
        ctypes.memset(pointer, 1, SIZE)
    # The last block stays: without a call, what is below it is kept.
    for pointer in pointers[:-1]:
        libc.free(pointer)
    before = resident_megabytes()
    memory.release_memory()
    assert before - resident_megabytes() > 60
    libc.free(pointers[-1])


def test_another_c_library_is_left_alone(monkeypatch):
    def load(name):
        raise OSError("no such library")

    memory._malloc_trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    memory.release_memory()
    memory._malloc_trim.cache_clear()
