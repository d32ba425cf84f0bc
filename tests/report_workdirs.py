"""Folders as runs and studies leave them, written by hand: what test_report.py reports on."""

import json

import numpy as np

from configs import finetune, pretrain
from conformer_jax.data.synthetic import CLASS_NAMES, CORPUS_SEED, clip_labels

EVIL = '<script>alert("x")</script>&\'"'
SHARES = (0.1, 0.25, 1.0)


def write_all(root):
    """Every kind of folder the report knows; returns their paths in the order to give them."""
    pretrained = write_pretraining(root / "pretrain")
    linear = write_pretraining(root / "linear", target="linear")
    tuned = write_finetuning(root / "finetune")
    write_finetuning(root / "finetune" / "scratch", predictions=False)
    many = write_many_classes(root / "many")
    return [pretrained, linear, tuned, many, write_study(root / "study"), write_folds(root / "cv")]


def write_pretraining(folder, target="gumbel"):
    """Twelve training records, one of them not finite, and three evaluations; healthy."""
    config = pretrain.get_config("smoke")
    config.target = target
    records = []
    for step in range(1, 13):
        learned = step / 12
        record = {
            "step": step,
            "split": "train",
            "contrastive_accuracy": 0.1 + 0.5 * learned,
            "contrastive_loss": 2.4 - learned if step != 7 else None,
            "chance_accuracy": 0.12,
            "similarity_positive": 0.6 * learned,
            "similarity_negative": 0.1 * learned,
            "target_deviation": 0.95,
            "loss": 2.5 - learned,
        }
        if target == "gumbel":
            for group in (0, 1):
                record[f"code_perplexity_{group}"] = 8.0 - 5 * learned - group
                record[f"code_used_{group}"] = 1.0 - 0.2 * learned
            record["code_perplexity"] = 7.0 - 5 * learned
            record |= {"diversity_loss": 0.5, "gumbel_temperature": 2.0 - learned}
        records.append(record | {"finite": 1.0, "gradient_norm": 2.0, "clips_per_s": 30 + step})
        records[-1]["learning_rate"] = 1e-3 * learned
        if step % 4 == 0:
            records.append(record | {"split": "eval"})
    return write_run(folder, config, records)


def write_finetuning(folder, predictions=True):
    """A run on the synthetic corpus: 10 clips of 1 s, of which 4 are taken for another class."""
    config = finetune.get_config("smoke")
    records = [
        {"step": s, "split": "train", "loss": 3.0 / s, "accuracy": s / 12, "finite": 1.0}
        | {"gradient_norm": 1.0, "learning_rate": 1e-3, "clips_per_s": 9.5}
        for s in range(1, 13)
    ]
    held_out = {"accuracy": 0.6, "mAP": 0.7, "loss": 1.5, "chance_accuracy": 0.1, "chance_mAP": 0.1}
    held_out |= {"heard": 3.0, "heard_of": 11.0, "copies": 2.0}
    records.append({"step": 12, "split": "eval"} | held_out)
    write_run(folder, config, records)
    if predictions:
        ids = [f"synthetic/eval/{i:06d}" for i in range(10)]
        truth = np.array([clip_labels(CORPUS_SEED, "eval", i, max_classes=1)[0] for i in range(10)])
        said = truth.copy()
        said[:4] = (truth[:4] + 1) % len(CLASS_NAMES)
        # A class more than the corpus has; the last clip is no longer part of it.
        names = [*CLASS_NAMES, EVIL]
        logits = np.zeros((11, len(names)))
        logits[np.arange(10), said] = np.linspace(9, 4, 10)
        logits[10, -1] = 5
        labels = np.eye(len(names))[[*truth, truth[0]]]
        write_predictions(folder, [*ids, f"gone/{EVIL}.wav"], logits, labels, names)
    return folder


def write_many_classes(folder, num_classes=60):
    """Several labels a clip, more classes than a table holds, no audio any more; no records."""
    config = finetune.get_config("esc50")
    config.classifier.multi_label = True
    config.data.manifest = "nowhere.csv"
    write_run(folder, config, [])
    rng = np.random.default_rng(0)
    labels = (rng.random((200, num_classes)) < 0.03).astype(np.int8)
    labels[np.arange(200), np.arange(200) % num_classes] = 1
    logits = rng.normal(size=labels.shape) + 3 * labels - 2
    names = [f"class {c}" for c in range(num_classes - 1)] + [EVIL]
    write_predictions(folder, [f"{i}.wav" for i in range(200)], logits, labels, names)
    (folder / "bad_audio.csv").write_text(f"path,reason\nbroken.wav,empty file\nb,<b>{EVIL[:8]}\n")
    return folder


def write_study(folder):
    """Label efficiency: two seeds each, pre-trained 0.2 above scratch, seeds 0.04 apart."""
    records = [
        {
            "share": share,
            "init": init,
            "seed": seed,
            "accuracy": 0.3 + 0.4 * share + 0.2 * (init == "pretrained") + 0.04 * seed,
            "mAP": 0.35 + 0.4 * share + 0.2 * (init == "pretrained"),
            "clips": round(400 * share),
        }
        for share in SHARES
        for init in ("pretrained", "scratch")
        for seed in (0, 1)
    ]
    folder.mkdir(parents=True)
    study = {"records": records, "caption": f"Caption {EVIL}"}
    (folder / "label_efficiency.json").write_text(json.dumps(study))
    return folder


def write_folds(folder):
    """Two folds of 3 clips of two classes: 2 and 1 of them right."""
    for name, said in (("1", [0, 1, 1]), ("2", [0, 0, 1])):
        run = write_run(folder / f"fold_{name}", finetune.get_config("smoke"), [])
        logits, labels = 3 * np.eye(2)[said], np.eye(2)[[0, 1, 0]]
        write_predictions(run, ["a", "b", "c"], logits, labels, ["rain", "wind"])
    figures = {"1": {"accuracy": 2 / 3, "mAP": 0.9}, "2": {"accuracy": 1 / 3, "mAP": 0.5}}
    summary = {
        "folds": figures,
        "mean": {"accuracy": 0.5, "mAP": 0.7},
        "deviation": {"accuracy": 0.236, "mAP": 0.283},
        "interval95": {"accuracy": [0.1, 0.9]},
        "heard": 4,
        "heard_of": 6,
        "copies": 1,
    }
    (folder / "folds.json").write_text(json.dumps(summary))
    return folder


def write_run(folder, config, records):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    if records:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(lines)
    return folder


def write_predictions(folder, ids, logits, labels, names):
    np.savez(
        folder / "predictions.npz",
        format=1,
        ids=np.array(ids),
        logits=np.asarray(logits, np.float32),
        labels=np.asarray(labels, np.int8),
        label_names=np.array(names),
        step=12,
    )
