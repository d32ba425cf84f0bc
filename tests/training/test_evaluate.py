"""The figures of an evaluation: with labels that training did not have, and without."""

import numpy as np
import pytest

from conformer_jax.evaluation.predictions import Predictions
from conformer_jax.training import evaluate


def found_of(labels, logits):
    labels = np.array(labels)
    names = np.array(list("abc"))
    return Predictions(np.arange(len(labels)).astype(str), np.array(logits), labels, names, 0)


KNOWN = np.array([True, True, False])


def test_figures_with_and_without_a_label_that_training_did_not_have():
    # The last clip cannot be right; the second is only without the unknown class in the way.
    logits = [[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]
    found = found_of([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], logits)
    record = evaluate.whole_set(found, False, KNOWN)
    assert record["accuracy"] == pytest.approx(1 / 4)
    assert record["accuracy_known"] == pytest.approx(2 / 3)
    assert record["chance_accuracy_known"] == pytest.approx(2 / 3)
    assert {"mAP_known", "chance_mAP_known"} <= record.keys()
    without = evaluate.whole_set(found, False)
    assert without == {name: v for name, v in record.items() if not name.endswith("_known")}


def test_there_is_one_set_of_figures_where_training_had_all_labels():
    found = found_of([[1, 0, 0], [0, 1, 0]], [[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    assert not [name for name in evaluate.whole_set(found, False, KNOWN) if "known" in name]
    only_unknown = found_of([[0, 0, 1]], [[3.0, 1.0, 2.0]])
    assert evaluate.whole_set(only_unknown, False, KNOWN)["accuracy"] == 0


def test_negatives_of_every_class_stay():
    labels = [[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    logits = [[0.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [2.0, 0, 0]]
    record = evaluate.whole_set(found_of(labels, logits), True, KNOWN)
    assert record["mAP_known"] == pytest.approx((1 + 2 / 3) / 2)  # ranks 1 and 3 of three clips
