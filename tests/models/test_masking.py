"""Spans, gathered positions and distractors: their contracts over many keys and lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models import masking

PROBABILITY, LENGTH = 0.3, 3
SIZE = 64


@functools.partial(
    jax.jit,
    static_argnames=("size", "probability", "length"),
    compiler_options={"xla_backend_optimization_level": 0},
)
def drawn_masks(key, lengths, size, probability, length):
    valid = jnp.arange(size) < lengths[:, None]
    draw = lambda k: masking.span_mask(k, valid, probability=probability, length=length)
    return jax.vmap(draw)(jax.random.split(key, (200, len(lengths))))


def masks(seed, lengths, size=SIZE, probability=PROBABILITY, length=LENGTH):
    """200 draws for clips of these numbers of valid tokens: [200, B, size] bool."""
    key = jax.random.key(seed)
    return np.asarray(drawn_masks(key, np.array(lengths), size, probability, length))


def test_masked_tokens_are_valid_and_whole_spans():
    lengths = [64, 31, 10, 4]
    drawn = masks(0, lengths)
    assert not (drawn & (np.arange(SIZE) >= np.array(lengths)[:, None])).any()
    assert (drawn.sum(-1) >= LENGTH).all()  # at least one span where there is room
    for clip, n in enumerate(lengths):
        assert drawn[:, clip].any(0).sum() == n  # no token is out of reach
    rows = ("".join("x" if masked else " " for masked in row) for row in drawn.reshape(-1, SIZE))
    assert min(len(run) for row in rows for run in row.split()) == LENGTH


def test_a_clip_of_one_span_or_less_is_left_whole():
    assert not masks(1, [0, 1, 2, 3]).any()
    assert (masks(1, [4, 4, 4, 4]).sum(-1) == LENGTH).all()


def test_more_tokens_a_span_than_a_clip_has_leaves_it_whole():
    assert not masks(1, [2, 1], size=2, length=5).any()


def test_the_share_of_masked_tokens_is_27_percent():
    lengths = np.array([250, 100])
    share = masks(2, lengths, size=250).sum((0, 2)) / (200 * lengths)
    np.testing.assert_allclose(share, 1 - (1 - 0.3 / 3) ** 3, atol=0.01)


@pytest.mark.parametrize(("probability", "length"), [(0.3, 3), (0.65, 10), (0.9, 2), (1.0, 5)])
def test_never_more_than_max_masked(probability, length):
    most = masks(3, range(SIZE + 1), probability=probability, length=length).sum(-1).max(0)
    bounds = [masking.max_masked(n, probability=probability, length=length) for n in range(65)]
    assert (most <= bounds).all()
    assert max(bounds) <= SIZE
    assert most[-1] > 0.6 * probability * SIZE  # the bound is not idle


def test_spans_are_rounded_up_or_down_at_random():
    """3.2 spans of one token: 3 or 4, and 3.2 in the mean."""
    counts = masks(4, [SIZE] * 4, probability=0.05, length=1).sum(-1)
    assert set(np.unique(counts)) == {3, 4}
    np.testing.assert_allclose(counts.mean(), 3.2, atol=0.06)


def test_keys_and_clips_draw_different_masks():
    drawn = masks(5, [64, 64, 64, 64])
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[:, 0] != drawn[:, 1]).any(-1).mean() > 0.95
    np.testing.assert_array_equal(drawn, masks(5, [64, 64, 64, 64]))


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
            jax.random.split(jax.random.key(0), 4),
            num_masked,
            num_positions=12,
            num_distractors=300,
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
        jax.random.split(jax.random.key(1), 1),
        jnp.asarray([5]),
        num_positions=5,
        num_distractors=4000,
    )
    share = np.bincount(np.asarray(index[0, 2]), minlength=5) / 4000
    np.testing.assert_allclose(share, [0.25, 0.25, 0, 0.25, 0.25], atol=0.03)


def test_a_clip_without_another_masked_token_points_at_itself():
    index = masking.sample_negatives(
        jax.random.split(jax.random.key(2), 2),
        jnp.asarray([0, 1]),
        num_positions=6,
        num_distractors=9,
    )
    assert not np.asarray(index).any()
