"""The losses of clip contrast against numpy, and what does not count counting nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformer_jax.models import clip_contrast

N, E, TAU = 6, 8, 0.2
FILES = np.arange(N)


def projected(seed=0, n=N):
    return np.random.default_rng(seed).standard_normal((n, 2, E)).astype(np.float32)


def mean_loss(z, counts, files=FILES):
    u = clip_contrast.unit(jnp.asarray(z))
    told = clip_contrast.similarities(u, jnp.asarray(counts), jnp.asarray(files))
    loss, best, pair = clip_contrast.nt_xent(*told, TAU)
    rows = np.repeat(counts, 2)
    return float((loss * rows).sum() / rows.sum()), np.asarray(pair > best)


def reference(z, apart=lambda i, j: True):
    """NT-Xent view by view; `apart` tells of which clips views are told apart."""
    u = z.astype(np.float64) / np.linalg.norm(z, axis=-1, keepdims=True)
    losses = []
    for i in range(len(u)):
        for a in range(2):
            pair = np.exp(u[i, a] @ u[i, 1 - a] / TAU)
            others = [
                np.exp(u[i, a] @ u[j, b] / TAU)
                for j in range(len(u))
                for b in range(2)
                if j != i and apart(i, j)
            ]
            losses.append(-np.log(pair / (pair + sum(others))))
    return np.mean(losses)


def test_nt_xent_is_that_of_numpy():
    loss, _ = mean_loss(projected(), np.ones(N))
    assert loss == pytest.approx(reference(projected()), abs=1e-5)


def test_nt_xent_of_views_all_alike_is_chance_and_of_perfect_ones_the_floor():
    alike, correct = mean_loss(np.ones((4, 2, E), np.float32), np.ones(4), np.arange(4))
    assert alike == pytest.approx(np.log(7), abs=1e-5)
    assert not correct.any()
    perfect = np.repeat(np.eye(E, dtype=np.float32)[:4, None], 2, axis=1)
    loss, correct = mean_loss(perfect, np.ones(4), np.arange(4))
    assert loss == pytest.approx(np.log1p(6 * np.exp(-1 / TAU)), abs=1e-6)
    assert correct.all()


def test_rows_that_do_not_count_are_no_negatives_either():
    counts = np.array([1, 1, 0, 1, 0, 1])
    loss, _ = mean_loss(projected(), counts)
    assert loss == pytest.approx(reference(projected()[counts > 0]), abs=1e-5)


def test_clips_of_one_file_are_not_told_apart():
    files = np.array([0, 1, 2, 3, 4, 1])
    loss, _ = mean_loss(projected(), np.ones(N), files)
    expected = reference(projected(), lambda i, j: files[i] != files[j])
    assert loss == pytest.approx(expected, abs=1e-5)


def test_barlow_twins_is_that_of_numpy():
    counts = np.array([1, 1, 0, 1, 1, 1])
    z = projected().astype(np.float64)[counts > 0]
    z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    c = z[:, 0].T @ z[:, 1] / len(z)
    off = c - np.diag(np.diag(c))
    expected = ((np.diag(c) - 1) ** 2).sum() + 0.01 * (off**2).sum()
    found = clip_contrast.barlow_twins(jnp.asarray(projected()), jnp.asarray(counts), 0.01)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_head_norms_over_what_counts_alone():
    head = clip_contrast.ProjectionHead(clip_contrast.ClipSpec(head_width=8, head_dim=4))
    pooled, counts = jnp.asarray(projected()), jnp.array([1.0, 1, 0, 1, 0, 1])
    params = head.init(jax.random.key(0), pooled, counts)
    whole = head.apply(params, pooled, counts)
    kept = np.flatnonzero(counts)
    alone = head.apply(params, pooled[kept], jnp.ones(len(kept)))
    np.testing.assert_allclose(whole[kept], alone, atol=1e-5)
    np.testing.assert_allclose(alone.mean(0), 0, atol=1e-5)
