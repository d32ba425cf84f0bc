"""AdamW from the config: schedule, clipping, and what is decayed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from configs import pretrain as pretrain_config
from conformer_jax.steps import finetune, optimizer, pretrain
from conformer_jax.training import program


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
    if target == "classifier":
        config.task, part = "finetune", finetune
    else:
        config.target, part = target, pretrain
    model, transform = program.make_model(config, 5), optax.sgd(0.1)
    init = lambda key: part.init(model, None, transform, key, ema_decay=0.0)
    return jax.eval_shape(init, jax.random.key(0)).params


@pytest.mark.parametrize("target", ["linear", "gumbel", "classifier"])
def test_only_matrices_are_decayed(target):
    """conformer_jax/fields.py: 'decoupled, on matrices only (no bias, norm or embedding)'."""
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


# Depth 3, 2, 1, 0 of an encoder of two blocks.
LAYERED = {
    "encoder": {
        "stack": {"kernel": jnp.full((2, 2), 3.0)},
        "block_0": {"attention": {"kernel": jnp.full((2, 2), 2.0)}},
        "block_1": {"attention": {"kernel": jnp.full((2, 2), -1.0)}},
    },
    "head": {"kernel": jnp.full((2, 2), 0.5)},
}
GRADIENT = jax.tree.map(lambda p: jnp.asarray([[1.0, -2.0], [0.1, 5.0]]), LAYERED)


def moved(steps, **changes):
    """How far each leaf of LAYERED goes, in the order stack, block_0, block_1, head; 10 steps."""
    config = settings(clip_norm=0.0, weight_decay=0.3, learning_rate=0.01, **changes)
    transform, _ = optimizer.make_optimizer(config, 10, finetune.depth)
    after = run(transform, LAYERED, GRADIENT, steps)
    change = jax.tree.map(lambda a, b: np.asarray(a - b), after, LAYERED)
    encoder = change["encoder"]
    names = ("block_0", "block_1")
    blocks = [encoder[name]["attention"]["kernel"] for name in names]
    return [encoder["stack"]["kernel"], *blocks, change["head"]["kernel"]]


def test_deeper_layers_and_the_head_have_their_own_learning_rates():
    """At the first step that moves anything, weight decay included, as much less."""
    plain = moved(2)
    scaled = moved(2, layer_decay=0.5, head_multiplier=10.0)
    for a, b, factor in zip(scaled, plain, (0.125, 0.25, 0.5, 10.0), strict=True):
        assert np.abs(b).min() > 1e-4
        np.testing.assert_allclose(a, factor * b, rtol=2e-3)


def test_a_frozen_encoder_begins_to_move_when_it_should():
    *encoder, head = moved(4, freeze_encoder_share=0.4)
    assert not np.any(encoder)  # by weight decay neither
    np.testing.assert_array_equal(head, moved(4)[-1])
    *encoder, _ = moved(5, freeze_encoder_share=0.4)
    assert all((part != 0).all() for part in encoder)
    *encoder, _ = moved(10, freeze_encoder_share=1.0)
    assert not np.any(encoder)


def test_depth_counts_from_the_head_to_the_input():
    depth = finetune.depth(shapes_of("classifier"))
    assert set(jax.tree.leaves(depth["head"])) == {0}
    encoder = {name: set(jax.tree.leaves(part)) for name, part in depth["encoder"].items()}
    first = {"stack": {3}, "token_norm": {3}, "projection": {3}}
    assert encoder == first | {"block_0": {2}, "block_1": {1}}


def test_by_default_the_state_is_that_of_plain_adamw():
    """Two moments a parameter and two counts: as in checkpoints of before there was a depth."""
    transform, _ = optimizer.make_optimizer(settings(), 9, finetune.depth)
    leaves = jax.tree.leaves(jax.eval_shape(transform.init, LAYERED))
    assert len(leaves) == 2 * len(jax.tree.leaves(LAYERED)) + 2


def test_pretraining_has_no_layers_to_tell_apart():
    with pytest.raises(ValueError, match=r"config\.optimizer: layer_decay: for fine-tuning only"):
        optimizer.make_optimizer(settings(layer_decay=0.9), 10)


def test_the_state_has_the_form_of_optax_so_that_older_checkpoints_resume():
    config = settings(clip_norm=1.0)
    transform, schedule = optimizer.make_optimizer(config, 10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    decayed = {"kernel": True, "bias": False}
    of_optax = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, mask=decayed))
    assert jax.tree.structure(transform.init(params)) == jax.tree.structure(of_optax.init(params))
