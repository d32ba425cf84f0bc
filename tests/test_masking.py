"""Spans, gathered positions and distractors: their contracts over many keys and lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models import masking

PROBABILITY, LENGTH = 0.3, 3


@functools.partial(jax.jit, static_argnames=("probability", "length"))
def masks(key, valid, probability=PROBABILITY, length=LENGTH):
    draw = lambda k: masking.span_mask(k, valid, probability=probability, length=length)
    return jax.vmap(draw)(jax.random.split(key, 200))


def valid_of(lengths, size):
    return jnp.arange(size) < jnp.asarray(lengths)[:, None]


def test_masked_tokens_are_valid_and_whole_spans():
    valid = valid_of([60, 31, 10, 4, 3, 1, 0], 60)
    drawn = np.asarray(masks(jax.random.key(0), valid))
    assert not (drawn & ~np.asarray(valid)).any()
    assert (drawn[:, :4].sum(-1) >= LENGTH).all()  # at least one span where there is room
    edges = np.diff(np.pad(drawn, ((0, 0), (0, 0), (1, 1))).astype(int), axis=-1)
    starts, ends = np.nonzero(edges == 1)[-1], np.nonzero(edges == -1)[-1]
    assert (ends - starts).min() == LENGTH
    reached = drawn[:, 0].any(0)
    assert reached[[0, 1, 30, 58, 59]].all()  # no token is out of reach


def test_a_clip_of_one_span_or_less_is_left_whole():
    drawn = np.asarray(masks(jax.random.key(1), valid_of([0, 1, 2, 3, 4], 8)))
    assert not drawn[:, :4].any()
    assert (drawn[:, 4].sum(-1) == LENGTH).all()


def test_the_share_of_masked_tokens_is_27_percent():
    valid = valid_of([250, 125, 250, 100], 250)
    drawn = np.asarray(masks(jax.random.key(2), valid))
    share = drawn.sum((0, 2)) / (200 * np.asarray(valid).sum(-1))
    np.testing.assert_allclose(share, 1 - (1 - 0.3 / 3) ** 3, atol=0.01)


@pytest.mark.parametrize(("probability", "length"), [(0.3, 3), (0.65, 10), (0.9, 2), (1.0, 5)])
@pytest.mark.parametrize("size", [1, 3, 4, 11, 25, 64])
def test_never_more_than_max_masked(size, probability, length):
    valid = valid_of(sorted({size, size - 1, size // 2, min(length + 1, size)}), size)
    drawn = np.asarray(masks(jax.random.key(size), valid, probability, length))
    bound = masking.max_masked(size, probability=probability, length=length)
    assert drawn.sum(-1).max() <= bound <= size


def test_spans_are_rounded_up_or_down_at_random():
    """10.5 spans: without overlap, 30 or 33 tokens; the mean number of spans is 10.5."""
    drawn = np.asarray(masks(jax.random.key(3), valid_of([105], 105), 0.1, 1))
    counts = drawn.sum(-1)
    assert set(np.unique(counts)) == {10, 11}
    assert 10.3 < counts.mean() < 10.7


def test_keys_and_clips_draw_different_masks():
    drawn = np.asarray(masks(jax.random.key(4), valid_of([60, 60], 60)))
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[:, 0] != drawn[:, 1]).any(-1).mean() > 0.95
    again = np.asarray(masks(jax.random.key(4), valid_of([60, 60], 60)))
    np.testing.assert_array_equal(drawn, again)


def test_positions_gather_the_masked_tokens_in_order():
    masked = np.random.default_rng(0).random((50, 20)) < 0.3
    masked[0], masked[1] = False, True
    positions, weights = masking.masked_positions(jnp.asarray(masked), 20)
    assert positions.shape == weights.shape == (50, 20)
    for row, position, weight in zip(masked, positions, weights, strict=True):
        expected = np.flatnonzero(row)
        np.testing.assert_array_equal(position[: len(expected)], expected)
        np.testing.assert_array_equal(weight, np.arange(20) < len(expected))


def test_positions_have_the_asked_size():
    masked = jnp.asarray([[False, True, True, False, True]])
    positions, weights = masking.masked_positions(masked, 4)
    np.testing.assert_array_equal(positions[0, :3], [1, 2, 4])
    np.testing.assert_array_equal(weights[0], [1, 1, 1, 0])


def test_distractors_are_other_masked_tokens_of_the_clip():
    num_masked = jnp.asarray([12, 7, 2, 12])
    index = np.asarray(
        masking.sample_negatives(
            jax.random.key(0), num_masked, num_positions=12, num_distractors=300
        )
    )
    assert index.shape == (4, 12, 300)
    for clip, count in enumerate([12, 7, 2, 12]):
        for position in range(count):
            others = set(range(count)) - {position}
            assert set(index[clip, position].tolist()) == others  # all of them, nothing else
        assert index[clip].min() >= 0
        assert index[clip].max() < count
    assert (index[0] != index[3]).any()


def test_distractors_are_drawn_evenly():
    index = masking.sample_negatives(
        jax.random.key(1), jnp.asarray([5]), num_positions=5, num_distractors=4000
    )
    share = np.bincount(np.asarray(index[0, 2]), minlength=5) / 4000
    np.testing.assert_allclose(share, [0.25, 0.25, 0, 0.25, 0.25], atol=0.03)


def test_a_clip_without_another_masked_token_points_at_itself():
    index = masking.sample_negatives(
        jax.random.key(2), jnp.asarray([0, 1]), num_positions=6, num_distractors=9
    )
    assert not np.asarray(index).any()
