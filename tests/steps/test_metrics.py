"""Metrics: (sum, count) pairs, and whole-set figures against scikit-learn."""

import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    roc_auc_score,
)

from conformer_jax.steps import metrics


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


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_equals_scikit_learn_ties_included(levels):
    rng = np.random.default_rng(levels)
    for n in (2, 17, 60):
        scores = (rng.integers(0, levels, (n, 8)) / levels - 0.5).astype(np.float32)
        labels = rng.random((n, 8)) < 0.3
        labels[:2] = [[True], [False]]  # every class has both
        expected = [roc_auc_score(labels[:, c], scores[:, c]) for c in range(8)]
        np.testing.assert_allclose(metrics.auc(scores, labels), expected, rtol=1e-9)
        np.testing.assert_allclose(
            metrics.mean_auc(scores, labels), roc_auc_score(labels, scores, average="macro")
        )


def test_a_class_without_positives_or_without_negatives_has_no_auc():
    scores = np.array([[0.9, 0.3, 0.5, 0.2], [0.1, 0.6, 0.4, 0.7]])
    labels = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    np.testing.assert_array_equal(metrics.auc(scores, labels), [1, np.nan, np.nan, 0])
    assert metrics.mean_auc(scores, labels) == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metrics.mean_auc(scores, np.ones_like(labels)))
        assert math.isnan(metrics.mean_average_precision(scores, np.zeros_like(labels)))


def test_d_prime_is_the_distance_of_two_unit_normals():
    for distance in (-1.5, 0.0, 0.3, 2.0):
        area = 0.5 * (1 + math.erf(distance / 2))  # P(N(distance, 1) > N(0, 1))
        assert metrics.d_prime(area) == pytest.approx(distance, abs=1e-12)
    assert (metrics.d_prime(0.0), metrics.d_prime(1.0)) == (-math.inf, math.inf)
    assert math.isnan(metrics.d_prime(math.nan))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.d_prime(1.01)


def published_lwlrap(scores, labels):
    """Fonseca et al. (2019): the mean of Prec(s, c) over all labels c of all clips s; of equal
    scores all rank last."""
    precisions = []
    for row, present in zip(scores, labels, strict=True):
        for c in np.flatnonzero(present):
            rank = sum(score >= row[c] for score in row)
            hits = sum(score >= row[c] for score in row[present > 0])
            precisions.append((c, hits / rank))
    return precisions


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("block", [1, 50, 2**18])
def test_lwlrap_is_the_published_formula(levels, block, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK", block)
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (40, 7)) / levels
    labels = (rng.random((40, 7)) < 0.3).astype(np.float32)
    labels[:, 4], labels[3], labels[5, :4] = 0, 0, 1  # no such class, no label, many labels
    expected = published_lwlrap(scores, labels)
    overall = metrics.lwlrap(scores, labels)
    np.testing.assert_allclose(overall, np.mean([value for _, value in expected]))
    weighted = label_ranking_average_precision_score(labels, scores, sample_weight=labels.sum(1))
    np.testing.assert_allclose(overall, weighted)
    each, weights = metrics.lwlrap_per_class(scores, labels)
    for c in range(7):
        of_class = [value for k, value in expected if k == c]
        assert weights[c] == pytest.approx(len(of_class) / len(expected))
        np.testing.assert_allclose(each[c], np.mean(of_class) if of_class else np.nan)


def test_lwlrap_of_one_label_a_clip_is_the_mean_reciprocal_rank():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    assert metrics.lwlrap(scores, np.eye(3)) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_the_whole_set_says_what_the_field_reports():
    rng = np.random.default_rng(2)
    labels = (rng.random((200, 6)) < 0.3).astype(np.float32)
    scores = labels + rng.normal(size=labels.shape)
    several = metrics.whole_set(scores, labels, multi_label=True)
    area = metrics.mean_auc(scores, labels)
    assert several == {
        "accuracy": metrics.accuracy(scores, labels),
        "mAP": metrics.mean_average_precision(scores, labels),
        "AUC": area,
        "d_prime": metrics.d_prime(area),
        "lwlrap": metrics.lwlrap(scores, labels),
        **metrics.chance(labels),
    }
    one = metrics.whole_set(scores, np.eye(6)[labels.argmax(1)], multi_label=False)
    assert one.keys() == {"accuracy", "mAP", "chance_accuracy", "chance_mAP"}


def test_the_whole_set_leaves_out_what_is_not_defined():
    def figures(scores, labels):
        found = metrics.whole_set(np.array(scores), np.array(labels), multi_label=True)
        json.dumps(found, allow_nan=False)
        return found.keys() - {"accuracy", "mAP", "lwlrap", "chance_accuracy", "chance_mAP"}

    assert figures([[0.3, 0.1], [0.1, 0.3], [0.1, 0.2]], [[1, 0], [0, 1], [1, 0]]) == {
        "AUC",
        "d_prime",
    }
    assert figures([[0.3, 0.1], [0.1, 0.3]], [[1, 0], [0, 1]]) == {"AUC"}  # of 1: d' is infinite
    assert figures([[0.3, 0.1]], [[1, 0]]) == set()  # a single clip
    with pytest.raises(ValueError, match="none of the 2 clips has a label"):
        figures([[0.3, 0.1], [0.1, 0.3]], [[0, 0], [0, 0]])


def bootstrap_of_accuracy(scores, labels, **settings):
    return metrics.bootstrap(metrics.accuracy, scores, labels, **{"seed": 0, **settings})


METRICS = (
    metrics.accuracy,
    metrics.average_precision,
    metrics.auc,
    metrics.lwlrap,
    metrics.figures,
    bootstrap_of_accuracy,
)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_scores_that_are_not_finite_are_refused(metric, bad):
    with pytest.raises(ValueError, match="diverged"):
        metric(np.array([[0.1, bad], [0.2, 0.3]]), np.eye(2))


@pytest.mark.parametrize("bad", [np.nan, 0.5, 2, -1])
@pytest.mark.parametrize("metric", METRICS)
def test_labels_other_than_0_and_1_are_refused(metric, bad):
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        metric(np.array([[0.1, 0.4], [0.2, 0.3]]), np.array([[1, 0], [0, bad]]))


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


@pytest.mark.parametrize(("clips", "positives"), [(1, 1), (4, 1), (4, 4), (30, 1), (30, 7)])
def test_chance_of_few_positives_is_what_random_scores_get(clips, positives):
    """Not their share: one positive among 30 clips is 0.033, and random scores get 0.133."""
    labels = np.zeros((clips, 2), bool)
    labels[:positives, 0] = True
    rng = np.random.default_rng(clips)
    drawn = [metrics.mean_average_precision(rng.random(labels.shape), labels) for _ in range(4000)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(metrics.chance(labels)["chance_mAP"] - np.mean(drawn)) <= 4 * error + 1e-12


def one_in(share, clips, seed):
    """Scores and labels of `clips` clips, each right with probability `share`."""
    right = np.random.default_rng(seed).random(clips) < share
    return np.stack([right, ~right], 1).astype(np.float32), np.tile([1, 0], (clips, 1))


def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says():
    inside, widths = [], []
    for seed in range(60):
        scores, labels = one_in(0.7, 100, seed)
        low, high = bootstrap_of_accuracy(scores, labels, resamples=200, seed=seed)
        inside.append(low <= 0.7 <= high)
        widths.append(high - low)
    assert 0.85 <= np.mean(inside) <= 0.99
    np.testing.assert_allclose(np.mean(widths), 2 * 1.96 * np.sqrt(0.7 * 0.3 / 100), rtol=0.1)


def test_the_bootstrap_follows_its_seed_and_narrows_with_clips_and_confidence():
    scores, labels = one_in(0.7, 100, 1)
    bounds = bootstrap_of_accuracy(scores, labels, resamples=300)
    assert bounds == bootstrap_of_accuracy(scores, labels, resamples=300)
    assert bounds != bootstrap_of_accuracy(scores, labels, resamples=300, seed=1)
    width = lambda bounds: bounds[1] - bounds[0]
    narrow = bootstrap_of_accuracy(scores, labels, resamples=300, confidence=0.5)
    assert width(narrow) < 0.5 * width(bounds)
    many = bootstrap_of_accuracy(*one_in(0.7, 1600, 1), resamples=300)
    np.testing.assert_allclose(width(bounds) / width(many), 4, rtol=0.2)


def test_the_bootstrap_of_several_figures_at_once_some_infinite_some_undefined():
    rng = np.random.default_rng(0)
    labels = np.eye(3)[[0] * 9 + [1] * 9 + [0]]  # nothing of class 2
    scores = 2 * labels + rng.normal(size=labels.shape)
    first = lambda *sets: metrics.auc(*sets)[0]
    both = lambda *sets: [*metrics.auc(*sets), metrics.d_prime(first(*sets))]
    low, high = metrics.bootstrap(both, scores, labels, resamples=200, seed=0)
    alone = metrics.bootstrap(first, scores, labels, resamples=200, seed=0)
    assert (low[0], high[0]) == alone
    assert np.isnan([low[2], high[2]]).all()
    assert high[0] == 1
    assert high[3] == np.inf
    assert low[3] == metrics.d_prime(low[0])
    # A class of one clip is missing from a third of the resamples, which then have no part.
    labels = np.eye(2)[[0] * 9 + [1]]
    low, high = metrics.bootstrap(
        metrics.average_precision, labels + 0.1, labels, resamples=100, seed=0
    )
    np.testing.assert_array_equal([low, high], 1)


@pytest.mark.parametrize("settings", [{"resamples": 0}, {"confidence": 1.0}, {"confidence": 0}])
def test_a_bootstrap_of_nothing_is_refused(settings):
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_of_accuracy(*one_in(0.5, 10, 0), **settings)


def test_a_sum_of_an_earlier_version_is_added_to():
    """Without a metric that has come since, and with one that is gone."""
    total = {"loss": (jnp.float32(3), jnp.float32(2)), "gone": (jnp.float32(1), jnp.float32(1))}
    pairs = {"loss": (jnp.float32(1), jnp.float32(2)), "new": (jnp.float32(5), jnp.float32(2))}
    assert metrics.means(metrics.add(total, pairs)) == {"loss": 1.0, "new": 2.5}
