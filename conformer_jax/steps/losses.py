"""Losses, per item and unreduced; the steps weigh and average them. All in float32."""

import jax
import jax.numpy as jnp
import optax


@jax.named_scope("loss")
def contrastive_logits(predicted, targets, negatives, *, temperature: float):
    """Cosine similarities of each prediction with its target and with its distractors.

    wav2vec 2.0, equation 3. One similarity matrix a clip is computed and the distractors are
    picked from it, so nothing of size [K, B, M, D] exists.

    Args:
      predicted: [B, M, D].
      targets: [B, M, D].
      negatives: [B, M, K] int, positions of the distractors among the M.
      temperature: divides the similarities.

    Returns:
      [B, M, 1 + K] float32, the target first; a distractor equal to its target is -inf.
    """
    predicted, targets = _unit(predicted), _unit(targets)
    similarity = jnp.einsum("bmd,bnd->bmn", predicted, targets, precision="highest") / temperature
    equal = (targets[:, :, None] == targets[:, None]).all(-1)
    positive = jnp.diagonal(similarity, axis1=1, axis2=2)[..., None]
    others = jnp.where(equal, -jnp.inf, similarity)
    return jnp.concatenate([positive, jnp.take_along_axis(others, negatives, axis=2)], axis=-1)


@jax.named_scope("loss")
def contrastive(logits):
    """Cross-entropy of the target against its distractors (wav2vec 2.0, equation 3).

    Args:
      logits: [B, M, 1 + K] from `contrastive_logits`.

    Returns:
      loss [B, M]; correct [B, M] bool, the target beats every distractor; usable [B, M] bool,
      False where every distractor was excluded, so that there is nothing to tell apart.
    """
    best = logits[..., 1:].max(-1)
    usable = jnp.isfinite(best)
    loss = jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]
    return loss, logits[..., 0] > best, usable


@jax.named_scope("loss")
def diversity(soft_perplexity, num_entries: int):
    """How much of the codebook is idle, 0 (all used evenly) to 1 (fairseq's form of equation 4).

    Args:
      soft_perplexity: [G], of the softmax averaged over the batch's masked tokens.
      num_entries: V.
    """
    return 1.0 - soft_perplexity.sum() / (soft_perplexity.shape[0] * num_entries)


@jax.named_scope("loss")
def cross_entropy(logits, labels, *, smoothing: float = 0.0):
    """One label a clip: logits [B, C], labels [B, C] (one-hot, mixed or not) -> [B]."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, smoothing))


@jax.named_scope("loss")
def binary_cross_entropy(logits, labels, *, smoothing: float = 0.0):
    """Several labels a clip: logits [B, C], labels [B, C] in [0, 1] -> [B], mean over classes.

    Smoothing moves every label towards 1/2: each class is a choice of two (Szegedy et al. 2016).
    """
    labels = labels * (1.0 - smoothing) + 0.5 * smoothing
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean(-1)


def _unit(x):
    """Vectors of length 1, in float32; torch's cosine_similarity clamps the norm at 1e-8."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))
