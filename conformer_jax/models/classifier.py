"""The fine-tuned model: the pre-training Encoder, pooling over valid tokens, a linear head."""

import flax.linen as nn
import jax.numpy as jnp

from conformer_jax.models.conformer import Encoder, EncoderSpec
from conformer_jax.models.dropout import dropout, fold, seeds_of
from conformer_jax.models.features import FeatureSpec, log_mel

POOLINGS = ("mean", "max")
_HEAD = 1_000_000  # the head's dropout; the encoder's are numbered from 0


def pool(x, valid, pooling: str):
    """Pools the valid tokens: x [B, T, D], valid [B, T] -> [B, D]; 0 where none is valid."""
    real = valid[..., None]
    if pooling == "max":
        top = jnp.where(real, x, -jnp.inf).max(1)
        return jnp.where(valid.any(-1, keepdims=True), top, 0.0)
    return jnp.where(real, x, 0.0).sum(1) / jnp.maximum(real.sum(1), 1)


class Classifier(nn.Module):
    """Clips to class logits (the paper, section 3: a linear head)."""

    features: FeatureSpec
    encoder_spec: EncoderSpec
    num_classes: int
    pooling: str = "mean"
    dropout: float = 0.1

    def setup(self):
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"config.classifier.pooling = {self.pooling!r}: choose one of {POOLINGS}"
            )
        self.encoder = Encoder(self.encoder_spec)
        self.head = nn.Dense(self.num_classes)

    def __call__(self, audio, num_samples, keys=None, *, train: bool):
        """Audio [B, N] of num_samples [B] -> logits [B, C] float32; `train` needs keys [B]."""
        features, valid_frames = log_mel(audio, num_samples, self.features)
        return self.from_features(features, valid_frames, keys, train=train)

    def from_features(self, features, valid_frames, keys=None, *, train: bool):
        """Normalised log-mel features [B, frames, F] -> logits [B, C] float32."""
        tokens, valid = self.encoder.tokens(features, valid_frames)
        x = self.encoder(tokens, valid, keys, train=train)
        seeds = fold(seeds_of(keys), _HEAD) if train and self.dropout else None
        return self.head(dropout(pool(x, valid, self.pooling), seeds, self.dropout))
