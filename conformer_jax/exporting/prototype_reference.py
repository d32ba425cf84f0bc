"""What the prototype computes, in numpy, from its own state dict: to hold ours against.

Written from its equations with torch's layouts, and not from ours, so that a mistake in the
conversion shows. Nothing is padded or masked.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from conformer_jax.models.conformer import Encoder, EncoderSpec

LARGEST = 1e-4  # difference of a layer, as a share of its largest value where that is above 1


def layers(state: dict, features, *, heads: int, stride: int) -> dict[str, np.ndarray]:
    """Outputs by name, [B, T, .] float64: 'features', 'tokens', 'block 0', ...; features
    [B, frames, F]."""
    known = {
        name.removeprefix("wav2vec2."): np.asarray(array, np.float64)
        for name, array in state.items()
    }
    weights = lambda name: (known[f"{name}.weight"], known[f"{name}.bias"])
    batch, frames, bins = features.shape
    tokens = frames // stride
    x = features[:, : tokens * stride].reshape(batch, tokens, stride * bins).astype(np.float64)
    found = {"features": _linear(x, *weights("feature_extractor.linear_layer"))}
    x = _norm(found["features"], *weights("encoder.feature_projection.layer_norm"))
    found["tokens"] = x
    x = _linear(x, *weights("encoder.feature_projection.projection"))
    i = 0
    while f"encoder.conformer.{i}.final_layer_norm.weight" in known:
        x = found[f"block {i}"] = _block(f"encoder.conformer.{i}", known, weights, x, heads)
        i += 1
    return found


def ours(encoder: dict, features, spec: EncoderSpec) -> dict[str, np.ndarray]:
    """The same of our encoder; encoder: its nested tree."""
    found = jax.device_get(_ours(encoder, jnp.asarray(features, jnp.float32), spec))
    return dict(zip(("features", "tokens"), found[:2], strict=True)) | {
        f"block {i}": x for i, x in enumerate(found[2])
    }


@functools.partial(jax.jit, static_argnames="spec")
def _ours(encoder, features, spec):
    model, variables = Encoder(spec), {"params": encoder}
    valid = jnp.ones(features.shape[:2], bool)
    (tokens, valid), seen = model.apply(
        variables,
        features,
        valid,
        method="tokens",
        capture_intermediates=lambda module, _: module.name == "stack",
    )
    blocks = model.apply(variables, tokens, valid, train=False, method="every_block")
    return seen["intermediates"]["stack"]["__call__"][0], tokens, blocks


def differences(ours, theirs) -> dict[str, float]:
    """The largest of each layer, as LARGEST says."""
    return {
        name: float(np.abs(ours[name] - x).max() / max(1.0, np.abs(x).max()))
        for name, x in theirs.items()
    }


def _block(name, known, weights, x, heads):
    x = x + 0.5 * _feed_forward(f"{name}.ffn1", weights, x)
    x = x + _convolution(f"{name}.conv_module", weights, x)
    normed = _norm(x, *weights(f"{name}.self_attn_layer_norm"))
    x = x + _attention(f"{name}.self_attn", known, weights, normed, heads)
    x = x + 0.5 * _feed_forward(f"{name}.ffn2", weights, x)
    return _norm(x, *weights(f"{name}.final_layer_norm"))


def _linear(x, weight, bias):
    return x @ weight.reshape(weight.shape[:2]).T + bias


def _norm(x, weight, bias, axes=-1):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def _feed_forward(name, weights, x):
    x = _norm(x, *weights(f"{name}.sequential.0"))
    x = _linear(x, *weights(f"{name}.sequential.1"))
    return _linear(x * _sigmoid(x), *weights(f"{name}.sequential.4"))


def _convolution(name, weights, x):
    x = _linear(_norm(x, *weights(f"{name}.layer_norm")), *weights(f"{name}.sequential.0"))
    value, gate = np.split(x, 2, axis=-1)
    x = value * _sigmoid(gate)
    kernel, bias = weights(f"{name}.sequential.2")
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    x = sum(padded[:, i : i + x.shape[1]] * kernel[:, 0, i] for i in range(size)) + bias
    x = _norm(x, *weights(f"{name}.sequential.3"), axes=(1, 2))
    return _linear(x * _sigmoid(x), *weights(f"{name}.sequential.5"))


def _attention(name, known, weights, x, heads):
    batch, length, width = x.shape
    projected = _linear(x, known[f"{name}.in_proj_weight"], known[f"{name}.in_proj_bias"])
    query, key, value = (
        part.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
        for part in np.split(projected, 3, axis=-1)
    )
    logits = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = (shares / shares.sum(-1, keepdims=True)) @ value
    mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, width)
    return _linear(mixed, *weights(f"{name}.out_proj"))
