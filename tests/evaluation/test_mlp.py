"""HEAR's network: what a line cannot separate, chosen on clips that it did not learn from."""

import types

import numpy as np
import pytest

from conformer_jax.errors import UserError
from conformer_jax.evaluation import mlp, probe
from conformer_jax.steps import metrics

SETTINGS = types.SimpleNamespace(hidden_width=32, grid_points=2, max_epochs=60, patience=20)


def rings(seed, n=240):
    """Inner and outer ring: x [n, 2], labels [n, 2]."""
    rng = np.random.default_rng(seed)
    outer, angle = np.arange(n) % 2, rng.uniform(0, 2 * np.pi, n)
    radius = 1 + 2 * outer + 0.1 * rng.normal(size=n)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) * 7 + 3
    return x.astype(np.float32), np.eye(2, dtype=np.float32)[outer]


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_learns_what_a_line_cannot(multi_label):
    x, labels = rings(0)
    found = mlp.fit(x, labels, SETTINGS, multi_label=multi_label, seed=0)
    other, truth = rings(1)
    figure = "mAP" if multi_label else "accuracy"  # what chose it
    assert metrics.figures(found(other), truth)[figure] > 0.95
    line = probe.fit_linear(x, labels, multi_label=multi_label, l2=1e-2, max_iterations=50)
    assert metrics.figures(line(other), truth)[figure] < 0.8
    if not multi_label:
        again = mlp.fit(x, labels, SETTINGS, multi_label=False, seed=0)
        np.testing.assert_array_equal(again(other), found(other))


def test_a_fifth_of_every_class_judges():
    labels = np.eye(3)[[0] * 50 + [1] * 10 + [2]]
    held = mlp._validation(labels, 0)
    assert [int(held[labels[:, c] > 0].sum()) for c in range(3)] == [10, 2, 0]
    assert mlp._validation(np.eye(3), 0).sum() == 1


def test_parts_of_a_recording_judge_together():
    labels = np.eye(2)[np.arange(200) % 2]
    recordings = np.arange(200) % 2 + np.arange(200) // 20 * 2  # 20, of one label each
    held = mlp._validation(labels, 0, recordings)
    assert held.sum() == 40
    assert not set(recordings[held]) & set(recordings[~held])
    alone = mlp._validation(labels, 0, np.arange(200))
    np.testing.assert_array_equal(alone, mlp._validation(labels, 0))


def test_embeddings_that_are_not_finite_are_refused():
    x, labels = rings(0)
    x[0, 0] = np.nan
    with pytest.raises(UserError, match="diverged"):
        mlp.fit(x, labels, SETTINGS, multi_label=False, seed=0)


def test_too_few_clips_and_none_that_judges_are_one_line():
    x, labels = rings(0)
    with pytest.raises(UserError, match=r"^1 labelled clip"):
        mlp.fit(x[:1], labels[:1], SETTINGS, multi_label=False, seed=0)
    few = types.SimpleNamespace(hidden_width=8, grid_points=1, max_epochs=3, patience=1)
    with pytest.raises(UserError, match="that judge the networks has a label"):
        mlp.fit(x[:12], np.zeros((12, 2), np.float32), few, multi_label=True, seed=0)
