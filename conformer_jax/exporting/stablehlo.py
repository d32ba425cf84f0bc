"""StableHLO by `jax.export`: any batch, any length, for CPU, CUDA and TPU in one file.

docs/export.md has the script that loads it with jax alone.
"""

import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from conformer_jax.exporting.portable import Portable

PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: Portable, path) -> None:
    """Writes the serialized function to `path`."""
    batch, length = jax.export.symbolic_shape("batch, samples")
    exported = jax.export.export(jax.jit(lambda *args: model(*args)), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, length), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    pathlib.Path(path).write_bytes(exported.serialize())


def read(path):
    """(audio, num_samples) -> dict of arrays, as portable.py says."""
    exported = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))

    def run(audio, num_samples):
        found = exported.call(np.asarray(audio, np.float32), np.asarray(num_samples, np.int32))
        return {name: np.asarray(value) for name, value in found.items()}

    return run
