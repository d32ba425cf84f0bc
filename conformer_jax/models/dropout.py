"""Dropout whose random bits cost a few integer operations an element.

The kept elements follow from the key and the element's place alone, so they are the same on any
device mesh. The bits come from a multiply-xorshift hash of the place, which XLA fuses into the
operations around it; drawing them with JAX's Threefry took a quarter of a step on CPU
(docs/results.md). Good enough for dropout, not for anything else.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def keep_mask(key: jax.Array, shape: tuple[int, ...], keep: float) -> jax.Array:
    """True with probability `keep`, independently for each element: [*shape] bool.

    Args:
      key: random key; only this call may use it.
      shape: at most 2**32 elements, beyond which the pattern repeats.
      keep: 0 to 1.
    """
    words = jax.random.key_data(key).reshape(-1)
    place = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(np.cumprod((1, *shape[:0:-1]))[::-1]):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
    bits = _mix(_mix(place ^ words[0]) + words[-1])
    return bits < np.uint32(min(keep * 2.0**32, 2**32 - 1))


def _mix(x):
    """A bijection of uint32 that spreads every bit over all others (constants: C. Wellons)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and scales the others by 1 / (1 - rate).

    Needs the random stream 'dropout' where `train` and rate > 0; otherwise x passes unchanged.
    """

    rate: float

    @nn.compact
    def __call__(self, x, *, train: bool):
        if not train or self.rate == 0:
            return x
        keep = 1.0 - self.rate
        kept = keep_mask(self.make_rng("dropout"), x.shape, keep)
        return jnp.where(kept, x / keep, jnp.zeros((), x.dtype))
