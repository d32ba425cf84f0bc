"""Labelled clips beside pre-training."""

import csv
import json

import jax
import numpy as np
import pytest
import soundfile

from configs import pretrain
from conformer_jax.errors import UserError
from conformer_jax.training import loop, monitor

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


def test_it_is_cut_short_where_the_run_is(finished, tmp_path):
    _, result = finished
    state = result.program.init(jax.random.key(0))
    told = monitor.Monitor(result.config, result.program, tmp_path)
    asked = iter([False, True])
    assert told(state, lambda: next(asked)) is None
    assert told(state, lambda: False)["neighbors_accuracy"] > 0.5


def test_folds_and_clips_of_one_label_are_taken_alone(manifest, monkeypatch):
    folds = lambda *names: monitor.open_labelled(manifest, names, RATE, 1000)
    assert len(folds()) == 30
    assert folds().label_names == ("click", "hiss", "hum")
    assert [folds(2).example_id(i) for i in range(2)] == ["1.wav", "3.wav"]
    assert len(monitor.open_labelled(manifest, (), RATE, 7)) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifest": "nowhere.csv"}, r"nowhere.csv \(config.monitor.manifest\)"),
        ({"folds": ("3",)}, "has no fold '3'"),
    ],
)
def test_what_cannot_be_told_is_refused(manifest, tmp_path, change, said):
    config = smoke(manifest)
    config.monitor.update(change)
    with pytest.raises(UserError, match=said):
        loop.train_and_evaluate(config, tmp_path)
