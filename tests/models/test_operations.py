"""Operations with a written-out gradient: values against numpy, gradients against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models.dropout import dropout, seeds_of
from conformer_jax.models.operations import attend, depthwise_conv


@pytest.fixture(params=["cpu", "tpu", "default"])
def as_on(request, monkeypatch):
    """The branch that another platform takes, run here."""

    def choose(*args, **branches):
        return branches.get(request.param, branches["default"])(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)


@pytest.mark.usefixtures("as_on")
def test_depthwise_conv_equals_a_sum_of_numpy_correlations():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 3)), rng.standard_normal((5, 3))
    expected = np.stack(
        [
            [np.correlate(np.pad(x[b, :, d], 2), kernel[:, d], "valid") for d in range(3)]
            for b in range(2)
        ]
    ).transpose(0, 2, 1)
    np.testing.assert_allclose(depthwise_conv(x, kernel), expected, atol=1e-5)


@pytest.mark.usefixtures("as_on")
def test_gradient_of_depthwise_conv_is_the_derived_one():
    x, kernel, weights = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(2, 9, 3), (5, 3), (2, 9, 3)])
    )

    def plain(x, kernel):
        padded = jnp.pad(x, ((0, 0), (2, 2), (0, 0)))
        return sum(padded[:, i : i + 9] * kernel[i] for i in range(5))

    def gradients(function):
        loss = jax.jit(jax.grad(lambda x, k: (function(x, k) * weights).sum(), argnums=(0, 1)))
        return loss(x, kernel)

    for ours, expected in zip(gradients(depthwise_conv), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.usefixtures("as_on")
def test_depthwise_conv_in_bfloat16_has_a_gradient_of_bfloat16():
    x, kernel = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 32, 3), (5, 3)])
    )

    def gradients(dtype):
        loss = jax.grad(lambda x, k: jnp.square(depthwise_conv(x, k)).sum(), argnums=(0, 1))
        return loss(x.astype(dtype), kernel.astype(dtype))

    for ours, exact in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert _error(ours, exact) < 0.01


def _error(rounded, exact):
    return jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_attention_and_its_gradient_are_those_of_the_formula(rate):
    """One clip is padded, one has no valid token at all."""
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 2, 7, 4))
    valid = jnp.arange(7) < jnp.array([7, 4, 0])[:, None]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        _attention_and_gradients(attend, inputs, valid, rate),
        _attention_and_gradients(_plain, inputs, valid, rate),
    )


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_attention_in_bfloat16_is_nearly_as_exact_as_derived(rate):
    """Pointed weights and values with a mean: where rounding hurts most."""
    query, key, value, weights = jax.random.normal(jax.random.key(0), (4, 2, 2, 64, 16))
    valid = jnp.ones((2, 64), bool)
    rounded = [x.astype(jnp.bfloat16) for x in (1.5 * query, key, value + 2, weights + 0.5)]
    exact = _attention_and_gradients(_plain, [x.astype(jnp.float32) for x in rounded], valid, rate)
    ours, derived = (
        jax.tree.map(_error, _attention_and_gradients(function, rounded, valid, rate), exact)
        for function in (attend, _plain)
    )
    for error, of_derived in zip(jax.tree.leaves(ours), jax.tree.leaves(derived), strict=True):
        assert error < 2 * of_derived


def _plain(query, key, value, valid, seeds, rate):
    """The formula, its gradient left to JAX."""
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = jnp.where(valid[:, None, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", dropout(weights, seeds, rate), value)


def _attention_and_gradients(function, inputs, valid, rate):
    *inputs, weights = inputs
    seeds = seeds_of(jax.random.split(jax.random.key(1), len(valid))) if rate else None

    def loss(*inputs):
        out = function(*inputs, valid, seeds, rate)
        return (out * weights).sum(), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
