"""Clip contrast: two views of a clip find each other among those of a batch.

h = statistics pool of the last block's output over a view's tokens    [mean ; deviation], 2 D
z = P(LayerNorm(h))      P: three products, batch norm after each, ReLU between them
u = z / |z|
NT-Xent (Chen et al. 2020, SimCLR, arXiv 2002.05709), over the 2 N views of N clips:
  loss = mean_i [ log sum_j exp(u_i u_j / tau) - u_i u_pair(i) / tau ]
Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230), which small batches do for, with C the
correlation of z over the batch between first and second views:
  loss = sum_i (C_ii - 1)^2 + weight sum_{i != j} C_ij^2

The batch is the objective here, so that what does not count (bad audio, silence, what fills a
batch) is left out everywhere: of the norms, of what the others are told from, of the mean. All of
it is float32.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from conformer_jax.models.classifier import pool
from conformer_jax.models.conformer import Encoder, EncoderSpec
from conformer_jax.models.features import FeatureSpec, log_mel

LOSSES = ("nt_xent", "barlow")
_EPS = 1e-5  # of the batch norms


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Settings of clip contrast: the fields of `config.clip` (conformer_jax/fields.py)."""

    loss: str = "nt_xent"
    temperature: float = 0.2
    head_width: int = 1024
    head_dim: int = 128
    off_diagonal_weight: float = 5e-3

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"config.clip.loss = {self.loss!r}: choose one of {LOSSES}")


class ViewNorm(nn.Module):
    """Batch norm over the clips that count, of each of the two views apart: x [N, 2, E].

    It keeps no running averages: the head is thrown away after pre-training.
    """

    use_bias: bool = True

    @nn.compact
    def __call__(self, x, counts):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        share = (counts / jnp.maximum(counts.sum(), 1.0))[:, None, None]
        mean = (x * share).sum(0)
        variance = (jnp.square(x - mean) * share).sum(0)
        x = (x - mean) * jax.lax.rsqrt(variance + _EPS) * scale
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x


class ProjectionHead(nn.Module):
    """P(LayerNorm(h)) above: pooled [N, 2, 2 D], counts [N] of 0 and 1 -> z [N, 2, head_dim]."""

    spec: ClipSpec

    @nn.compact
    def __call__(self, pooled, counts):
        x = nn.LayerNorm(epsilon=_EPS, use_fast_variance=False, name="norm")(pooled)
        for i in range(2):
            x = nn.Dense(self.spec.head_width, use_bias=False, name=f"hidden_{i}")(x)
            x = nn.relu(ViewNorm(name=f"hidden_norm_{i}")(x, counts))
        x = nn.Dense(self.spec.head_dim, use_bias=False, name="out")(x)
        return ViewNorm(use_bias=False, name="out_norm")(x, counts)


class ClipContrast(nn.Module):
    """Encoder and projection head."""

    features: FeatureSpec
    encoder_spec: EncoderSpec
    clip: ClipSpec
    view_frames: int  # log-mel frames of a view

    def setup(self):
        self.encoder = Encoder(self.encoder_spec)
        self.head = ProjectionHead(self.clip)

    def __call__(self, audio, num_samples, keys, *, train: bool):
        """Audio [B, N] of num_samples [B], each clip whole as both of its views -> z [B, 2, E]."""
        features, _ = log_mel(audio, num_samples, self.features)
        features = jnp.stack([features, features], axis=1)
        shown = jnp.ones((len(audio), 2, max(features.shape[2] // self.encoder_spec.stride, 1)))
        return self.head(self.from_views(features, shown > 0, keys, train=train), num_samples > 0)

    def from_views(self, features, shown, keys, *, train: bool):
        """The pooled vectors of two views of each clip.

        Args:
          features: [B, 2, L, F] normalised log-mel.
          shown: [B, 2, L // stride] bool; a token that is not shown is nowhere heard.
          keys: [B], one random key a clip.

        Returns:
          [B, 2, 2 D] float32.
        """
        tokens, shown = tokens_of_views(self.encoder, features), _flat(shown)
        context = self.encoder(_flat(tokens), shown, view_keys(keys), train=train)
        return pool(context, shown, "statistics").reshape(*features.shape[:2], -1)

    def project(self, pooled, counts):
        """z [B, 2, E] of pooled vectors [B, 2, 2 D], of which those with counts [B] 1 count."""
        return self.head(pooled, counts)


def tokens_of_views(encoder, features):
    """Tokens [B, 2, T, feature_dim] of views [B, 2, L, F] that are full of sound."""
    flat = _flat(features)
    tokens, _ = encoder.tokens(flat, jnp.ones(flat.shape[:2], bool))
    return tokens.reshape(*features.shape[:2], *tokens.shape[1:])


def view_keys(keys):
    """A key of its own for each of the two views: keys [B] -> [2 B]."""
    return jax.vmap(lambda key: jax.random.split(key, 2))(keys).reshape(-1)


def _flat(x):
    """[B, 2, ...] -> [2 B, ...]. The views of a clip stay neighbours, so none leaves its device."""
    return x.reshape(-1, *x.shape[2:])


@jax.named_scope("loss")
def unit(z):
    """u above: z [..., E] -> [..., E]."""
    square = jnp.square(z).sum(-1, keepdims=True)
    # The slope of a root at 0 would be infinite.
    return z * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


@jax.named_scope("loss")
def similarities(u, counts, files):
    """Cosines between all views, and which of them are told apart.

    Args:
      u: [N, 2, E] unit vectors; counts: [N] of 0 and 1; files: [N] ints, which file a clip is of.

    Returns:
      cosine [2 N, 2 N]; other [2 N, 2 N] bool, where the two views are of different files and both
      count. The views of clip i are rows 2 i and 2 i + 1.
    """
    rows = _flat(u)
    cosine = jnp.einsum("ie,je->ij", rows, rows, precision="highest")
    files, counts = jnp.repeat(files, 2), jnp.repeat(counts, 2) > 0
    other = (files[:, None] != files) & counts[:, None] & counts
    return cosine, other


@jax.named_scope("loss")
def nt_xent(cosine, other, temperature: float):
    """NT-Xent above, of `similarities`.

    Returns:
      loss [2 N], of each view; best [2 N], the highest cosine to one of another file, -1 where
      there is none; pair [2 N], the cosine to the clip's other view.
    """
    pair = pair_of(cosine)
    logits = jnp.where(other, cosine / temperature, -jnp.inf)
    logits = jnp.concatenate([pair[:, None] / temperature, logits], axis=1)
    best = jnp.where(other, cosine, -1.0).max(1)
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0], best, pair


def pair_of(cosine):
    """The cosine of each view with the other one of its clip: [2 N, 2 N] -> [2 N]."""
    rows = jnp.arange(cosine.shape[0])
    return cosine[rows, rows ^ 1]


@jax.named_scope("loss")
def barlow_twins(z, counts, off_diagonal_weight: float):
    """Barlow Twins above: z [N, 2, E], counts [N] -> a scalar."""
    share = counts / jnp.maximum(counts.sum(), 1.0)
    z = z - (z * share[:, None, None]).sum(0)
    z = z * jax.lax.rsqrt((jnp.square(z) * share[:, None, None]).sum(0) + _EPS)
    c = jnp.einsum("ne,nf,n->ef", z[:, 0], z[:, 1], share, precision="highest")
    diagonal = jnp.diagonal(c)
    off = jnp.square(c).sum() - jnp.square(diagonal).sum()
    return jnp.square(diagonal - 1.0).sum() + off_diagonal_weight * off
