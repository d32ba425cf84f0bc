"""Dropout whose random bits cost a few integer operations an element.

Every clip has its own seeds, so the elements kept follow from the clip's seeds and the element's
place in the clip: they are the same on any device mesh and in any batch. The bits come from a
multiply-xorshift hash of the place, which XLA fuses into the operations around it; drawing them
with JAX's Threefry took a quarter of a step on CPU (docs/results.md). Good enough for dropout, not
for anything else.
"""

import jax
import jax.numpy as jnp
import numpy as np


@jax.named_scope("dropout")
def seeds_of(keys: jax.Array) -> jax.Array:
    """Random keys [B], one a clip, to seeds uint32 [B, 2]."""
    words = jax.random.key_data(keys)
    return jnp.stack([words[:, 0], words[:, -1]], axis=1)


@jax.named_scope("dropout")
def fold(seeds: jax.Array | None, number) -> jax.Array | None:
    """Seeds of one of several uses, told apart by `number` (int or traced); None stays None."""
    if seeds is None:
        return None
    number = jnp.asarray(number, jnp.uint32)
    return _mix(seeds ^ _mix(number * jnp.array([0x9E3779B9, 0x85EBCA6B], jnp.uint32) + 1))


@jax.named_scope("dropout")
def keep_mask(seeds: jax.Array, shape: tuple[int, ...], keep: float) -> jax.Array:
    """True with probability `keep`, independently for each element: [B, *rest] bool.

    Args:
      seeds: uint32 [B, 2]; only this call may use them.
      shape: [B, *rest]; at most 2**32 elements a clip, beyond which the pattern repeats.
      keep: 0 to 1.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(np.cumprod((1, *shape[:1:-1]))[::-1], start=1):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
    first, second = (seeds[:, i].reshape(-1, *(1,) * (len(shape) - 1)) for i in range(2))
    bits = _mix(_mix(place ^ first) + second)
    return bits < np.uint32(min(keep * 2.0**32, 2**32 - 1))


@jax.named_scope("dropout")
def dropout(x: jax.Array, seeds: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes elements of x [B, ...] with probability `rate`, scales the others by 1 / (1 - rate).

    Without seeds (evaluation), or at rate 0, x passes unchanged.
    """
    if seeds is None or rate == 0:
        return x
    keep = 1.0 - rate
    return jnp.where(keep_mask(seeds, x.shape, keep), x / keep, jnp.zeros((), x.dtype))


def _mix(x):
    """A bijection of uint32 that spreads every bit over all others (constants: C. Wellons)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
