"""The fine-tuned model: the pre-training Encoder, pooling over valid tokens, a linear head.

The pooled vector [B, E] of a clip is its embedding, which a linear probe or its nearest neighbours
classify as well (evaluation/probe.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from conformer_jax.models.conformer import Encoder, EncoderSpec
from conformer_jax.models.dropout import dropout, fold, seeds_of
from conformer_jax.models.features import FeatureSpec, log_mel, silence

POOLINGS = ("mean", "max", "statistics", "attention", "linear_softmax")
LAYERS = ("last", "all")
_HEAD = 1_000_000  # the head's dropout; the encoder's are numbered from 0


def pool(x, valid, pooling: str):
    """Pools the valid tokens: x [B, T, D], valid [B, T] -> [B, D]; 0 where none is valid.

    'statistics' is mean and deviation side by side, [B, 2 D] (Snyder et al. 2018, x-vectors): the
    blocks end in a LayerNorm, whose mean over time alone says little of a sound. Besides, there are
    'mean' and 'max'; ValueError for any other word.
    """
    real = valid[..., None]
    if pooling == "max":
        top = jnp.where(real, x, -jnp.inf).max(1)
        return jnp.where(valid.any(-1, keepdims=True), top, 0.0)
    count = jnp.maximum(real.sum(1), 1)
    mean = jnp.where(real, x, 0.0).sum(1) / count
    if pooling == "mean":
        return mean
    if pooling != "statistics":
        raise ValueError(f"pooling {pooling!r}: 'mean', 'max' or 'statistics'")
    variance = jnp.where(real, jnp.square(x - mean[:, None]), 0.0).sum(1) / count
    # The slope of a root at 0, of a clip of one token, would be infinite.
    return jnp.concatenate([mean, jnp.sqrt(variance + 1e-8) - 1e-4], axis=-1)


def attention_pool(x, scores, valid):
    """Pools the valid tokens by the softmax of their scores, the same weights for all classes.

    One learned query; Kong et al. 2018 (arXiv 1711.00927) weigh the tokens of each class apart.

    Args:
      x: [B, T, D]; scores: [B, T]; valid: [B, T].

    Returns:
      [B, D]; 0 where no token is valid.
    """
    weights = jax.nn.softmax(jnp.where(valid, scores, jnp.finfo(scores.dtype).min))
    return (jnp.where(valid, weights, 0.0)[..., None] * jnp.where(valid[..., None], x, 0.0)).sum(1)


def linear_softmax_pool(logits, valid):
    """Linear softmax pooling (Wang, Li & Metze 2019, arXiv 1810.09050), as a logit.

    A clip's probability is P = sum p^2 / sum p over the probabilities p = sigmoid(logits) of its
    valid tokens. Since 1 - P = sum p (1 - p) / sum p, its logit is a difference of two
    log-sum-exps, which neither underflows nor saturates.

    Args:
      logits: [B, T, C]; valid: [B, T], at least one of each clip.

    Returns:
      logit(P) [B, C].
    """
    present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    lowest = jnp.finfo(logits.dtype).min
    for_, against = (
        jax.nn.logsumexp(jnp.where(valid[..., None], present + other, lowest), axis=1)
        for other in (present, absent)
    )
    return for_ - against


def cut_crops(features, valid, *, count: int, length: int, low):
    """`count` stretches of `length` frames of each clip, evenly spaced from its first to its last.

    Args:
      features: [B, T, F]; valid: [B, T] bool, valid frames first; low: [F], silence.

    Returns:
      features [B count, length, F], valid [B count, length], of a clip side by side; weights
      [B, count] that sum to 1, and are 0 for digital silence beside sound.
    """
    batch, frames = valid.shape
    room = jnp.maximum(valid.sum(-1, keepdims=True) - length, 0)  # [B, 1]
    starts = jnp.arange(count) * room // max(count - 1, 1) if count > 1 else room // 2
    at = jnp.minimum(starts[..., None] + jnp.arange(length), frames - 1)  # [B, count, length]
    rows = jnp.arange(batch)[:, None, None]
    inside = starts[..., None] + jnp.arange(length) < frames
    cut, seen = features[rows, at], valid[rows, at] & inside
    sounds = ((cut > low).any(-1) & seen).any(-1)
    weights = jnp.where(sounds.any(-1, keepdims=True), sounds, True).astype(jnp.float32)
    weights /= weights.sum(-1, keepdims=True)
    flat = lambda x: x.reshape(batch * count, *x.shape[2:])
    return flat(jnp.where(seen[..., None], cut, 0.0)), flat(seen), weights


class Classifier(nn.Module):
    """Clips to class logits (the paper, section 3: a linear head).

    With 'linear_softmax' the head classifies every token, and the clip's logits are those of the
    pooled probabilities. They enter any loss as other logits do: with one label a clip the softmax
    normalises the odds P / (1 - P) of the classes, for a single token exactly the usual softmax.
    """

    features: FeatureSpec
    encoder_spec: EncoderSpec
    num_classes: int
    pooling: str = "mean"
    layers: str = "last"
    dropout: float = 0.1
    crop_frames: int = 0  # a training step hears so many, 0: the clip
    crops: int = 0  # except in training a clip is the mean of so many; 0: it is heard whole

    def setup(self):
        for field, known in (("pooling", POOLINGS), ("layers", LAYERS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.classifier.{field} = {getattr(self, field)!r}: choose one of {known}"
                )
        if self.crops and not self.crop_frames:
            raise ValueError(
                f"config.classifier.crops = {self.crops}, but config.classifier.crop_s, their "
                f"length, is 0"
            )
        self.encoder = Encoder(self.encoder_spec)
        self.head = nn.Dense(self.num_classes)
        if self.pooling == "attention":  # from zeros: it begins as the mean
            self.query = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)

    def __call__(self, audio, num_samples, keys=None, *, train: bool):
        """Audio [B, N] of num_samples [B] -> logits [B, C] float32; `train` needs keys [B]."""
        features, valid_frames = log_mel(audio, num_samples, self.features)
        return self.from_features(features, valid_frames, keys, train=train)

    def from_features(self, features, valid_frames, keys=None, *, train: bool):
        """Normalised log-mel features [B, frames, F] -> logits [B, C] float32."""
        if self.crops and not train:
            features, valid_frames, weights = self._cut(features, valid_frames)
            return _mean_crop(self._logits(features, valid_frames, None, train=False), weights)
        return self._logits(features, valid_frames, keys, train=train)

    def embed(self, audio, num_samples):
        """Audio [B, N] of num_samples [B] -> the pooled vectors [B, E] float32.

        Raises ValueError with 'linear_softmax', which pools no vectors.
        """
        if self.pooling == "linear_softmax":
            raise ValueError(
                "config.classifier.pooling = 'linear_softmax' pools probabilities: choose another "
                "one for embeddings"
            )
        features, valid_frames = log_mel(audio, num_samples, self.features)
        if self.crops:
            return self._mean_vector(features, valid_frames)
        return self._vector(*self._tokens(features, valid_frames, None, train=False))

    def outputs(self, audio, num_samples, *, head: bool):
        """All that a trained model says of clips; audio [B, N] of num_samples [B].

        Returns:
          `embedding` [B, E], with 'linear_softmax' the mean of the tokens; `frames` [B, T, D], the
          last block's output; `valid` [B, T]; where `head`, `logits` [B, C].
        """
        features, valid_frames = log_mel(audio, num_samples, self.features)
        x, valid = self._tokens(features, valid_frames, None, train=False)
        found = {"frames": x[..., -self.encoder_spec.width :], "valid": valid}
        if self.crops:  # of all of the clip only the frames are: what is not used is not computed
            found["embedding"] = self._mean_vector(features, valid_frames)
        else:
            found["embedding"] = self._vector(x, valid)
        if head and self.pooling == "linear_softmax":
            found["logits"] = self.from_features(features, valid_frames, train=False)
        elif head:  # it is linear: of the mean of crops it says the mean of what it says of them
            found["logits"] = self.head(found["embedding"])
        return found

    def _logits(self, features, valid_frames, keys, *, train):
        """Of all of the features [B, frames, F]: [B, C]."""
        x, valid = self._tokens(features, valid_frames, keys, train=train)
        seeds = fold(seeds_of(keys), _HEAD) if train and self.dropout else None
        drop = lambda x: dropout(x, seeds, self.dropout)
        if self.pooling == "linear_softmax":
            # A clip without a valid token keeps one, of zeros: it gets the bias of the head.
            first = jnp.arange(valid.shape[1]) == 0
            some = valid | (first & ~valid.any(-1, keepdims=True))
            return linear_softmax_pool(self.head(drop(jnp.where(valid[..., None], x, 0.0))), some)
        return self.head(drop(self._vector(x, valid)))

    def _cut(self, features, valid_frames):
        return cut_crops(
            features,
            valid_frames,
            count=self.crops,
            length=self.crop_frames,
            low=silence(self.features),
        )

    def _mean_vector(self, features, valid_frames):
        """[B, E]: the mean over a clip's crops."""
        features, valid_frames, weights = self._cut(features, valid_frames)
        vectors = self._vector(*self._tokens(features, valid_frames, None, train=False))
        return _mean_crop(vectors, weights)

    def _tokens(self, features, valid_frames, keys, *, train):
        """What is pooled: [B, T, D], or all layers side by side; and which tokens are valid."""
        tokens, valid = self.encoder.tokens(features, valid_frames)
        if self.layers == "last":
            return self.encoder(tokens, valid, keys, train=train), valid
        blocks = self.encoder.every_block(tokens, valid, keys, train=train)
        return jnp.concatenate([tokens, *blocks], axis=-1), valid

    def _vector(self, x, valid):
        """Pooled tokens [B, E]."""
        if self.pooling == "linear_softmax":
            return pool(x, valid, "mean")
        if self.pooling == "attention":
            return attention_pool(x, self.query(x)[..., 0], valid)
        return pool(x, valid, self.pooling)


def _mean_crop(x, weights):
    """x [B K, D] of the crops with weights [B, K] -> [B, D]."""
    return jnp.einsum("bkd,bk->bd", x.reshape(*weights.shape, -1), weights)
