"""What a run says at its end."""

import shlex

import numpy as np
import pytest
import soundfile

from configs import finetune, pretrain
from conformer_jax import prepare
from conformer_jax.command import run
from conformer_jax.data.folder import write_manifest
from conformer_jax.evaluation import predictions


def test_the_next_command_can_be_pasted_whatever_the_paths():
    config = pretrain.get_config("smoke")
    config.data.manifest = "my sounds/it's.csv"
    said = run._next(config, "my runs/$1")
    assert shlex.split(said)[-3:] == [
        "--config.init_from=my runs/$1",
        "--config.data.manifest=my sounds/it's.csv",
        "--config.data.eval_share=0.05",
    ]
    assert "python -m conformer_jax.main --config=configs/finetune.py:smoke --config" in said
    assert run._next(config, f"runs/{config.name}").count("init_from") == 0


@pytest.mark.parametrize("variant", ["clip", "both", "tiny_clip"])
def test_the_next_command_names_a_run_that_its_config_would_not_find(variant):
    config = pretrain.get_config(variant)
    said = run._next(config, f"runs/{config.name}")
    assert said.endswith(f" --config.init_from=runs/pretrain_{variant}")
    assert f"--config=configs/finetune.py{':tiny' if variant == 'tiny_clip' else ''} " in said


def test_the_next_command_hears_no_more_than_the_run_left_out(tmp_path):
    config = pretrain.get_config("tiny")
    config.data.update(manifest=str(tmp_path / "manifest.csv"), eval_share=0.2)
    two, more = "path,label\na.wav,hum\nb.wav,hiss\n", "c.wav,hum\nd.wav,hiss\n"
    (tmp_path / "manifest.csv").write_text(two)  # one of them is held out
    assert "=LABELLED" in run._next(config, "runs/a")
    (tmp_path / "manifest.csv").write_text(two + more)
    assert run._next(config, "runs/a").endswith(" --config.data.eval_share=0.2")
    config.data.eval_folds = ("1", "2")
    (tmp_path / "manifest.csv").write_text("path,label,fold\na,hum,3\nb,hiss,3\nc,hum,1\n")
    assert shlex.split(run._next(config, "runs/a"))[-1] == "--config.data.eval_folds=('1', '2')"
    config.data.eval_folds = ()
    (tmp_path / "manifest.csv").write_text("path,label\na.wav,hum\nb.wav,\n")
    assert run._next(config, "runs/a").startswith("Next, with a manifest of labelled clips: ")
    assert run._next(config, "runs/a").endswith(" --config.data.manifest=LABELLED")
    (tmp_path / "manifest.csv").write_text(
        "path,label\na.wav,hum;hiss\nb.wav,hiss;hum\nc,hum;hiss\n"
    )
    assert "=LABELLED" in run._next(config, "runs/a")
    (tmp_path / "manifest.csv").write_text("path,label\na,hum\nb,hum;hiss\nc,hum\nd,hum;hiss\n")
    assert "--config.classifier.multi_label=True" in run._next(config, "runs/a")
    (tmp_path / "manifest.csv").write_text("path,label,fold\na,hum,1\nb,hiss,2\nc,,more\n")
    config.data.train_folds = ("more",)
    assert "=LABELLED" in run._next(config, "runs/a")
    config.data.update(train_folds=(), eval_folds=("1", "2"))
    assert "=LABELLED" in run._next(config, "runs/a")
    (tmp_path / "manifest.csv").write_text("path,label,fold\na,hum,2\nb,hiss,2\nc,,1\n")
    config.data.eval_folds = ("1",)  # no clip of it could be judged
    assert "=LABELLED" in run._next(config, "runs/a")
    (tmp_path / "manifest.csv").write_text("path,label,fold\na,hum,2\nb,hiss,2\nc,hum;hiss,1\n")
    assert "--config.classifier.multi_label=True" in run._next(config, "runs/a")


@pytest.mark.parametrize("folds", [(), ("",)])  # as typed: --config.data.eval_folds=
def test_the_next_command_reads_the_same_data_set(folds):
    config = pretrain.get_config("tiny")
    config.data.update(tfds_name="esc50", tfds_dir="/data/tfds", eval_share=0.01, eval_folds=folds)
    said = run._next(config, "runs/pretrain_tiny")
    assert said.partition(":tiny ")[2] == (
        "--config.data.tfds_name=esc50 --config.data.tfds_dir=/data/tfds "
        "--config.data.eval_share=0.01"
    )


def test_the_next_command_reads_the_same_prepared_corpus(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("hum/1", "hum/2", "hiss/1", "hiss/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(size=800) / 9, 16_000)
    config = pretrain.get_config("tiny")
    for label_from, labels in (("parent", True), ("none", False)):
        listed, into = tmp_path / f"{label_from}.csv", tmp_path / f"prepared_{label_from}"
        write_manifest(tmp_path, listed, folds=2, label_from=label_from)
        assert prepare.main(["any", f"--source=manifest:{listed}", f"--output={into}"]) == 0
        config.data.update(prepared=str(into), train_folds=("1", "2"), eval_folds=("2",))
        said = run._next(config, "runs/pretrain_tiny")
        assert ("LABELLED" not in said) == labels
        if labels:
            assert "multi_label" not in said
            assert shlex.split(said)[-3:] == [
                f"--config.data.prepared={into}",
                "--config.data.train_folds=('1', '2')",
                "--config.data.eval_folds=('2',)",
            ]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("hum", "hum", "LABELLED"),
        ("hum;low", "low;hum", "LABELLED"),
        ("hum", "hum;low", "classifier.multi_label=True"),
    ],
)
def test_a_prepared_corpus_whose_training_clips_are_alike_is_no_next_one(
    first, second, named, tmp_path
):
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(size=800) / 9, 16_000)
    listed, into = tmp_path / "m.csv", tmp_path / "prepared"
    listed.write_text(f"path,label,fold\n0.wav,{first},1\n1.wav,{second},1\n2.wav,hiss,2\n")
    assert prepare.main(["any", f"--source=manifest:{listed}", f"--output={into}"]) == 0
    config = pretrain.get_config("tiny")
    config.data.update(prepared=str(into), eval_folds=("2",))
    assert named in run._next(config, "runs/pretrain_tiny")


def test_the_table_says_once_more_what_is_without_labels_that_training_lacked():
    record = {"accuracy": 0.5, "mAP": 0.25, "chance_accuracy": 0.3, "chance_mAP": 0.2}
    more = {f"{name}_known": 2 * value for name, value in record.items()}
    assert len(run.table([("tuned", record), ("chance", run._chance(record))]).splitlines()) == 3
    lines = run.table([("tuned", record | more), ("chance", run._chance(more | record))])
    assert [line.split("  ")[0] for line in lines.splitlines()[1:]] == [
        "tuned",
        "chance",
        "tuned, of labels trained on",
        "chance, of labels trained on",
    ]
    assert lines.splitlines()[3].split()[-2:] == ["1.000", "0.500"]
    assert lines.splitlines()[4].split()[-2:] == ["0.600", "0.400"]


def test_the_verdict_compares_with_the_control_and_survives_lost_predictions(tmp_path):
    labels = np.eye(2)[np.arange(100) % 2]
    wrong = np.where(np.arange(100)[:, None] < 30, 1 - labels, labels)
    for folder, logits in ((tmp_path, labels), (tmp_path / "scratch", wrong)):
        folder.mkdir(exist_ok=True)
        names = np.arange(100).astype(str)
        predictions.save(folder / "predictions.npz", names, logits, labels, ["a", "b"], 3)
    said = run._verdict(tmp_path, control=True, multi_label=False)
    assert said == "Better than always the commonest class. Better than a random encoder."
    said = run._verdict(tmp_path, control=False, multi_label=False)
    assert said == "Better than always the commonest class."
    (tmp_path / "predictions.npz").unlink()
    assert run._verdict(tmp_path, control=True, multi_label=False) == ""


def test_a_probe_without_a_corpus_says_whose_clips_it_has_heard():
    config = finetune.get_config("probe")
    assert "synthetic corpus: --config.data.manifest=FILE" in run._synthetic(config)
    config.data.manifest = "my.csv"
    assert run._synthetic(config) == ""
    assert run._synthetic(finetune.get_config()) == ""
