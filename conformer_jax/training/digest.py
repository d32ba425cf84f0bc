"""Digests of arrays: 64 bits each, of the logical array, whatever mesh or processes hold it.

Two sums modulo 2^32 over the array's 32-bit words, each word times an odd weight that follows from
its place. A single flipped bit k changes a sum by 2^k times an odd number, which is never 0 modulo
2^32: no single flip goes unnoticed. The second sum has other weights, for damage of more bits. Sums
of integers are exact in any order, so they are the same on one device and on a thousand.
"""

import hashlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK = 1 << 16  # words: what a core's cache holds
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}


def of_tree(tree) -> dict[str, tuple[str, bool]]:
    """Digest of every leaf, and whether it is finite, by name ('encoder/block_0/...').

    On several processes all must call it; each is told about the copy that it holds itself.

    Args:
      tree: of jax or numpy arrays.
    """
    found = {
        name: (_on_host if _here(leaf) else _on_device)(leaf) for name, leaf in flat(tree).items()
    }
    found = jax.device_get(found)
    return {
        name: (f"{int(first):08x}{int(second):08x}", bool(finite))
        for name, (first, second, finite) in found.items()
    }


def seal(meta: dict, arrays: dict) -> dict:
    """`meta` with the digests of `arrays` (a tree) and one of itself."""
    sealed = {**meta, "digests": {name: found for name, (found, _) in of_tree(arrays).items()}}
    return {**sealed, "sha256": _sha256(sealed)}


def unseal(sealed) -> tuple[dict, dict | None]:
    """What `seal` was given, and the digests; None of a checkpoint from before there were any.

    Raises:
      ValueError: it is damaged.
    """
    if not isinstance(sealed, dict):
        raise ValueError("it holds no JSON object")
    meta = dict(sealed)
    sha256 = meta.pop("sha256", None)
    if sha256 is None and "digests" not in meta:
        return meta, None
    if sha256 != _sha256(meta):
        raise ValueError("it is not what was written (its sha256 differs)")
    return meta, meta.pop("digests")


def problem(tree, digests: dict | None) -> str | None:
    """What is wrong with restored arrays, None where nothing is.

    Numbers that are not finite are no parameters, also where they are what was written; of an
    optimizer they may be.
    """
    found = of_tree(tree)
    for name, (value, finite) in found.items():
        if digests is not None and digests.get(name) != value:
            return f"{name} is not what was written (its digest differs)"
        if not finite and "opt_state" not in name:
            return f"{name} holds numbers that are not finite"
    return None


def _sha256(meta):
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def flat(tree) -> dict:
    """Leaves by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _here(leaf):
    """Whether the CPU has the whole array: then nothing needs to be compiled or moved."""
    if not isinstance(leaf, jax.Array):
        return True
    whole = leaf.is_fully_addressable or leaf.is_fully_replicated
    return whole and all(device.platform == "cpu" for device in leaf.sharding.device_set)


def _weights(place):
    """Two odd weights of each place (uint32), by numpy or by jax."""
    mixed = place * np.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    return place * np.uint32(2) + np.uint32(1), (mixed ^ (mixed >> np.uint32(13))) | np.uint32(1)


def _on_host(leaf):
    array = np.asarray(leaf)
    words = np.ascontiguousarray(array).reshape(-1).view(_WORDS[array.dtype.itemsize])
    sums = [0, 0]
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK].astype(np.uint32)
        place = np.arange(start, start + len(part), dtype=np.int64).astype(np.uint32)
        for i, weights in enumerate(_weights(place)):
            sums[i] += int((part * weights).sum(dtype=np.uint64))
    with np.errstate(invalid="ignore"):  # of a bfloat16 that is NaN
        finite = not jnp.issubdtype(array.dtype, jnp.inexact) or np.isfinite(array).all()
    return sums[0] % 2**32, sums[1] % 2**32, finite


@jax.jit
def _on_device(array):
    finite = jnp.isfinite(array).all() if jnp.issubdtype(array.dtype, jnp.inexact) else True
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    word = _WORDS[array.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    # Not reshape, which would gather what is sharded.
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    first, second = ((words * weights).sum(dtype=jnp.uint32) for weights in _weights(place))
    return first, second, finite
