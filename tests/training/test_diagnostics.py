"""Plain words for what is wrong with a run, and silence for what is not."""

import numpy as np
import pytest

from configs import pretrain
from conformer_jax.training import diagnostics

HEALTHY = {
    "contrastive_loss": 4.0,
    "contrastive_accuracy": 0.2,
    "chance_accuracy": 0.03,
    "similarity_positive": 0.3,
    "similarity_negative": 0.1,
    "target_deviation": 0.9,
    "finite": 1.0,
    "code_perplexity": 30.0,
    "code_used_0": 0.9,
}


@pytest.fixture
def guess():
    config = pretrain.get_config()
    config.target = "gumbel"
    return diagnostics.guess_of(config)


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("contrastive_loss", 4.6, "train longer"),
        ("contrastive_accuracy", 0.04, "nothing is learned"),
        ("contrastive_accuracy", 0.99, "too easy"),
        ("similarity_positive", 0.11, "nothing is learned"),
        ("target_deviation", 0.05, "collapsed"),
        ("finite", 0.5, "learning_rate"),
        ("code_perplexity", 1.2, "diversity_weight"),
    ],
)
def test_each_trouble_is_named_with_its_mend(guess, name, value, mend):
    assert diagnostics.problems(guess, HEALTHY) == []
    assert "looks healthy" in diagnostics.summary(guess, HEALTHY, HEALTHY)
    sick = HEALTHY | {name: value}
    (problem,) = diagnostics.problems(guess, sick)
    assert problem.startswith(f"{name} is {value:.3g}")
    assert mend in problem
    assert "does not look healthy" in diagnostics.summary(guess, sick, sick)


def test_the_spread_of_targets_is_judged_on_a_batch_of_training(guess):
    few_clips = HEALTHY | {"target_deviation": 0.2}
    assert "looks healthy" in diagnostics.summary(guess, HEALTHY, few_clips)
    assert "collapsed" in diagnostics.summary(guess, few_clips, HEALTHY)


def test_codebook_use_tells_collapse_from_an_even_spread():
    even, collapsed = np.full(8, 1 / 8), np.eye(8)[3]
    use = diagnostics.code_metrics(np.stack([even, collapsed]))
    assert use["code_perplexity_0"] == pytest.approx(8)
    assert use["code_used_0"] == 1
    assert use["code_perplexity_1"] == pytest.approx(1)
    assert use["code_used_1"] == 1 / 8
    assert use["code_perplexity"] == pytest.approx(1)
