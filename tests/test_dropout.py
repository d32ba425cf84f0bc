"""Dropout: the share it keeps, independence of its draws, and their place-by-place definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models.dropout import Dropout, keep_mask

SHAPE = (64, 96, 40)


def masks(keep, count=4):
    keys = jax.random.split(jax.random.key(3), count)
    return [np.asarray(keep_mask(key, SHAPE, keep)) for key in keys]


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_kept(keep):
    deviation = np.sqrt(keep * (1 - keep) / np.prod(SHAPE))
    for mask in masks(keep):
        assert abs(mask.mean() - keep) <= 5 * deviation


def test_every_row_and_column_keeps_its_share():
    for mask in masks(0.5):
        for axis in range(3):
            size = mask.size / SHAPE[axis]
            share = mask.mean(tuple({0, 1, 2} - {axis}))
            assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(size)


def test_draws_of_neighbours_and_of_other_keys_do_not_correlate():
    first, second, *_ = masks(0.5)
    signs = np.where(first, 1.0, -1.0)
    bound = 5 / np.sqrt(first.size)
    assert abs((signs * np.where(second, 1.0, -1.0)).mean()) < bound
    for axis in range(3):
        for shift in (1, 2, 3, 4, 8, 16, 32):
            assert abs((signs * np.roll(signs, shift, axis)).mean()) < bound, (axis, shift)


def test_keys_of_consecutive_steps_draw_different_elements():
    root = jax.random.key(0)
    drawn = [np.asarray(keep_mask(jax.random.fold_in(root, i), (1000,), 0.5)) for i in range(8)]
    agree = [(a == b).mean() for i, a in enumerate(drawn) for b in drawn[:i]]
    assert 0.4 < min(agree) <= max(agree) < 0.6


def test_a_clip_draws_the_same_in_a_larger_batch():
    key = jax.random.key(1)
    small, large = keep_mask(key, (2, 5, 7), 0.5), keep_mask(key, (4, 5, 7), 0.5)
    np.testing.assert_array_equal(small, large[:2])


def test_the_kept_are_scaled_up_and_the_others_are_zero():
    x = jnp.full((200, 300), 2.0, jnp.bfloat16)
    out = Dropout(0.2).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert out.dtype == x.dtype
    kept = out != 0
    assert abs(float(kept.mean()) - 0.8) < 0.01
    np.testing.assert_allclose(out[kept].astype(np.float32), 2.5, rtol=0.01)


def test_nothing_is_dropped_or_drawn_outside_training():
    x = jnp.ones((3, 4))
    assert Dropout(0.5).apply({}, x, train=False) is x
    assert Dropout(0.0).apply({}, x, train=True) is x
