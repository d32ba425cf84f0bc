"""TrainState: what a step changes, what a bad step may not change, the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from conformer_jax.steps import optimizer, state

PARAMS = {"kernel": jnp.asarray([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.asarray([0.1, 0.2])}
GRADS = {"kernel": jnp.asarray([[0.5, 1.0], [-1.0, 2.0]]), "bias": jnp.asarray([1.0, -1.0])}


SETTINGS = base.get_config().optimizer
SETTINGS.learning_rate = 0.1
TRANSFORM, _ = optimizer.make_optimizer(SETTINGS, 10)

FREEZING = base.get_config().optimizer
FREEZING.freeze_encoder_share = 0.4
TRANSFORMS = {
    "usual": TRANSFORM,
    "freezing": optimizer.make_optimizer(
        FREEZING, 10, depth=lambda params: jax.tree.map(lambda _: 1, params)
    )[0],
    "of one's own": optimizer.choosing(optax.adam(0.1)),
}


def make(ema_decay=0.0, transform=TRANSFORM):
    start = state.create(PARAMS, None, transform, None, ema_decay=ema_decay)
    # Past the schedule's first step, whose learning rate is 0.
    _, opt_state = transform.update(GRADS, start.opt_state, PARAMS)
    return start.replace(opt_state=opt_state)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_is_one_of_the_optimizer():
    start = make()
    after, norm, finite = start.apply_gradients(GRADS, jnp.asarray(1.0))
    updates, opt_state = TRANSFORM.update(GRADS, start.opt_state, PARAMS)
    same(after.params, optax.apply_updates(PARAMS, updates))
    assert (after.params["bias"] != PARAMS["bias"]).all()
    same(after.opt_state, opt_state)
    assert (int(after.step), int(after.skipped)) == (1, 0)
    assert after.step.dtype == after.skipped.dtype == jnp.int32
    assert finite
    np.testing.assert_allclose(norm, np.sqrt(0.25 + 1 + 1 + 4 + 1 + 1), rtol=1e-6)


BAD = {
    "nan_loss": (GRADS, np.nan),
    "infinite_loss": (GRADS, np.inf),
    "nan_gradient": (GRADS | {"bias": jnp.asarray([np.nan, 0.0])}, 1.0),
    "infinite_gradient": (GRADS | {"bias": jnp.asarray([0.0, -np.inf])}, 1.0),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", BAD)
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(case, transform):
    start, _, _ = make(transform=TRANSFORMS[transform]).apply_gradients(GRADS, jnp.asarray(1.0))
    after, _, finite = start.apply_gradients(BAD[case][0], jnp.asarray(BAD[case][1]))
    assert not finite
    same(after.params, start.params)
    same(after.opt_state, start.opt_state)
    assert (int(after.step), int(after.skipped)) == (2, 1)


def test_a_step_that_is_not_finite_does_not_move_the_average():
    start, _, _ = make(ema_decay=0.5).apply_gradients(GRADS, jnp.asarray(1.0))
    assert (start.ema["bias"] != start.params["bias"]).all()
    after, _, _ = start.apply_gradients(GRADS, jnp.asarray(np.nan))
    same(after.ema, start.ema)


def test_skipped_counts_bad_steps_in_a_row():
    now, counts = make(), []
    for loss in (np.nan, np.nan, 1.0, np.nan):
        now, _, _ = now.apply_gradients(GRADS, jnp.asarray(loss))
        counts.append(int(now.skipped))
    assert counts == [1, 2, 0, 1]
    assert int(now.step) == 4


def test_the_average_follows_its_formula():
    now, expected = make(ema_decay=0.9), PARAMS
    same(now.ema, PARAMS)
    for _ in range(3):
        now, _, _ = now.apply_gradients(GRADS, jnp.asarray(1.0))
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, expected, now.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), now.ema, expected)
    same(now.eval_params, now.ema)


def test_without_an_average_the_parameters_are_evaluated():
    now, _, _ = make().apply_gradients(GRADS, jnp.asarray(1.0))
    assert now.ema is None
    assert now.eval_params is now.params


def test_the_average_has_its_own_buffers():
    """Both trees are donated to the step: one buffer may not be in two places."""
    start = make(ema_decay=0.9)
    other = jax.tree.map(lambda p: p + 1, PARAMS)
    again = start.with_params(other)  # an encoder that a run begins with
    same((again.params, again.ema), (other, other))
    assert make().with_params(other).ema is None
    for now in (start, again):
        for a, b in zip(jax.tree.leaves(now.params), jax.tree.leaves(now.ema), strict=True):
            assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
