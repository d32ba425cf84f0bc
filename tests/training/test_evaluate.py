"""The figures of an evaluation: with labels that training did not have, and without."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from configs import finetune, pretrain
from conformer_jax.errors import UserError
from conformer_jax.evaluation.predictions import Predictions
from conformer_jax.training import evaluate, saved_files, selection


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


class Steps:
    """Stands in for Checkpoints: `lost` cannot be read, `gone` are not there."""

    def __init__(self, lost, gone):
        self.lost, self.gone = lost, gone

    def wait(self):
        pass

    def steps(self):
        return [step for step in (2, 4, 6, 8) if step not in self.gone]

    def restore(self, state, step):
        if step in (*self.lost, *self.gone):
            raise UserError(f"step {step}: damaged")
        return SimpleNamespace(replace=lambda step, kept=step: kept), {}


@pytest.mark.parametrize(
    ("lost", "gone", "expected"),
    [((), (), 4), ((4,), (), 8), ((), (4, 8), 2), ((4, 8), (2,), 6), ((4,), (2, 8), 6)],
)
def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_next_best(lost, gone, expected, caplog):
    steps = Steps(lost, gone)
    parts = {"log": None, "checkpoints": steps, "abstract_state": None, "finish": None}
    judge = evaluate.Judge(None, None, None, None, **parts)
    now = SimpleNamespace(step=6)  # in memory, so never lost
    ranking = selection.ranking(
        [{"step": s, "accuracy": v} for s, v in ((2, 0.5), (4, 0.9), (6, 0.4), (8, 0.6))],
        "accuracy",
    )
    assert ranking == [4, 8, 2, 6]
    state, best_step = judge._best_state(now, 6, ranking)
    assert best_step == expected
    assert state == (now if expected == 6 else expected)
    assert ("checkpoint of step 4 is lost: step 4: damaged" in caplog.text) == (expected != 4)


def test_what_keeps_a_checkpoint_is_the_loss_of_the_objective():
    config = pretrain.get_config("both")
    both = {"clip_loss": 2.0, "contrastive_loss": 3.0}
    weight = config.losses.masked_weight / np.log(1 + config.wav2vec2.num_distractors)
    assert evaluate.rank(config, both) == pytest.approx(-2.0 - 3.0 * weight)
    assert evaluate.rank(config, {"contrastive_loss": 0.1}) == saved_files.UNRANKED
    config.objective = "clip"
    assert evaluate.rank(config, both) == -2.0
    for nothing in ({}, {"clip_loss": math.nan}):
        assert evaluate.rank(config, nothing) == saved_files.UNRANKED
    config.objective = "wav2vec2"
    assert evaluate.rank(config, both) == -3.0
    assert evaluate.rank(finetune.get_config(), {"mAP": 0.25, "loss": 1.0}) == 0.25


def test_a_held_out_clip_that_is_not_finite_spoils_no_other():
    config = pretrain.get_config("tiny_clip")
    counted = []

    def whole_set(state, found):
        counted.append((found["counts"].tolist(), bool(np.isfinite(found["pooled"]).all())))
        return found | {"projected": found["pooled"]}

    compiled = SimpleNamespace(whole_set=whole_set)
    evaluator = evaluate.Evaluator(compiled, None, None, None, config=config)
    pooled = np.random.default_rng(0).standard_normal((6, 2, 8))
    pooled[2, 1, 3] = np.nan
    part = {"pooled": pooled, "counts": np.ones(6), "file": np.arange(6)}
    figures = evaluator._of_embeddings(None, [part])
    assert counted == [([1, 1, 0, 1, 1, 1], True)]
    assert figures["clips_judged"] == 5
    assert all(map(math.isfinite, figures.values()))
