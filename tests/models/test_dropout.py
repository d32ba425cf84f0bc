"""Dropout: the share it keeps, independence of its draws, and their place-by-place definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models.dropout import dropout, fold, keep_mask, seeds_of

SHAPE = (64, 96, 40)


def seeds(key, clips):
    return seeds_of(jax.random.split(key, clips))


def masks(keep, count=4):
    keys = jax.random.split(jax.random.key(3), count)
    return [np.asarray(keep_mask(seeds(key, SHAPE[0]), SHAPE, keep)) for key in keys]


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


def agreement(drawn):
    """Smallest and largest share of equal elements over all pairs."""
    agree = [(a == b).mean() for i, a in enumerate(drawn) for b in drawn[:i]]
    return min(agree), max(agree)


def test_keys_of_consecutive_steps_and_clips_draw_different_elements():
    root = jax.random.key(0)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(8))
    least, most = agreement(np.asarray(keep_mask(seeds_of(keys), (8, 1000), 0.5)))
    assert 0.4 < least <= most < 0.6


def test_every_use_draws_different_elements():
    """Two levels of numbering, as a block and its parts have."""
    root = seeds(jax.random.key(0), 1)
    drawn = [
        np.asarray(keep_mask(use, (1, 1000), 0.5))
        for i in range(4)
        for use in (fold(root, i), fold(fold(root, i), 0), fold(fold(root, i), 1))
    ]
    least, most = agreement(drawn)
    assert 0.4 < least <= most < 0.6
    assert fold(None, 3) is None


def test_a_clip_draws_the_same_in_another_batch():
    many = seeds(jax.random.key(1), 4)
    small, large = keep_mask(many[2:3], (1, 5, 7), 0.5), keep_mask(many, (4, 5, 7), 0.5)
    np.testing.assert_array_equal(small, large[2:3])


def test_the_kept_are_scaled_up_and_the_others_are_zero():
    x = jnp.full((200, 300), 2.0, jnp.bfloat16)
    out = dropout(x, seeds(jax.random.key(0), 200), 0.2)
    assert out.dtype == x.dtype
    kept = out != 0
    assert abs(float(kept.mean()) - 0.8) < 0.01
    np.testing.assert_allclose(out[kept].astype(np.float32), 2.5, rtol=0.01)


def test_nothing_is_dropped_without_seeds_or_at_rate_zero():
    x = jnp.ones((3, 4))
    assert dropout(x, None, 0.5) is x
    assert dropout(x, seeds(jax.random.key(0), 3), 0.0) is x
