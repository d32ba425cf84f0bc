"""Labelled clips beside pre-training."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
import soundfile

from configs import pretrain
from conformer_jax.data import host_loader
from conformer_jax.data.audio import BadAudio
from conformer_jax.errors import UserError
from conformer_jax.training import loop, monitor, opening

RATE = 16000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Hum, hiss and clicks, 10 clips of each in two folds; one without a label, one with two."""
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    times = np.arange(RATE // 2) / RATE
    rows = []
    for i in range(30):
        label = ("hum", "hiss", "click")[i % 3]
        sound = {
            "hum": np.sin(2 * np.pi * rng.uniform(200, 400) * times),
            "hiss": rng.standard_normal(len(times)),
            "click": (times * rng.uniform(8, 12) % 1 < 0.02) * 1.0,
        }[label]
        soundfile.write(folder / f"{i}.wav", 0.1 * sound, RATE)
        rows.append((f"{i}.wav", label, 1 + i % 2))
    rows += [("none.wav", "", 1), ("two.wav", "hum;hiss", 1)]
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "fold"), *rows])
    return folder / "manifest.csv"


def smoke(manifest, folds=()):
    config = pretrain.get_config("smoke")
    config.data.update(loader="threads", clip_s=0.5)
    # As a large run has them: bfloat16, stacked blocks, averaged parameters.
    config.conformer.update(dtype="bfloat16", scan_blocks=True)
    config.optimizer.ema_decay = 0.5
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.train.update(num_steps=4, log_every=2, eval_every=2)
    config.monitor.update(manifest=str(manifest), folds=folds, neighbors=3)
    return config


@pytest.fixture(scope="module")
def finished(manifest, tmp_path_factory):
    """(workdir, Result)"""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, loop.train_and_evaluate(smoke(manifest), workdir)


def evaluations(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["split"] == "eval"]


def test_each_evaluation_tells_the_labelled_clips(finished):
    records = evaluations(finished[0])
    assert [record["step"] for record in records] == [2, 4]
    for record in records:
        assert record["neighbors_accuracy"] > 0.7
        assert 0.3 < record["neighbors_accuracy_last"] <= 1
        assert record["neighbors_chance"] == pytest.approx(1 / 3)
        assert record["contrastive_loss"] > 0
    best = max(records, key=lambda record: record["neighbors_accuracy"])
    assert records[-1]["neighbors_best"] == best["neighbors_accuracy"]
    assert records[-1]["neighbors_best_step"] == best["step"]


def test_training_does_not_know_of_them(finished, tmp_path):
    config = smoke("")
    loop.train_and_evaluate(config, tmp_path)
    alone, beside = evaluations(tmp_path), evaluations(finished[0])
    for ours, theirs in zip(alone, beside, strict=True):
        assert ours.items() <= theirs.items()
        assert not any(name.startswith("neighbors") for name in ours)


def beside(result, source=None):
    """A Monitor of the run's labelled clips, or of another source."""
    config = result.config
    labelled = opening.open_labelled(config.monitor.manifest, (), RATE, 100)
    labelled = labelled if source is None else labelled._replace(source=source)
    spec = host_loader.loader_spec(config)
    batches = lambda source, report: host_loader.eval_batches(source, spec, report)
    return monitor.Monitor(config, result.program, labelled, batches)


def test_it_is_cut_short_where_the_run_is(finished):
    _, result = finished
    state, told = result.program.init(jax.random.key(0)), beside(result)
    asked = iter([False, True])
    assert told(state, lambda: next(asked)) is None
    assert told(state, lambda: False)["neighbors_accuracy"] > 0.5


@pytest.mark.parametrize("readable", [range(15), ()])
def test_clips_that_cannot_be_read_stop_nothing(finished, readable, caplog):
    _, result = finished
    source = beside(result)._labelled.source
    read = source.read

    def damaged(i, num_samples, position):
        if i not in readable:
            raise BadAudio("empty file")
        return read(i, num_samples, position)

    source.read = damaged
    told = beside(result, source)(result.program.init(jax.random.key(0)), lambda: False)
    assert told.get("neighbors_clips", 0) == len(readable)
    assert "could" in caplog.text


def test_it_may_come_and_go_while_a_run_goes_on(finished, manifest, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    before = evaluations(run)
    for config in (smoke(""), smoke(manifest, (2,)), smoke(manifest, ("2",))):
        loop.train_and_evaluate(config, run)
        assert evaluations(run) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifest": "nowhere.csv"}, r"nowhere.csv \(config.monitor.manifest\)"),
        ({"folds": ("3",)}, "has no fold '3' .folds: 1, 2."),
    ],
)
def test_what_cannot_be_told_is_refused(manifest, tmp_path, change, said):
    config = smoke(manifest)
    config.monitor.update(change)
    with pytest.raises(UserError, match=said):
        loop.train_and_evaluate(config, tmp_path)
