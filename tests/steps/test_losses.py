"""Losses against transformers (tests/data/loss.npz), numpy and scikit-learn."""

import pathlib

import jax
import numpy as np
import pytest
from sklearn.metrics import log_loss

from conformer_jax.steps import losses

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "loss.npz"))


def test_contrastive_logits_equal_transformers():
    """The negatives are appended as further positions and pointed at."""
    target, negatives = GOLDEN["target"][0], GOLDEN["negatives"]
    count, batch, tokens, width = negatives.shape
    appended = negatives.transpose(1, 0, 2, 3).reshape(batch, count * tokens, width)
    targets = np.concatenate([target, appended], axis=1)
    predicted = np.concatenate([GOLDEN["predicted"], np.ones_like(appended)], axis=1)
    index = tokens + np.arange(count) * tokens + np.arange(tokens)[:, None]
    index = np.concatenate([index, np.zeros((count * tokens, count), int)])
    logits = losses.contrastive_logits(
        predicted,
        targets,
        np.broadcast_to(index, (batch, *index.shape)),
        temperature=float(GOLDEN["temperature"]),
    )
    actual = np.asarray(logits)[:, :tokens].transpose(2, 0, 1)
    np.testing.assert_allclose(actual, GOLDEN["logits"], atol=1e-4, rtol=0)
    assert np.isneginf(actual).sum() == 1  # the distractor that equals its target


def plain_contrastive(predicted, targets, negatives, temperature):
    """Equation 3 of wav2vec 2.0, one position after the other."""
    batch, size, count = negatives.shape
    loss, correct = np.zeros((batch, size)), np.zeros((batch, size), bool)
    usable = np.zeros((batch, size), bool)
    cosine = lambda a, b: a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    for b in range(batch):
        for m in range(size):
            positive = cosine(predicted[b, m], targets[b, m]) / temperature
            others = [
                cosine(predicted[b, m], targets[b, negatives[b, m, k]]) / temperature
                for k in range(count)
                if (targets[b, negatives[b, m, k]] != targets[b, m]).any()
            ]
            loss[b, m] = -np.log(np.exp(positive) / np.exp([positive, *others]).sum())
            usable[b, m] = bool(others)
            correct[b, m] = all(positive > other for other in others)
    return loss, correct, usable


def example(seed=0, batch=2, size=6, count=4, width=5):
    rng = np.random.default_rng(seed)
    predicted, targets = rng.standard_normal((2, batch, size, width)).astype(np.float32)
    return predicted, targets, rng.integers(0, size, (batch, size, count))


def test_contrastive_loss_equals_the_equation():
    predicted, targets, negatives = example()
    targets[1, 2] = targets[1, 4]  # equal targets at two positions
    negatives[0, 3] = 3  # every distractor is the target itself
    logits = losses.contrastive_logits(predicted, targets, negatives, temperature=0.2)
    assert logits.dtype == np.float32
    loss, correct, usable = losses.contrastive(logits)
    expected = plain_contrastive(predicted.astype(np.float64), targets, negatives, 0.2)
    np.testing.assert_allclose(loss, expected[0], atol=1e-5)
    np.testing.assert_array_equal(usable, expected[2])
    assert not usable[0, 3]
    assert usable.sum() == usable.size - 1
    np.testing.assert_array_equal(np.asarray(correct)[usable], expected[1][expected[2]])


def test_where_all_targets_are_equal_nothing_is_usable_and_gradients_stay_finite():
    predicted, targets, negatives = example(1)
    targets[:] = targets[0, 0]

    def total(predicted, targets):
        logits = losses.contrastive_logits(predicted, targets, negatives, temperature=0.1)
        loss, _, usable = losses.contrastive(logits)
        return (loss * usable).sum(), usable

    gradients, usable = jax.grad(total, argnums=(0, 1), has_aux=True)(predicted, targets)
    assert not usable.any()
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_zero_vectors_are_no_nan():
    predicted, targets, negatives = example(2)
    predicted[:], targets[0] = 0, 0

    def total(predicted, targets):
        logits = losses.contrastive_logits(predicted, targets, negatives, temperature=0.1)
        return losses.contrastive(logits)[0].sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(predicted, targets)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_tie_with_a_distractor_is_not_correct():
    logits = np.array([[[1.0, 1.0, 0.0], [1.0, 0.5, 0.9], [0.5, 0.9, 0.0]]], np.float32)
    _, correct, usable = losses.contrastive(logits)
    np.testing.assert_array_equal(correct, [[False, True, False]])
    assert usable.all()


def test_bfloat16_inputs_are_compared_in_float32():
    predicted, targets, negatives = example(3)
    low = [jax.numpy.asarray(x, jax.numpy.bfloat16) for x in (predicted, targets)]
    logits = losses.contrastive_logits(*low, negatives, temperature=0.1)
    same = losses.contrastive_logits(
        *(np.asarray(x, np.float32) for x in low), negatives, temperature=0.1
    )
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, same)


@pytest.mark.parametrize(
    ("perplexity", "expected"), [([8.0, 8.0], 0.0), ([1.0, 1.0], 1 - 1 / 8), ([8.0, 4.0], 0.25)]
)
def test_diversity_is_the_idle_share_of_the_codebook(perplexity, expected):
    np.testing.assert_allclose(losses.diversity(np.array(perplexity), 8), expected)


def test_cross_entropy_equals_scikit_learn():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(0, 3, (20, 6)).astype(np.float32), rng.integers(0, 6, 20)
    loss = losses.cross_entropy(logits, np.eye(6)[classes])
    assert loss.shape == (20,)
    odds = np.exp(logits.astype(np.float64))
    share = odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(loss.mean(), log_loss(classes, share, labels=range(6)), rtol=1e-5)
    np.testing.assert_allclose(loss, -np.log(share[np.arange(20), classes]), rtol=1e-4)


def test_label_smoothing_and_mixed_labels():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (5, 4))
    labels = rng.dirichlet(np.ones(4), 5)
    log_share = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels), -(labels * log_share).sum(-1), rtol=1e-5
    )
    smooth = 0.8 * labels + 0.2 / 4
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels, smoothing=0.2),
        -(smooth * log_share).sum(-1),
        rtol=1e-5,
    )


def test_binary_cross_entropy_equals_scikit_learn():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (7, 5)).astype(np.float32)
    labels = rng.random((7, 5)) < 0.4
    loss = losses.binary_cross_entropy(logits, labels.astype(np.float32))
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = [
        log_loss(row, p, labels=[False, True]) for row, p in zip(labels, share, strict=True)
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
