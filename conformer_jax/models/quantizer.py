"""Gumbel-softmax product quantizer (wav2vec 2.0, section 2, 'Quantization module')."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def entropy_perplexity(probabilities: jax.Array) -> jax.Array:
    """exp of the entropy over the last axis: [..., V] -> [...], from 1 (collapsed) to V (even)."""
    return jnp.exp(-(probabilities * jnp.log(probabilities + 1e-7)).sum(-1))


class GumbelQuantizer(nn.Module):
    """Picks one of V entries in each of G groups and concatenates them to a code.

    While training the pick is a straight-through Gumbel-softmax sample: forward the hard
    one-hot, backward the softmax, so the gradient reaches logits and codebook. In evaluation it
    is the argmax.

    logits 'linear' is wav2vec 2.0: a layer of its own says how well each entry fits. 'distance' is
    a vector quantizer (van den Oord et al. 2017, VQ-VAE; a product quantizer, Jegou et al. 2011): a
    group takes its share of the token's features, and an entry fits as well as it is near, minus
    `sharpness` times the mean squared difference. Tokens that sound alike then get entries that
    are alike, whether or not a draw hits the nearest.
    """

    num_groups: int
    num_entries: int
    code_dim: int  # with 'distance' a code is as wide as a token
    logits: str = "linear"
    sharpness: float = 30.0

    @nn.compact
    def __call__(self, x, weights, keys, *, temperature, train: bool):
        """Quantizes every token.

        Args:
          x: [B, M, features] float32.
          weights: [B, M], which tokens count for the perplexity.
          keys: [B], one random key a clip; unused unless `train`.
          temperature: of the Gumbel softmax; unused unless `train`.
          train: draw, or take the argmax.

        Returns:
          codes [B, M, code_dim]; a dict of `indices` [B, M, G] int32, `perplexity` [G] of the
          entries picked, and `soft_perplexity` [G] of the softmax averaged over tokens, which the
          diversity loss uses.
        """
        groups, entries = self.num_groups, self.num_entries
        code_dim = x.shape[-1] if self.logits == "distance" else self.code_dim
        # Centred, unlike fairseq's [0, 1): there all codes share a direction at first, and the task
        # is slow to start.
        codebook = self.param(
            "codebook", nn.initializers.normal(1.0), (groups, entries, code_dim // groups)
        )
        x = x.astype(jnp.float32)
        if self.logits == "distance":
            logits = -self.sharpness * mean_squared_difference(x, codebook)
        else:
            dense = nn.Dense(
                groups * entries, kernel_init=nn.initializers.normal(1.0), name="logits"
            )
            logits = dense(x).reshape(*x.shape[:-1], groups, entries)
        if train:
            noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
            soft = jax.nn.softmax((logits + noise) / temperature)
            indices = soft.argmax(-1)
            hard = jax.nn.one_hot(indices, entries)
            picked = hard + (soft - jax.lax.stop_gradient(soft))  # exactly the one-hot
        else:
            indices = logits.argmax(-1)
            picked = hard = jax.nn.one_hot(indices, entries)
        codes = jnp.einsum("bmgv,gvd->bmgd", picked, codebook)
        share = (weights / jnp.maximum(weights.sum(), 1.0))[..., None, None]
        statistics = {
            "indices": indices.astype(jnp.int32),
            "perplexity": entropy_perplexity((hard * share).sum((0, 1))),
            "soft_perplexity": entropy_perplexity((jax.nn.softmax(logits) * share).sum((0, 1))),
        }
        return codes.reshape(*x.shape[:-1], code_dim), statistics


def mean_squared_difference(x, codebook):
    """Mean squared difference of x [B, M, G d] from the entries [G, V, d] of each group:
    [B, M, G, V]."""
    groups, _, size = codebook.shape
    x = x.reshape(*x.shape[:-1], groups, size)
    product = jnp.einsum("bmgd,gvd->bmgv", x, codebook)
    squares = jnp.square(x).sum(-1, keepdims=True) + jnp.square(codebook).sum(-1)
    return (squares - 2 * product) / size


def gumbel_temperature(step, *, start: float, end: float, anneal_steps: float):
    """Falls geometrically from `start` at step 0 to `end` at `anneal_steps`, then stays."""
    progress = jnp.clip(step / max(anneal_steps, 1.0), 0.0, 1.0)
    return start * (end / start) ** progress
