"""Metrics: (sum, count) pairs, and whole-set figures against scikit-learn."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from conformer_jax import metrics


def test_weighted_leaves_out_padding_even_where_it_is_not_finite():
    values = jnp.asarray([1.0, np.nan, 3.0, -np.inf])
    weights = jnp.asarray([1.0, 0.0, 0.5, 0.0])
    total, count = metrics.weighted(values, weights)
    assert (float(total), float(count)) == (2.5, 1.5)


def test_the_gradient_of_a_weighted_sum_ignores_padding():
    loss = lambda x: metrics.weighted(x, jnp.asarray([1.0, 0.0, 2.0]))[0]
    np.testing.assert_array_equal(jax.grad(loss)(jnp.asarray([1.0, np.nan, 1.0])), [1, 0, 2])


def test_pairs_add_up_to_the_mean_over_everything():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(5, 7)), (rng.random((5, 7)) < 0.6).astype(np.float32)
    total = None
    for row, weight in zip(values, weights, strict=True):
        pair = {"loss": metrics.weighted(jnp.asarray(row), jnp.asarray(weight))}
        total = metrics.add(total, pair | {"norm": metrics.single(row[0])})
    means = metrics.means(total)
    np.testing.assert_allclose(means["loss"], (values * weights).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(means["norm"], values[:, 0].mean(), rtol=1e-5)
    assert isinstance(means["loss"], float)


def test_means_of_nothing_and_of_arrays():
    means = metrics.means(
        {"none": (jnp.zeros(()), jnp.zeros(())), "use": (jnp.asarray([2.0, 6.0]), jnp.asarray(4.0))}
    )
    assert means["none"] == 0.0
    np.testing.assert_allclose(means["use"], [0.5, 1.5])


def test_accuracy_takes_any_of_the_labels():
    scores = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]])
    labels = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0]])
    assert metrics.accuracy(scores, labels) == 0.5


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_equals_scikit_learn_ties_included(levels):
    rng = np.random.default_rng(levels)
    for n in (1, 2, 17, 60):
        scores = rng.integers(0, levels, (n, 8)) / levels - 0.5
        labels = (rng.random((n, 8)) < 0.3).astype(np.float32)
        labels[0] = 1  # every class has a positive
        expected = [average_precision_score(labels[:, c], scores[:, c]) for c in range(8)]
        np.testing.assert_allclose(metrics.average_precision(scores, labels), expected, rtol=1e-9)
        np.testing.assert_allclose(
            metrics.mean_average_precision(scores, labels),
            average_precision_score(labels, scores, average="macro"),
            rtol=1e-9,
        )


def test_the_order_of_the_clips_does_not_matter():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 4, (30, 3)).astype(float), rng.integers(0, 2, (30, 3))
    order = rng.permutation(30)
    np.testing.assert_allclose(
        metrics.average_precision(scores, labels),
        metrics.average_precision(scores[order], labels[order]),
    )


def test_a_class_without_positives_is_left_out_of_the_macro_mean():
    scores = np.array([[0.9, 0.3, 0.5], [0.1, 0.6, 0.4], [0.8, 0.2, 0.3]])
    labels = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    each = metrics.average_precision(scores, labels)
    np.testing.assert_allclose(each, [1.0, np.nan, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(metrics.mean_average_precision(scores, labels), 0.75)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.average_precision])
def test_scores_that_are_not_finite_are_refused(metric, bad):
    with pytest.raises(ValueError, match="diverged"):
        metric(np.array([[0.1, bad], [0.2, 0.3]]), np.eye(2))


def test_shapes_that_differ_and_empty_sets_are_refused():
    with pytest.raises(ValueError, match="same"):
        metrics.accuracy(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="same"):
        metrics.average_precision(np.zeros((0, 2)), np.zeros((0, 2)))


def test_chance_is_what_guessing_scores():
    rng = np.random.default_rng(3)
    labels = (rng.random((2000, 4)) < [0.5, 0.2, 0.1, 0.0]).astype(np.float32)
    labels[:, 3] = 0  # a class without positives has no part in the mAP
    chance = metrics.chance(labels)
    constant = [metrics.accuracy(np.tile(np.eye(4)[c], (2000, 1)), labels) for c in range(4)]
    np.testing.assert_allclose(chance["chance_accuracy"], max(constant), rtol=1e-5)
    random = metrics.mean_average_precision(rng.random(labels.shape), labels)
    np.testing.assert_allclose(chance["chance_mAP"], random, atol=0.02)
