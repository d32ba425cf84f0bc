"""What a step on the CPU frees stays with the process, and the process does not grow by it."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
from conformer_jax import host_memory
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
for i in range(8):
    small += [bytes(2000) for _ in range(50)]
    step(x).block_until_ready()
    after.append(usage())
# The median step: the kernel may take pages from any one.
faults = sorted(b[0] - a[0] for a, b in zip(after[2:], after[3:]))
print(faults[2], (after[-1][1] - after[2][1]) / 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_steps_neither_fetch_memory_anew_nor_grow():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    output = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True
    ).stdout
    faults, growth = map(float, output.split())
    # Working space of 64 MiB and more is 16384 pages and more.
    assert faults < 2000
    assert growth < 32
