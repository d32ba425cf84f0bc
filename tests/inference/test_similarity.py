"""Nearest, farthest, two dimensions: against the same in a line of numpy."""

import numpy as np
import pytest

from conformer_jax.inference import similarity

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(similarity, "_BLOCK", 100)


def units(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def test_the_nearest_are_those_of_the_largest_cosine_of_all():
    vectors = RNG.normal(size=(101, 6)).astype(np.float32) * RNG.uniform(0.1, 9, size=(101, 1))
    vectors[7] = 0
    query = RNG.normal(size=6)
    cosines = units(vectors) @ units(query)
    found = similarity.nearest(vectors, query, 5)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines)[:5])
    np.testing.assert_allclose(found.similarity, np.sort(cosines)[:-6:-1], atol=1e-6)
    without = similarity.nearest(vectors, query, 200, left_out=found.rows[:2])
    assert len(without.rows) == 99
    assert without.rows[0] == found.rows[2]
    assert not len(similarity.nearest(vectors[:1], query, 3, left_out=[0]).rows)


def test_what_to_label_is_spread_unlike_the_labelled_and_uncertain():
    centres = np.eye(4, 6)
    vectors = np.repeat(centres, 25, axis=0) + 0.02 * RNG.normal(size=(100, 6))
    group = np.repeat(np.arange(4), 25)
    sure = np.zeros(100)
    assert sorted(group[similarity.spread(vectors, sure, 4)]) == [0, 1, 2, 3]
    picked = similarity.spread(vectors, sure, 3, labelled=vectors[group == 2][:5])
    assert sorted(group[picked]) == [0, 1, 3]
    unsure = np.where(np.arange(100) % 25 == 3, 1.0, 0.0)  # one of each group
    assert sorted(similarity.spread(vectors, unsure, 4)) == [3, 28, 53, 78]
    everything = similarity.spread(vectors[:9], sure[:9], 50)
    assert sorted(everything) == list(range(9))


def test_uncertainty_is_none_of_what_is_certain_and_all_of_a_toss():
    of_one = similarity.uncertainty([[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], single=True)
    np.testing.assert_allclose(of_one, [0, 1, np.log(2) / np.log(3)], atol=1e-9)
    several = similarity.uncertainty([[1, 0], [0.5, 0.99], [0.9, 0.1]], single=False)
    np.testing.assert_allclose(several, [0, 1, 0.2])


def test_two_dimensions_are_the_principal_components():
    vectors = RNG.normal(size=(60, 5)) * [5, 3, 1, 0.5, 0.1]
    found = similarity.principal(vectors, np.arange(60))
    x = units(vectors) - units(vectors).mean(0)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(x @ axes[:2].T), atol=1e-6)
    wide = RNG.normal(size=(6, 40))
    found = similarity.principal(wide, np.arange(6))
    x = units(wide) - units(wide).mean(0)
    axes = np.linalg.eigh(x.T @ x)[1]
    np.testing.assert_allclose(np.abs(found), np.abs(x @ axes[:, :-3:-1]), atol=1e-6)
    assert similarity.principal(vectors[:1], [0]).shape == (1, 2)
    assert similarity.principal(vectors[:, :1], np.arange(60)).shape == (60, 2)


def test_a_long_list_is_thinned_evenly():
    np.testing.assert_array_equal(similarity.evenly(9, 5), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(similarity.evenly(3, 5), [0, 1, 2])
