"""Calibration: what it says of probabilities that are known to hold, and of ones that do not."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from conformer_jax.evaluation import calibration, predictions, probe
from conformer_jax.reporting import reliability


@pytest.mark.parametrize("multi_label", [True, False])
def test_true_probabilities_have_no_error_and_sure_ones_have(multi_label):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    p = calibration.probabilities(logits, multi_label=multi_label)
    if multi_label:
        labels = rng.random(p.shape) < p
    else:
        labels = np.eye(4)[(rng.random((len(p), 1)) > p.cumsum(1)).sum(1).clip(0, 3)]
    found = calibration.reliability(logits, labels, multi_label=multi_label)
    assert found.error < 0.02
    assert found.count.sum() == labels.size if multi_label else len(labels)
    full = found.count > 100
    np.testing.assert_allclose(found.said[full], found.true[full], atol=0.06)
    sure = calibration.reliability(4 * logits, labels, multi_label=multi_label)
    assert sure.error > 0.1


def test_a_probe_on_many_labels_is_calibrated_on_clips_it_has_not_heard():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 12))
    p = calibration.probabilities(x @ rng.normal(size=(12, 5)) - 1, multi_label=True)
    labels = (rng.random(p.shape) < p).astype(np.float32)
    known = {"embedding": x[:1500], "labels": labels[:1500], "valid": np.ones(1500)}
    settings = ConfigDict({"l2": 1e-3, "max_iterations": 200})
    score = probe.fit(known, settings, neighbours=False, multi_label=True)
    found = calibration.reliability(score(x[1500:]), labels[1500:], multi_label=True)
    assert found.error < 0.03


def test_the_report_shows_the_curve_and_the_error():
    logits = np.array([[4.0, -4.0], [-4.0, 4.0], [4.0, -4.0]])
    labels = np.array([[1, 0], [0, 1], [0, 1]])
    ids, names = np.array(list("abc")), np.array(["x", "y"])
    found = predictions.Predictions(ids, logits, labels, names, 0)
    said = str(reliability.section(found, multi_label=False))
    assert "expected calibration error" in said
    assert "0.9 to 1.0" in said
    assert "0.667" in said  # two of three
