"""What a step on the CPU frees stays with the process, and the process does not grow by it."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
from conformer_jax.training import host_memory
host_memory.keep_freed_memory()
import jax, jax.numpy as jnp
x = jnp.ones((4096, 64))
def outer(x):
    y = jnp.tanh(x @ x.T)
    return (y[:, ::-1] + y.T).sum()
step = jax.jit(outer).lower(x).compile()
assert step.memory_analysis().temp_size_in_bytes >= 1 << 26
small = []
def usage():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt, used.ru_maxrss
after = []
for i in range(40):
    small += [bytes(2000) for _ in range(50)]
    step(x).block_until_ready()
    after.append(usage())
moved = sum(b[0] - a[0] > 2000 for a, b in zip(after[2:], after[3:]))
space = step.memory_analysis().temp_size_in_bytes / 2**20
print(moved, (after[-1][1] - after[2][1]) / 1024, space)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_steps_neither_fetch_memory_anew_nor_grow():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True
    ).stdout
    moved, growth, space = map(float, output.split())
    # Working space of 64 MiB and more is 16384 pages and more. Of 37 steps none finds it elsewhere
    # than the one before, or one where another thread has taken a little of it meanwhile.
    assert moved < 5
    assert growth < 32 + moved * space


BOUND = """
import ctypes
from conformer_jax.training import host_memory
host_memory.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
before = resident()
for size in (host_memory.MOST_KEPT // 4, host_memory.MOST_KEPT + 2**20):
    space = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(space, 1, size)
    libc.free(ctypes.c_void_p(space))
    print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_what_is_kept_has_a_bound():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", BOUND], env=environment, capture_output=True, text=True, check=True
    ).stdout
    within, beyond = map(float, output.split())  # MiB
    assert within > 400
    assert beyond < 100
