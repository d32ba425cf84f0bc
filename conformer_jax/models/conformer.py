"""The Conformer encoder of the paper, convolution before attention.

A block maps x [B, T, D] to y, every sub-layer starting with its own LayerNorm:

    x1 = x  + 1/2 FF(x)          FF(x)   = W2 silu(W1 LN(x) + b1) + b2
    x2 = x1 + Conv(x1)           Conv(x) = P2 silu(GN(depthwise(glu(P1 LN(x)))))
    x3 = x2 + MHSA(LN(x2))       MHSA    = softmax(Q K' / sqrt(D / H)) V, heads side by side, W_o
    x4 = x3 + 1/2 FF(x3)
    y  = LN(x4)

GN is a group norm of one group (over the valid tokens and the width together). There is no
positional encoding: the depthwise convolutions tell before from after. Dropout follows every
product; where `seeds` [B, 2] are None there is none. The convolution, the group norm and the
attention see valid tokens only, so padding changes nothing. Norms and softmax run in float32,
products in `dtype`.

Source: the paper, section 2, and the authors' prototype in torchaudio 2.8.
"""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from conformer_jax.models.dropout import dropout, fold, seeds_of
from conformer_jax.models.operations import attend, depthwise_conv

_EPS = 1e-5  # of every norm, PyTorch's default

# What the backward pass finds saved of a block's inside; the rest is computed again.
REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Sizes of an Encoder; the fields are those of `config.conformer` (conformer_jax/fields.py).

    Raises:
      ValueError: a field out of range, named.
    """

    stride: int = 4
    feature_dim: int = 256
    width: int = 256
    num_heads: int = 8
    feed_forward_width: int = 1024
    kernel_sizes: tuple[int, ...] = (31,) + (15,) * 11
    dropout: float = 0.1
    dtype: str = "float32"
    scan_blocks: bool = False
    remat: str = "none"

    def __post_init__(self):
        problems = {
            "num_heads": self.width % self.num_heads,
            "kernel_sizes": not self.kernel_sizes or any(k % 2 == 0 for k in self.kernel_sizes),
            "dropout": not 0 <= self.dropout < 1,
            "dtype": self.dtype not in ("float32", "bfloat16"),
            "remat": self.remat not in REMAT_POLICIES,
        }
        for field, wrong in problems.items():
            if wrong:
                raise ValueError(
                    f"config.conformer.{field} = {getattr(self, field)!r} does not fit "
                    f"(see its comment in conformer_jax/fields.py)"
                )


SIZES = {
    "tiny": EncoderSpec(
        feature_dim=144,
        width=144,
        num_heads=4,
        feed_forward_width=576,
        kernel_sizes=(31,) + (15,) * 5,
    ),
    "small": EncoderSpec(),
    "large": EncoderSpec(width=768, num_heads=12),
}


class FeedForward(nn.Module):
    """FF(x) above: [B, T, D] -> [B, T, D]."""

    spec: EncoderSpec

    @nn.compact
    def __call__(self, x, seeds):
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        x = _layer_norm("norm")(x).astype(dtype)
        x = nn.silu(nn.Dense(spec.feed_forward_width, dtype=dtype, name="expand")(x))
        x = dropout(x, fold(seeds, 0), spec.dropout)
        x = nn.Dense(spec.width, dtype=dtype, name="contract")(x)
        return dropout(x, fold(seeds, 1), spec.dropout)


class Convolution(nn.Module):
    """Conv(x) above: [B, T, D], valid [B, T] -> [B, T, D]."""

    spec: EncoderSpec
    kernel_size: int

    @nn.compact
    def __call__(self, x, valid, seeds):
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        x = _layer_norm("norm")(x).astype(dtype)
        x = nn.glu(nn.Dense(2 * spec.width, dtype=dtype, name="pointwise_in")(x))
        x = jnp.where(valid[..., None], x, 0)
        kernel = self.param(
            "depthwise_kernel",
            nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=0, out_axis=()),
            (self.kernel_size, spec.width),
        )
        bias = self.param("depthwise_bias", nn.initializers.zeros, (spec.width,))
        x = depthwise_conv(x, kernel.astype(dtype)) + bias.astype(dtype)
        x = MaskedGroupNorm(name="group_norm")(x, valid).astype(dtype)
        x = nn.Dense(spec.width, dtype=dtype, name="pointwise_out")(nn.silu(x))
        return dropout(x, seeds, spec.dropout)


class SelfAttention(nn.Module):
    """MHSA(LN(x)) above: [B, T, D], valid [B, T] -> [B, T, D]; every token sees the valid ones."""

    spec: EncoderSpec

    @nn.compact
    def __call__(self, x, valid, seeds):
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        head_dim = spec.width // spec.num_heads
        x = _layer_norm("norm")(x).astype(dtype)
        # One product for all three: [B, T, 3, H, D / H].
        qkv = nn.DenseGeneral((3, spec.num_heads, head_dim), dtype=dtype, name="qkv")(x)
        query, key, value = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
        query = query * head_dim**-0.5
        x = attend(query, key, value, valid, fold(seeds, 0), spec.dropout).swapaxes(1, 2)
        x = nn.DenseGeneral(spec.width, axis=(-2, -1), dtype=dtype, name="out")(x)
        return dropout(x, fold(seeds, 1), spec.dropout)


class ConformerBlock(nn.Module):
    """The five equations above."""

    spec: EncoderSpec
    kernel_size: int

    @nn.compact
    def __call__(self, x, valid, seeds):
        parts = [fold(seeds, i) for i in range(4)]
        x = x + 0.5 * FeedForward(self.spec, name="feed_forward_in")(x, parts[0])
        x = x + Convolution(self.spec, self.kernel_size, name="convolution")(x, valid, parts[1])
        x = x + SelfAttention(self.spec, name="attention")(x, valid, parts[2])
        x = x + 0.5 * FeedForward(self.spec, name="feed_forward_out")(x, parts[3])
        return _layer_norm("norm")(x).astype(jnp.dtype(self.spec.dtype))


class Encoder(nn.Module):
    """Log-mel frames to contextual tokens, in two calls so that tokens can be masked in between.

    `tokens` stacks frames; the encoder itself projects the tokens and runs the blocks.
    """

    spec: EncoderSpec

    def setup(self):
        spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
        self.stack = nn.Dense(spec.feature_dim, dtype=dtype)
        self.token_norm = _layer_norm()
        self.projection = nn.Dense(spec.width, dtype=dtype)
        self.blocks = [
            _block_class(spec)(spec, kernel, name=f"block_{i}")
            for i, kernel in enumerate(spec.kernel_sizes)
        ]

    def tokens(self, features, valid_frames):
        """Stacks `stride` frames to a token, projects and normalises them.

        A token is valid when all its frames are; a clip with fewer frames than one token needs
        keeps a single token, filled up with zeros (the mean of normalised features).

        Args:
          features: [B, frames, F], 0 where not valid.
          valid_frames: [B, frames] bool, valid frames first.

        Returns:
          tokens [B, T, feature_dim] float32, valid [B, T] bool, T = frames // stride, at least 1.
        """
        batch, frames, bins = features.shape
        stride = self.spec.stride
        num_tokens = jax.core.max_dim(frames // stride, 1)  # which may be left open in an export
        # Less than nothing is cut off.
        short = num_tokens * stride - frames
        features = jax.lax.pad(features, 0.0, ((0, 0, 0), (0, short, 0), (0, 0, 0)))
        x = self.stack(features.reshape(batch, num_tokens, stride * bins))
        count = valid_frames.sum(-1)
        count = jnp.maximum(count // stride, count > 0)
        valid = jnp.arange(num_tokens) < count[:, None]
        return self.token_norm(x), valid

    def __call__(self, tokens, valid, keys=None, *, train: bool):
        """Projects tokens [B, T, feature_dim] and runs the blocks: [B, T, D] float32.

        `keys` [B], one random key a clip, are needed where `train`.
        """
        return self._run(tokens, valid, keys, train=train, every=False)[-1]

    def every_block(self, tokens, valid, keys=None, *, train: bool):
        """What each block makes of the tokens, as `__call__`: a list of [B, T, D] float32."""
        return self._run(tokens, valid, keys, train=train, every=True)

    def _run(self, tokens, valid, keys, *, train, every):
        """A list of the blocks' outputs, of all or at least the last."""
        seeds = seeds_of(keys) if train and self.spec.dropout else None
        x = self.projection(tokens.astype(jnp.dtype(self.spec.dtype)))
        x = dropout(x, fold(seeds, len(self.blocks)), self.spec.dropout)
        if self.spec.scan_blocks and not self.is_initializing():
            outputs = self._scan(x, valid, seeds, every)
        else:
            outputs = []
            for i, block in enumerate(self.blocks):
                x = block(x, valid, fold(seeds, i))
                outputs.append(x)
        return [x.astype(jnp.float32) for x in outputs]

    def _scan(self, x, valid, seeds, every):
        """The blocks as one loop for each stretch of equal ones: less to compile."""
        numbers, outputs = range(len(self.blocks)), []
        for kernel, stretch in itertools.groupby(numbers, lambda i: self.spec.kernel_sizes[i]):
            stretch = list(stretch)
            block = _block_class(self.spec)(self.spec, kernel, parent=None)

            def body(x, item, block=block):
                number, params = item
                x = block.apply({"params": params}, x, valid, fold(seeds, number))
                return x, x if every else None

            params = [self.blocks[i].variables["params"] for i in stretch]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            x, between = jax.lax.scan(body, x, (jnp.array(stretch), stacked))
            outputs += list(between) if every else [x]
        return outputs


def _block_class(spec):
    """ConformerBlock, rematerialised as the spec says."""
    if spec.remat == "none":
        return ConformerBlock
    return nn.remat(ConformerBlock, policy=REMAT_POLICIES[spec.remat])


class MaskedGroupNorm(nn.Module):
    """Group norm of one group over the valid tokens: [B, T, D], valid [B, T] -> float32."""

    @nn.compact
    def __call__(self, x, valid):
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        x = x.astype(jnp.float32)
        real = valid[..., None].astype(jnp.float32)
        size = jnp.maximum(real.sum((1, 2), keepdims=True) * width, 1.0)
        mean = (x * real).sum((1, 2), keepdims=True) / size
        variance = (jnp.square(x - mean) * real).sum((1, 2), keepdims=True) / size
        return (x - mean) * jax.lax.rsqrt(variance + _EPS) * scale + bias


def _layer_norm(name: str | None = None):
    """LayerNorm that computes and answers in float32."""
    return nn.LayerNorm(epsilon=_EPS, dtype=jnp.float32, use_fast_variance=False, name=name)
