"""Plain words for what is wrong with a run, and silence for what is not."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from configs import pretrain
from conformer_jax.evaluation import embedding_health
from conformer_jax.reporting import panels
from conformer_jax.training import curves, diagnostics, loop, progress

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


HEALTHY_CLIPS = {
    "clip_loss": 2.4,
    "clip_accuracy": 0.5,
    "clip_chance": 1 / 127,
    "retrieval_at_1": 0.4,
    "retrieval_chance": 1 / 341,
    "clip_similarity_positive": 0.6,
    "clip_similarity_negative": 0.02,
    "clip_similarity_deviation": 0.21,
    "uniformity": -3.0,
    "embedding_deviation": 0.95,
    "effective_rank": 60.0,
    "pooled_rank": 14.0,
    "local_dimension": 4.6,
    "clips_paired": 1.0,
    "view_silence": 0.04,
    "clips_judged": 171.0,
    "finite": 1.0,
}


@pytest.fixture
def clip_guess():
    return diagnostics.guess_of(pretrain.get_config("tiny_clip"))


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("clip_loss", 4.8, "does not learn"),
        ("clip_loss", 0.65, "too easy"),
        ("clip_accuracy", 0.975, "too easy"),
        ("clip_accuracy", 0.01, "nothing is learned"),
        ("retrieval_at_1", 0.02, "train longer"),
        ("clip_similarity_positive", 0.1, "hardly more alike"),
        ("clip_similarity_positive", 0.96, "too easy"),
        ("uniformity", -0.5, "collapse"),
        ("embedding_deviation", 0.1, "collapsed"),
        ("effective_rank", 3.0, "few dimensions"),
        ("pooled_rank", 2.8, "few dimensions"),
        ("clips_paired", 0.5, "silence"),
        ("view_silence", 0.39, "padded"),
    ],
)
def test_each_trouble_of_clip_contrast_is_named(clip_guess, name, value, mend):
    assert "looks healthy" in diagnostics.summary(clip_guess, HEALTHY_CLIPS, HEALTHY_CLIPS)
    (problem,) = diagnostics.problems(clip_guess, HEALTHY_CLIPS | {name: value})
    assert problem.startswith(f"{name} is {value:.3g}")
    assert mend in problem


# The table of docs/objectives.md; what the report and the summary say of each.
OF_CLIPS = {
    "clip_loss": "loss 2.400 (chance 4.84)",
    "clip_accuracy": "accuracy among a batch 0.500",
    "retrieval_at_1": "in 40.0% of cases (chance 0.29%)",
    "clip_similarity_positive": "cosine of a clip's views 0.60",
    "clip_similarity_negative": "of different clips' 0.02",
    "clip_similarity_deviation": "deviation of 0.21",
    "uniformity": "uniformity -3.00",
    "embedding_deviation": "spread 0.95 of 1",
    "effective_rank": "effective rank of the embeddings 60",
    "pooled_rank": "effective rank of what a probe reads 14",
    "local_dimension": "local dimension 4.6",
    "clips_paired": "clips_paired is 0.5",
    "view_silence": "view_silence is 0.5",
}


def test_every_diagnostic_of_clip_contrast_is_drawn_reported_and_summed_up(clip_guess):
    silent = HEALTHY_CLIPS | {"clips_paired": 0.5, "view_silence": 0.5}
    summary = diagnostics.summary(clip_guess, silent, HEALTHY_CLIPS)
    table = (pathlib.Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    table = table[table.index("| diagnostic |") : table.index("With `--config.monitor")]
    drawn = {name for _, names in curves._panels(clip_guess) for name in names}
    reported = {name for panel in panels.CLIP for name in panel.names}
    for name, said in OF_CLIPS.items():
        assert said in summary
        assert f"`{name}`" in table
        assert name in drawn & reported
    # One range a panel is shaded, that of its first name.
    shaded = {next(iter(panel.names)) for panel in panels.CLIP}
    ranges = set(diagnostics.healthy_ranges(clip_guess, HEALTHY_CLIPS)) - {"finite"}
    assert ranges <= shaded & {names[0] for _, names in curves._panels(clip_guess)}


def test_clip_contrast_is_watched_while_it_goes_on(clip_guess):
    """Of 2000 steps: nothing at step 50, whatever the loss; then near chance, or near the floor."""
    lost = HEALTHY_CLIPS | {"clip_loss": 4.8, "retrieval_at_1": 0.0, "clip_accuracy": 0.01}
    easy = HEALTHY_CLIPS | {"clip_loss": 0.7}
    told = lambda record, step: diagnostics.watched(clip_guess, record, step / 2000)
    assert told(lost, 50) == told(lost, 299) == []
    for step in (300, 2000):
        (problem,) = told(lost, step)
        assert problem.startswith("clip_loss is 4.8 after")
        assert "near chance (4.84)" in problem
    for step in (20, 999):
        (problem,) = told(easy, step)
        assert "near its floor (0.615)" in problem
    assert told(easy, 1000) == []
    silent = HEALTHY_CLIPS | {"view_silence": 0.5, "clip_loss": None}
    assert told(silent, 400) == []
    assert "padded" in told(silent, 420)[0]
    barlow = dataclasses.replace(clip_guess.clip, is_nt_xent=False)
    of_barlow = dataclasses.replace(clip_guess, clip=barlow)
    assert diagnostics.watched(of_barlow, lost, 0.5) == []


def test_the_loop_warns_of_clip_contrast_near_chance_once(capsys, tmp_path):
    config = pretrain.get_config("tiny_clip")
    heading = curves.heading_of(config)
    log = progress.Log(tmp_path, 0, name="x", num_steps=2000, heading=heading)
    state = types.SimpleNamespace(skipped=0)
    for step in (50, 300, 320):
        loop._check_health(config, state, HEALTHY_CLIPS | {"clip_loss": 4.8}, step, log)
        assert capsys.readouterr().err.count("WARNING clip_loss") == (step == 300)
    log.close()


def test_clips_learned_by_heart_are_named(clip_guess):
    train = HEALTHY_CLIPS | {"clip_loss": 1.2}
    summary = diagnostics.summary(clip_guess, train, HEALTHY_CLIPS)
    assert "clip_loss is 1.20 higher on the held-out clips" in summary
    assert "finds its other among 342 in 40.0% of cases" in summary


def test_labelled_clips_that_were_told_better_before_are_named(clip_guess):
    told = {"neighbors_accuracy_last": 0.3, "neighbors_chance": 0.02, "neighbors_clips": 800.0}
    records = [
        {"step": step, **told, "neighbors_accuracy": value}
        for step, value in ((250, 0.40), (500, 0.46), (750, None))
    ]
    records.append({"step": 750, **told, "neighbors_accuracy": 0.9, "neighbors_clips": 90.0})
    for now, worse in ((0.45, False), (0.42, False), (0.40, True), (0.50, False)):
        record = {"neighbors_accuracy": now, **told}
        record |= diagnostics.best_so_far(records, 1000, record)
        summary = diagnostics.summary(clip_guess, HEALTHY_CLIPS, HEALTHY_CLIPS | record)
        assert f"nearest neighbours name: {now:.3f} (by the last block alone 0.300" in summary
        assert (f"neighbors_accuracy is {now:.3f} and was 0.460 at step 500" in summary) == worse
        assert ("looks healthy" in summary) != worse
    few = {**told, "neighbors_clips": 30.0, "neighbors_accuracy": 0.40}
    few |= {"neighbors_best": 0.46, "neighbors_best_step": 500.0}
    assert diagnostics.overtrained(few) == []  # two clips less


def test_labelled_clips_without_a_figure_have_no_best(clip_guess):
    told = {"neighbors_chance": 0.02, "neighbors_clips": 800.0}
    for value in (None, float("nan")):
        record = {**told, "neighbors_accuracy": value}
        assert diagnostics.best_so_far([], 1000, record) == {}
        summary = diagnostics.summary(clip_guess, HEALTHY_CLIPS, HEALTHY_CLIPS | record)
        assert "labelled clips: no figure" in summary


def test_a_run_without_held_out_figures_is_not_called_healthy(clip_guess):
    judged = ("clips_judged", "retrieval_at_1", "effective_rank", "uniformity")
    held_out = {k: v for k, v in HEALTHY_CLIPS.items() if k not in judged}
    summary = diagnostics.summary(clip_guess, HEALTHY_CLIPS, held_out)
    assert "hold out more" in summary
    assert "not known" in summary
    assert "looks healthy" not in summary


def test_embeddings_that_collapse_are_named_from_what_is_measured(clip_guess):
    found = {
        "pooled": np.random.default_rng(0).standard_normal((80, 2, 8)),
        "projected": 1 + 0.01 * np.random.default_rng(1).standard_normal((80, 2, 8)),
        "counts": np.ones(80),
        "file": np.arange(80),
    }
    figures = embedding_health.figures(found, temperature=0.2, batch_size=64)
    problems = diagnostics.problems(clip_guess, figures)
    assert any(problem.startswith("uniformity") for problem in problems)
    assert any(problem.startswith("embedding_deviation") for problem in problems)


def test_both_objectives_are_judged_by_both(clip_guess):
    guess = diagnostics.guess_of(pretrain.get_config("both"))
    record = {**HEALTHY_CLIPS, **HEALTHY}
    assert set(diagnostics.healthy_ranges(clip_guess, record)) < set(
        diagnostics.healthy_ranges(guess, record)
    )
    assert "contrastive accuracy" in diagnostics.summary(guess, record, record)


def test_a_run_that_diverged_is_told_and_not_a_traceback(clip_guess):
    """metrics.jsonl holds None for what is not finite."""
    both = diagnostics.guess_of(pretrain.get_config("both"))
    sick = dict.fromkeys(HEALTHY_CLIPS | HEALTHY) | {"clip_chance": 0.01, "chance_accuracy": 0.03}
    for guess in (clip_guess, both):
        assert "does not look healthy" in diagnostics.summary(guess, sick, sick)
        assert diagnostics.problems(guess, sick) == []  # as logged, nothing can be compared
    train = HEALTHY_CLIPS | {"finite": 0.1}
    told = diagnostics.summary(clip_guess, train, {})
    assert "held-out clips: no figures" in told
    assert "finite is 0.1" in told
