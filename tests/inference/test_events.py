"""From probabilities to events."""

import numpy as np
import pytest

from conformer_jax.evaluation import thresholds
from conformer_jax.inference import events


def find(p, **rules):
    p = np.atleast_2d(np.asarray(p, float).T).T
    limits = np.full(p.shape[1], 0.5)
    found = events.find(p, np.arange(len(p) + 1.0), events.Rules(limits, **rules))
    return [(e.start, e.end, e.label) for e in found]


def test_an_event_lasts_as_long_as_its_threshold_holds_and_releases_later():
    p = [0.1, 0.3, 0.6, 0.3, 0.1, 0.3, 0.1, 0.5]
    assert find(p, release=1.0) == [(2, 3, 0), (7, 8, 0)]
    assert find(p, release=0.5) == [(1, 4, 0), (7, 8, 0)]
    assert find(p, release=1.0, merge_s=4) == [(2, 8, 0)]
    assert find(p, release=1.0, merge_s=3.9) == [(2, 3, 0), (7, 8, 0)]
    assert find(p, release=0.5, min_s=2) == [(1, 4, 0)]
    assert find(p, release=1.0, merge_s=4, min_s=6) == [(2, 8, 0)]  # merged before they are judged
    assert find([0.1, 0.2]) == []


def test_of_one_label_at_a_time_the_likeliest_counts():
    p = [[0.9, 0.6], [0.6, 0.9]]
    assert find(p) == [(0, 2, 0), (0, 2, 1)]
    assert find(p, single=True) == [(0, 1, 0), (1, 2, 1)]


def test_of_one_label_at_a_time_none_is_merged_over_another():
    dog, cat, nothing = [0.9, 0.1], [0.1, 0.9], [0.1, 0.2]
    assert find([dog, nothing, dog], single=True, merge_s=1) == [(0, 3, 0)]
    assert find([dog, cat, dog], single=True, merge_s=1) == [(0, 1, 0), (1, 2, 1), (2, 3, 0)]
    assert find([dog, cat, dog], merge_s=1) == [(0, 3, 0), (1, 2, 1)]
    p = [dog, dog, cat, dog, dog]  # an event that is dropped is no obstacle
    assert find(p, single=True, merge_s=1, min_s=2) == [(0, 5, 0)]
    rules = events.Rules(np.array([0.5, np.inf]), merge_s=1, single=True)  # without the cat
    (event,) = events.find(np.array([dog, cat, dog]), np.arange(4.0), rules)
    assert (event.start, event.end, event.label) == (0, 3, 0)


def test_overlapping_windows_are_averaged_where_they_overlap():
    p = np.array([[0.0], [1.0], [0.5]])
    mean, bounds = events.average(p, np.array([0.0, 2, 3]), np.array([4.0, 6, 7]))
    assert bounds.tolist() == [0, 2, 3, 4, 6, 7]
    np.testing.assert_allclose(mean[:, 0], [0, 0.5, 0.5, 0.75, 0.5], atol=1e-6)
    alone, bounds = events.average(p[:1], np.array([0.0]), np.array([0.2]))
    assert bounds.tolist() == [0, 0.2]
    assert alone.tolist() == [[0.0]]


def test_the_likeliest_labels_of_every_stretch():
    found = events.likeliest([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]], np.array([0.0, 1, 2]), 2)
    assert [(e.start, e.label) for e in found] == [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert len(events.likeliest([[0.1, 0.9]], np.array([0.0, 1]), 5)) == 2


def test_a_threshold_separates_best():
    p = np.array([[0.9, 0.1, 0.3], [0.8, 0.1, 0.3], [0.3, 0.1, 0.3], [0.1, 0.1, 0.3]])
    y = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    chosen = thresholds.choose(p, y)
    assert chosen[:2] == pytest.approx([0.55, 0.5])
    assert chosen[2] <= 0.3  # equal ones cannot be separated
