"""HEAR's network: what a line cannot separate, chosen on clips that it did not learn from."""

import types

import numpy as np
import pytest

from conformer_jax.errors import UserError
from conformer_jax.evaluation import mlp, probe
from conformer_jax.steps import metrics

SETTINGS = types.SimpleNamespace(hidden_width=32, grid_points=2, max_epochs=60, patience=20)
JUDGES = np.arange(0, 240, 5)


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
    found = mlp.fit(x, labels, SETTINGS, multi_label=multi_label, seed=0, judges=JUDGES)
    other, truth = rings(1)
    figure = "mAP" if multi_label else "accuracy"  # what chose it
    assert metrics.figures(found(other), truth)[figure] > 0.95
    line = probe.fit_linear(x, labels, multi_label=multi_label, l2=1e-2, max_iterations=50)
    assert metrics.figures(line(other), truth)[figure] < 0.8
    if not multi_label:
        again = mlp.fit(x, labels, SETTINGS, multi_label=False, seed=0, judges=JUDGES)
        np.testing.assert_array_equal(again(other), found(other))


def test_clips_that_judge_are_not_learnt_from(monkeypatch):
    sides, train = [], mlp._train
    monkeypatch.setattr(mlp, "_train", lambda *args: sides.append(args[:2]) or train(*args))
    x, labels = rings(0, 40)
    few = types.SimpleNamespace(hidden_width=8, grid_points=1, max_epochs=3, patience=1)
    for judges, count in (([3, 8, 9], 3), ([], 1)):
        mlp.fit(x, labels, few, multi_label=False, seed=0, judges=judges)
        known, judged = (part[0].tolist() for part in sides.pop())
        assert (len(known), len(judged)) == (40 - count, count)
        assert not any(row in known for row in judged)


def test_embeddings_that_are_not_finite_are_refused():
    x, labels = rings(0)
    x[0, 0] = np.nan
    with pytest.raises(UserError, match="diverged"):
        mlp.fit(x, labels, SETTINGS, multi_label=False, seed=0, judges=JUDGES)


def test_too_few_clips_and_none_that_judges_are_one_line():
    x, labels = rings(0)
    with pytest.raises(UserError, match=r"^1 labelled clip"):
        mlp.fit(x[:1], labels[:1], SETTINGS, multi_label=False, seed=0, judges=JUDGES)
    few = types.SimpleNamespace(hidden_width=8, grid_points=1, max_epochs=3, patience=1)
    with pytest.raises(UserError, match="that judge the networks has a label"):
        mlp.fit(x[:12], np.zeros((12, 2), np.float32), few, multi_label=True, seed=0, judges=[0, 1])
