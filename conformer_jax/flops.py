"""Floating-point operations of the model's matrix products, and what a device can do.

Counted: the matrix products of the forward pass, two operations a multiply-add, on whole clips,
padding included; the backward pass costs twice the forward one. Not counted: features, norms,
depthwise convolutions, activations, losses, the optimizer.
"""

import functools
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 peak of one device in FLOP/s, by the vendors' data sheets, against jax's device
# kind: NVIDIA A100, H100 SXM and H200 data sheets; Google Cloud's TPU v4, v5e, v5p, v6e pages.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def train_step_flops(config) -> float:
    """Of one training step of the config: 3 x forward x clips."""
    return 3.0 * forward_flops(config) * config.data.batch_size


def forward_flops(config) -> float:
    """Of the forward pass of one clip of config.data.clip_s."""
    m, f = config.conformer, config.features
    frames = 1 + round(config.data.clip_s * f.sample_rate) // round(f.hop_s * f.sample_rate)
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
    if config.task == "pretrain":
        total += _objective_flops(config, tokens)
    return float(total)


def _objective_flops(config, tokens):
    masked = tokens * (
        1
        - (1 - config.masking.probability / config.masking.span_length)
        ** config.masking.span_length
    )
    if config.target == "linear":
        dim = config.conformer.width
        branch = config.conformer.feature_dim * dim
    else:
        q, dim = config.quantizer, config.wav2vec2.projection_dim
        branch = (
            config.conformer.feature_dim * q.num_groups * q.num_entries
            + q.num_entries * q.code_dim
            + q.code_dim * dim
            + config.conformer.width * dim
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
    for kind, peak in PEAK_FLOPS.items():
        if device.device_kind.startswith(kind):
            return peak * jax.device_count()
    return 0.0


def _measured_peak(size: int = 2048, repeats: int = 3) -> float:
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
