"""Figures of embeddings of the whole held-out set, on sets whose figures are known."""

import numpy as np
import pytest

from conformer_jax.evaluation import embedding_health

RNG = np.random.default_rng(0)


def figures(z, counts=None, batch_size=None, files=None):
    counts = np.ones(len(z)) if counts is None else counts
    files = np.arange(len(z)) if files is None else files
    found = {"projected": z, "pooled": z, "counts": counts, "file": files}
    size = batch_size or int(counts.sum())
    return embedding_health.figures(found, temperature=0.2, batch_size=size)


def pairs(noise, clips=150, width=32):
    """Views that are their clip's own direction and some noise."""
    centre = RNG.standard_normal((clips, 1, width))
    return centre + noise * RNG.standard_normal((clips, 2, width))


def test_good_unrelated_and_collapsed_embeddings():
    good, unrelated = figures(pairs(0.3)), figures(RNG.standard_normal((150, 2, 32)))
    assert good["retrieval_at_1"] > 0.95
    assert good["clip_loss"] < 2.5
    assert good["effective_rank"] > 25
    assert unrelated["retrieval_at_1"] < 0.05
    assert unrelated["retrieval_chance"] == pytest.approx(1 / 299)
    line = np.ones((150, 2, 32)) + 0.01 * RNG.standard_normal((150, 2, 32))
    collapsed = figures(line)
    assert collapsed["uniformity"] > -0.1
    assert collapsed["embedding_deviation"] < 0.1
    assert collapsed["clip_loss"] == pytest.approx(np.log(299), abs=0.05)
    plane = RNG.standard_normal((150, 2, 2)) @ RNG.standard_normal((2, 32))
    assert figures(plane)["effective_rank"] < 3


def test_the_loss_of_a_batch_as_large_as_the_set_is_nt_xent():
    z = pairs(1.0, 20)
    u = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(40, -1)
    logits = u @ u.T / 0.2
    np.fill_diagonal(logits, -np.inf)
    row = np.arange(40)
    expected = (np.log(np.exp(logits).sum(1)) - logits[row, row ^ 1]).mean()
    found = figures(z)
    assert found["clip_loss"] == pytest.approx(expected)
    assert found["clip_accuracy"] == pytest.approx(found["retrieval_at_1"])
    assert figures(z, batch_size=4)["clip_accuracy"] > found["clip_accuracy"]


def test_clips_that_do_not_count_are_left_out():
    z, counts = pairs(0.5, 30), np.arange(30) % 3 > 0
    dirty = np.where(counts[:, None, None], z, np.nan)
    assert figures(dirty, counts) == figures(z[counts])
    assert figures(z, np.zeros(30)) == {}


def test_clips_that_are_not_finite_are_left_out():
    z = pairs(0.5, 30)
    z[4, 1, 2], z[7] = np.nan, np.inf
    assert figures(z) == figures(np.delete(z, [4, 7], 0), batch_size=30)
    assert figures(np.full((5, 2, 8), np.nan)) == {}


def test_clips_of_one_file_are_not_told_apart():
    z = np.repeat(pairs(0.1, 20), 2, axis=0)  # each clip twice, and no view knows which
    files = np.arange(40) // 2
    told = figures(z, files=files)
    assert figures(z)["retrieval_at_1"] < 0.5
    assert told["retrieval_at_1"] == 1
    assert told["retrieval_chance"] == pytest.approx(1 / 77)
    assert told["clip_similarity_negative"] < 0.1
    assert figures(z, files=np.zeros(40)) == {}


def test_the_whole_set_is_looked_at_where_it_is_large(monkeypatch):
    monkeypatch.setattr(embedding_health, "MOST_CLIPS", 40)
    good, bad = pairs(0.1, 60), RNG.standard_normal((60, 2, 32))
    assert 0.4 < figures(np.concatenate([good, bad]), batch_size=8)["retrieval_at_1"] < 0.7


def test_local_dimension_is_that_of_the_cloud():
    plane = np.concatenate([RNG.uniform(size=(2000, 2)), np.zeros((2000, 6))], axis=1)
    assert embedding_health.local_dimension(plane) == pytest.approx(2.0, abs=0.3)
