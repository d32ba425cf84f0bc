"""Which tokens the objective hides, and which others serve as distractors.

What is drawn for a clip follows from its own key. All shapes are static: masked tokens are
gathered into M places a clip, with weights, and no loop runs over the batch.
"""

import jax
import jax.numpy as jnp


def max_masked(num_tokens: int, *, probability: float, length: int) -> int:
    """M: the most tokens that `span_mask` can hide in a clip of `num_tokens` tokens."""
    return min(num_tokens, (int(probability * num_tokens / length) + 1) * length)


@jax.named_scope("masking")
def span_mask(keys: jax.Array, valid: jax.Array, *, probability: float, length: int) -> jax.Array:
    """Hides random spans of valid tokens (wav2vec 2.0, section 3.1, in fairseq's convention).

    A clip of n valid tokens gets probability * n / length spans, rounded up or down at random
    and at least one; their starts are drawn without replacement, so spans may overlap but never
    reach into padding. A clip of `length` tokens or fewer is left whole: hiding all of it would
    leave nothing to predict from.

    Args:
      keys: [B], one random key a clip.
      valid: [B, T] bool, valid tokens first.
      probability: in fairseq's sense; the share hidden is about 1 - (1 - p / length) ** length.
      length: tokens a span.

    Returns:
      masked [B, T] bool, at most `max_masked(T)` a clip.
    """
    num_tokens = valid.shape[1]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (num_tokens + 1,)))(keys)
    count = valid.sum(-1)
    spans = probability * count / length + draws[:, -1]
    spans = jnp.maximum(spans.astype(jnp.int32), 1) * (count > length)
    can_start = jnp.arange(num_tokens) <= (count - length)[:, None]
    score = jnp.where(can_start, draws[:, :-1], 2.0)
    rank = jnp.argsort(jnp.argsort(score, axis=-1), axis=-1)  # 0 for the smallest score
    start = (rank < spans[:, None]) & can_start
    padded = jnp.pad(start, ((0, 0), (length - 1, 0)))
    return jnp.stack([padded[:, i : i + num_tokens] for i in range(length)]).any(0)


@jax.named_scope("masking")
def masked_positions(masked: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Positions of the masked tokens, gathered to the front.

    Args:
      masked: [B, T] bool.
      size: M, see `max_masked`.

    Returns:
      positions [B, M] int32, in order; weights [B, M] float32, 1 where a position is masked.
    """
    positions = jnp.argsort(~masked, axis=-1, stable=True)[:, :size].astype(jnp.int32)
    weights = jnp.take_along_axis(masked, positions, axis=-1).astype(jnp.float32)
    return positions, weights


@jax.named_scope("masking")
def sample_negatives(
    keys: jax.Array, num_masked: jax.Array, *, num_positions: int, num_distractors: int
) -> jax.Array:
    """Draws distractors from the clip's other masked tokens, with replacement.

    Args:
      keys: [B], one random key a clip.
      num_masked: [B] masked tokens of each clip.
      num_positions: M.
      num_distractors: K.

    Returns:
      [B, M, K] int32 indices into the M gathered positions: below num_masked and never the
      position itself. Where a clip has fewer than two masked tokens there is no other one; the
      index is then 0 and `losses.contrastive` drops it.
    """
    shape = (num_positions, num_distractors)
    others = jnp.maximum(num_masked - 1, 1)
    index = jax.vmap(lambda key, most: jax.random.randint(key, shape, 0, most))(keys, others)
    index = index + (index >= jnp.arange(num_positions)[:, None])  # skip over the position itself
    return jnp.where(num_masked[:, None, None] > 1, index, 0)
