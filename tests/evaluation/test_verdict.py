"""The verdict in words: what it says of made-up answers, and how often it is wrong about luck."""

import numpy as np
import pytest

from conformer_jax.evaluation import verdict
from conformer_jax.evaluation.predictions import Predictions


def predictions(logits, labels):
    names = np.arange(labels.shape[1]).astype(str)
    return Predictions(np.arange(len(labels)).astype(str), np.asarray(logits), labels, names, 0)


def answers(right, classes=2):
    """Predictions of one label a clip, right where `right` is true; the classes in turn."""
    labels = np.eye(classes)[np.arange(len(right)) % classes]
    wrong = np.roll(labels, 1, axis=1)
    return predictions(np.where(np.asarray(right)[:, None], labels, wrong), labels)


def share(right, n):
    return np.arange(n) < round(right * n)


COMMONEST, RANDOM = "always the commonest class", "a random encoder"


@pytest.mark.parametrize(
    ("right", "n", "said"),
    [
        (0.9, 100, f"Better than {COMMONEST}."),
        (0.1, 100, f"Worse than {COMMONEST}."),
        (0.5, 4000, f"Not better than {COMMONEST}."),
        (0.52, 100, f"Too few clips to tell whether it is better than {COMMONEST}."),
        (1.0, 10, f"Too few clips to tell whether it is better than {COMMONEST}."),
        (1.0, 12, f"Better than {COMMONEST}."),  # six clips that tell: 1 in 64
        (1.0, 1, f"Too few clips to tell whether it is better than {COMMONEST}."),
    ],
)
def test_against_the_commonest_class(right, n, said):
    assert verdict.of_run(answers(share(right, n)), multi_label=False) == said


@pytest.mark.parametrize(
    ("ours", "others", "n", "said"),
    [
        (0.9, 0.7, 100, f"Better than {RANDOM}."),
        (0.7, 0.9, 100, f"Worse than {RANDOM}."),
        (0.9, 0.9, 200, f"Not better than {RANDOM}."),  # all answers alike
        (0.9, 0.9, 20, f"Too few clips to tell whether it is better than {RANDOM}."),
        (0.92, 0.9, 100, f"Too few clips to tell whether it is better than {RANDOM}."),
    ],
)
def test_against_a_random_encoder(ours, others, n, said):
    pair = answers(share(ours, n)), answers(share(others, n))
    assert verdict.of_run(*pair, multi_label=False).endswith(said)


def test_equal_scores_are_ties_and_no_gain():
    """A model that says nothing always names the first class."""
    labels = np.eye(2)[np.arange(400) % 2]
    silent = predictions(np.zeros((400, 2)), labels)
    assert verdict.of_run(silent, silent, multi_label=False) == (
        f"Not better than {COMMONEST}. Not better than {RANDOM}."
    )


def test_a_control_on_other_clips_is_not_compared():
    ours, other = answers(share(0.9, 100)), answers(share(0.5, 90))
    assert verdict.of_run(ours, other, multi_label=False) == f"Better than {COMMONEST}."


def several(signal, n, seed, positives=0.2, classes=4):
    """Predictions of several labels a clip, `signal` deviations apart from noise."""
    rng = np.random.default_rng(seed)
    labels = (np.random.default_rng(99).random((n, classes)) < positives).astype(float)
    return predictions(signal * labels + rng.normal(size=labels.shape), labels)


def test_several_labels_are_judged_by_the_mean_average_precision():
    said = verdict.of_run(several(3, 200, 0), several(1, 200, 1), multi_label=True)
    assert said == f"Better than random scores. Better than {RANDOM}."
    said = verdict.of_run(several(0, 3000, 0), several(0, 3000, 1), multi_label=True)
    assert said == f"Not better than random scores. Not better than {RANDOM}."
    said = verdict.of_run(several(0.5, 12, 0), several(0, 12, 1), multi_label=True)
    assert said.count("Too few clips to tell") == 2


def test_luck_is_called_better_about_as_often_as_it_says():
    """1 of 40 at most: by answers that are coins, and by scores that are noise."""
    rng = np.random.default_rng(0)
    called = {"answers": 0, "chance": 0, "control": 0}
    for seed in range(200):
        ours, others = rng.random((2, 40)) < 0.5
        said = verdict.of_run(answers(ours), answers(others), multi_label=False)
        called["answers"] += said.endswith(f"Better than {RANDOM}.")
        if seed < 12:
            pair = several(0, 60, 2 * seed), several(0, 60, 2 * seed + 1)
            said = verdict.of_run(*pair, multi_label=True)
            called["chance"] += said.startswith("Better")
            called["control"] += said.endswith(f"Better than {RANDOM}.")
    assert called["answers"] <= 10
    assert called["chance"] <= 1
    assert called["control"] <= 1


def test_folds_and_seeds_by_their_differences():
    ours = [0.62, 0.59, 0.58, 0.65, 0.65]
    said = lambda others, **how: verdict.over_repeats(ours[: len(others)], others, "folds", **how)
    assert said([0.52, 0.49, 0.52, 0.58, 0.53]) == f"Better than {RANDOM}."
    assert said([v + 0.2 for v in ours]) == f"Worse than {RANDOM}."
    assert said(ours) == f"Not better than {RANDOM}."
    unknown = f"Too few folds to tell whether it is better than {RANDOM}."
    assert said([0.52, 0.59]) == said([0.1]) == unknown
    assert verdict.over_repeats([1.0, 1.0], [1.0, 1.0], "folds") == unknown
    # Folds share what they train on: what three seeds show three folds do not.
    close = [0.61, 0.57, 0.565]
    assert said(close) == f"Better than {RANDOM}."
    assert said(close, overlap=True) == f"Not better than {RANDOM}."
