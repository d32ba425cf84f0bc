"""The encoder's two operations whose gradient is written out, because it keeps or costs less.

docs/performance.md has the figures.
"""

import functools

import jax
import jax.numpy as jnp

from conformer_jax.models.dropout import dropout, keep_mask


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend(query, key, value, valid, seeds, rate):
    """softmax(Q K') V with dropout of the weights: query (scaled), key, value [B, H, T, D / H],
    valid [B, T] -> [B, H, T, D / H].

    The gradient is written out: of all that has T x T elements only the weights are kept, in the
    dtype of `value`. Reverse mode only.
    """
    return _attend_forward(query, key, value, valid, seeds, rate)[0]


def _attend_forward(query, key, value, valid, seeds, rate):
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = jnp.where(valid[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", dropout(weights, seeds, rate), value)
    return out, (query, key, value, valid, weights, seeds)


def _attend_backward(rate, saved, gradient):
    query, key, value, valid, weights, seeds = saved
    # Dropout scales the gradient here and not the weights as in the forward pass: of the same
    # form, XLA would see that it knows the result and keep it.
    kept = weights
    if seeds is not None and rate:
        keep = keep_mask(seeds, weights.shape, 1.0 - rate)
        kept, gradient = jnp.where(keep, weights, 0), gradient / (1.0 - rate)
    of_value = jnp.einsum("bhqk,bhqd->bhkd", kept, gradient)
    of_logits = jnp.einsum("bhqd,bhkd->bhqk", gradient, value, preferred_element_type=jnp.float32)
    of_logits = kept * of_logits
    # Rounded to bfloat16, a row of the weights does not sum to 1 exactly. What is missing, times
    # the mean of `value`, would be of the order of the gradient itself.
    total = of_logits.sum(-1, keepdims=True) / weights.sum(-1, keepdims=True, dtype=jnp.float32)
    of_logits = of_logits - weights * total
    # Without a valid token all weights are equal, and no logit has a say in them.
    of_logits = jnp.where(valid[:, None, None, :], of_logits, 0).astype(query.dtype)
    of_query = jnp.einsum("bhqk,bhkd->bhqd", of_logits, key)
    of_key = jnp.einsum("bhqk,bhqd->bhkd", of_logits, query)
    return of_query, of_key, of_value, None, None


attend.defvjp(_attend_forward, _attend_backward)


@jax.custom_vjp
@jax.named_scope("depthwise")
def depthwise_conv(x, kernel):
    """Each channel with its own kernel, 'same' length: x [B, T, D], kernel [k, D] -> [B, T, D].

    On TPU XLA's grouped convolution: by the TPU compiler's estimate it takes a third of the time.
    Elsewhere a sum of shifted copies: XLA fuses it into one pass, where its grouped convolution is
    several times slower on CPU. The gradient is written out: derived from the sum, it would keep
    all k copies. x and kernel are of one dtype; reverse mode only.
    """
    return jax.lax.platform_dependent(x, kernel, tpu=_grouped_conv, default=_sum_of_shifts)


def _grouped_conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, None],
        window_strides=(1,),
        padding="SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


def _sum_of_shifts(x, kernel):
    padded = _pad(x, kernel)
    return sum(padded[:, i : i + x.shape[1]] * kernel[i] for i in range(kernel.shape[0]))


@jax.named_scope("depthwise")
def _depthwise_backward(saved, gradient):
    x, kernel = saved
    padded, shifts = _pad(x, kernel), range(kernel.shape[0])

    def of_tap(i):
        copy = jax.lax.dynamic_slice_in_dim(padded, i, x.shape[1], axis=1)
        return (copy.astype(jnp.float32) * gradient).sum((0, 1))

    def grouped():
        _, back = jax.vjp(lambda kernel: _grouped_conv(x, kernel), kernel)
        return back(gradient)[0].astype(jnp.float32)

    of_kernel = jax.lax.platform_dependent(
        tpu=grouped,
        # One copy after the other, or XLA writes out all of them before it sums.
        cpu=lambda: jax.lax.map(of_tap, jnp.array(shifts)),
        default=lambda: jnp.stack([of_tap(i) for i in shifts]),
    )
    return depthwise_conv(gradient, kernel[::-1]), of_kernel.astype(kernel.dtype)


def _pad(x, kernel):
    half = kernel.shape[0] // 2
    return jnp.pad(x, ((0, 0), (half, half), (0, 0)))


depthwise_conv.defvjp(
    lambda x, kernel: (depthwise_conv(x, kernel), (x, kernel)), _depthwise_backward
)
