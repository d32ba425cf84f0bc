"""Floating-point operations of the model's matrix products, and what a device can do.

Counted: the matrix products of the forward pass, two operations a multiply-add, on whole clips,
padding included; the backward pass costs twice the forward one. Of the objective's products,
those of the expected number of masked tokens. Not counted: features, norms, depthwise
convolutions, activations, losses, the optimizer, and what rematerialisation computes twice.
"""

import functools
import time

import jax
import jax.numpy as jnp

from conformer_jax.models.classifier import Classifier
from conformer_jax.models.clip_contrast import ClipContrast
from conformer_jax.models.wav2vec2 import Wav2Vec2

# Dense bfloat16 peak of one device in FLOP/s (float16 where the device has no bfloat16), against
# the beginning of jax's device kind, of which the longest counts. Sources: NVIDIA's data sheet of
# each product, where figures "with sparsity" are halved; the Cloud TPU page of each version. A TPU
# v2 or v3 device is one of the chip's two cores, and gets half of the chip's figure.
PEAK_FLOPS = {
    "Tesla V100-PCIE": 112e12,  # float16
    "Tesla V100-SXM2": 125e12,  # float16
    "Tesla T4": 65e12,  # float16
    "NVIDIA A10": 125e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A100": 312e12,  # SXM and PCIe alike
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,  # SXM: 'NVIDIA H100 80GB HBM3'
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,  # SXM
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,  # v6e
    "TPU v6e": 918e12,
}

# Rows and columns of the float32 product that a CPU's peak is measured with.
MEASURED_SIZE = 2048


def train_step_flops(model, num_samples: int, batch_size: int) -> float:
    """Of one training step on a batch of clips [B, N]: 3 x forward x clips."""
    if crop := getattr(model, "crop_frames", 0):
        num_samples = (crop - 1) * model.features.hop_length
    return 3.0 * forward_flops(model, num_samples) * batch_size


def forward_flops(model: ClipContrast | Wav2Vec2 | Classifier, num_samples: int) -> float:
    """Of the forward pass of one clip of `num_samples`."""
    m, f = model.encoder_spec, model.features
    view_frames = getattr(model, "view_frames", None)  # of clip contrast, which sees two views
    frames = view_frames or 1 + num_samples // f.hop_length
    tokens = frames // m.stride
    width, inner = m.width, m.feed_forward_width
    per_token = 2 * (f.num_mels * m.stride * m.feature_dim + m.feature_dim * width)
    block = 2 * (
        2 * 2 * width * inner  # two feed-forward modules
        + 3 * width * width  # pointwise convolutions, in and out
        + 4 * width * width  # query, key, value, output
        + 2 * tokens * width  # attention logits, weighted sum
    )
    total = tokens * (per_token + len(m.kernel_sizes) * block)
    if view_frames:
        total = 2 * (total + _head_flops(model.clip, 2 * width))
    if isinstance(model, Wav2Vec2):
        total += _objective_flops(model.objective, m, tokens)
    elif not view_frames:
        total += 2 * width * model.num_classes
    return float(total)


def _head_flops(clip, pooled):
    return 2 * (pooled * clip.head_width + clip.head_width * (clip.head_width + clip.head_dim))


def _objective_flops(objective, encoder, tokens):
    span = objective.mask_length
    masked = tokens * (1 - (1 - objective.mask_probability / span) ** span)
    if objective.target == "linear":
        dim = encoder.width
        branch = encoder.feature_dim * dim
    else:
        dim = objective.projection_dim
        near = objective.code_logits == "distance"
        code_dim = encoder.feature_dim if near else objective.code_dim
        logits = objective.num_entries * encoder.feature_dim
        branch = (
            (logits if near else logits * objective.num_groups)
            + objective.num_entries * code_dim
            + code_dim * dim
            + encoder.width * dim
        )
    return 2 * masked * (branch + masked * dim)


@functools.cache
def peak_flops() -> float:
    """FLOP/s of all devices together; a CPU's is measured with a large float32 product.

    Returns 0 for a device that is not in the table.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return _measured_peak()
    return published_peak(device.device_kind) * jax.device_count()


def peak_source() -> str:
    """Where `peak_flops` has its figure from."""
    if jax.devices()[0].platform == "cpu":
        return f"float32 product of {MEASURED_SIZE} x {MEASURED_SIZE}, measured"
    return "published, dense bfloat16"


def published_peak(device_kind: str) -> float:
    """Of one device by jax's name for it, such as 'NVIDIA H100 80GB HBM3'; 0 where unknown."""
    fits = [
        kind
        for kind in PEAK_FLOPS
        if device_kind.startswith(kind) and not device_kind[len(kind) :][:1].isalnum()
    ]
    return PEAK_FLOPS[max(fits, key=len)] if fits else 0.0


def _measured_peak(size: int = MEASURED_SIZE, repeats: int = 10) -> float:
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
