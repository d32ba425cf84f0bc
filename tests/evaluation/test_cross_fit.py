"""Labelled clips that tell each other."""

import numpy as np
import pytest

from conformer_jax.evaluation import cross_fit

RNG = np.random.default_rng(0)


def accuracy(x, labels, groups=None, neighbors=5):
    groups = np.arange(len(x)) if groups is None else groups
    return cross_fit.neighbors_accuracy(x, labels, groups, neighbors=neighbors, temperature=0.1)


def test_clips_are_told_where_classes_lie_apart_and_guessed_where_not():
    labels = np.arange(200) % 4
    x = RNG.standard_normal((4, 8))[labels] * 5 + RNG.standard_normal((200, 8))
    assert accuracy(x, labels) > 0.98
    assert accuracy(RNG.standard_normal((200, 8)), labels) == pytest.approx(0.25, abs=0.1)


def test_no_clip_is_told_by_its_own_group():
    """Every group is a point far from all others: its own clips alone would tell its label."""
    groups = np.repeat(np.arange(50), 4)
    labels = RNG.integers(0, 5, 50)[groups]
    x = 10 * RNG.standard_normal((50, 8))[groups] + 0.01 * RNG.standard_normal((200, 8))
    assert accuracy(x, labels, groups) < 0.5
    assert accuracy(x, labels) > 0.98


def test_what_has_no_answer_is_none():
    x, labels = RNG.standard_normal((20, 4)), np.arange(20) % 2
    assert np.isnan(accuracy(x, labels, np.zeros(20)))
    x[3, 1] = np.nan
    assert np.isnan(accuracy(x, labels))
