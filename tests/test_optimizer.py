"""AdamW from the config: schedule, clipping, and what is decayed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from configs import pretrain as pretrain_config
from conformer_jax import finetune, optimizer, pretrain


def settings(**changes):
    config = base.get_config().optimizer
    config.update(changes)
    return config


def test_schedule_warms_up_linearly_then_falls_as_a_cosine():
    schedule = optimizer.make_schedule(
        settings(learning_rate=2.0, warmup_share=0.1, end_share=0.25), 1000
    )
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(50), 1.0, rtol=1e-6)
    np.testing.assert_allclose(schedule(100), 2.0, rtol=1e-6)
    middle = 0.5 + (2.0 - 0.5) * 0.5 * (1 + np.cos(np.pi * 0.5))
    np.testing.assert_allclose(schedule(550), middle, rtol=1e-5)
    np.testing.assert_allclose([schedule(1000), schedule(2000)], 0.5, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_shortest_runs_have_a_schedule(num_steps):
    schedule = optimizer.make_schedule(settings(warmup_share=0.0), num_steps + 1)
    assert all(np.isfinite(schedule(step)) for step in range(num_steps + 1))


@functools.partial(jax.jit, static_argnames=("transform", "steps"))
def run(transform, params, grads, steps):
    opt_state = transform.init(params)
    for _ in range(steps):
        updates, opt_state = transform.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_equals_adamw_on_a_matrix():
    config = settings(clip_norm=0.0, weight_decay=0.3, learning_rate=0.01)
    transform, schedule = optimizer.make_optimizer(config, 20)
    params, grads = (
        {"kernel": jnp.full((2, 2), 3.0)},
        {"kernel": jnp.asarray([[1.0, -2], [0.1, 5]])},
    )
    ours = run(transform, params, grads, 4)["kernel"]
    x, m, v = np.full((2, 2), 3.0), 0.0, 0.0
    g = np.asarray(grads["kernel"])
    for t in range(4):
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
        step = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.98 ** (t + 1))) + 1e-6)
        x = x - float(schedule(t)) * (step + 0.3 * x)
    np.testing.assert_allclose(ours, x, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    """Two gradients beyond the bound and in one direction become the same update history."""
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    config = settings(clip_norm=0.5, eps=1.0, learning_rate=1.0, weight_decay=0.0)
    grads = {"a": jnp.asarray([3.0, 0, 0]), "b": jnp.asarray([0.0, 4.0])}
    clipped = jax.tree.map(lambda g: 0.1 * g, grads)  # norm 5 -> 0.5
    transform, _ = optimizer.make_optimizer(config, 10)
    free, _ = optimizer.make_optimizer(settings(**{**config, "clip_norm": 0.0}), 10)
    ours, expected = run(transform, params, grads, 3), run(free, params, clipped, 3)
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5)
    assert np.abs(run(free, params, grads, 3)["b"] - ours["b"]).max() > 0.1


def shapes_of(target):
    config = pretrain_config.get_config("smoke")
    transform = optax.sgd(0.1)
    if target == "classifier":
        init = lambda key: finetune.init(config, finetune.make_model(config, 5), transform, key)
    else:
        config.target = target
        init = lambda key: pretrain.init(config, pretrain.make_model(config), transform, key)
    return jax.eval_shape(init, jax.random.key(0)).params


@pytest.mark.parametrize("target", ["linear", "gumbel", "classifier"])
def test_only_matrices_are_decayed(target):
    """configs/base.py: 'decoupled, on matrices only (no bias, norm or embedding)'."""
    params = jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes_of(target))
    transform, _ = optimizer.make_optimizer(settings(weight_decay=0.5, learning_rate=0.1), 10)
    after = run(transform, params, jax.tree.map(np.zeros_like, params), 2)
    decayed = {
        jax.tree_util.keystr(path): bool((leaf < 1).all())
        for path, leaf in jax.tree_util.tree_leaves_with_path(after)
    }
    wanted = {name: name.endswith("kernel']") for name in decayed}
    assert {n for n in decayed if decayed[n] != wanted[n]} == set()
    assert sum(wanted.values()) > 10
