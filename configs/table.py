"""The rows of the paper's table, as variants of pretrain.py and finetune.py. None has been run.

Each reads what `python -m conformer_jax.prepare CORPUS --source=... --output=prepared` has written
(docs/data.md); --config.data.prepared names another folder. 'The paper' is Srivastava et al. 2022,
whose encoder heard 67,000 h of users' videos before: with AudioSet alone expect less. Learning
rates, steps and augmentation are ours.

Hours are the TPU compiler's estimate of the steps alone (`python -m conformer_jax.compile`, in
docs/results.md), on a slice of 8 or 64 v5e chips; none was measured. They are a lower bound: sound
that is read more slowly (`benchmark --data`), evaluating and saving come on top.
"""

import dataclasses

from conformer_jax.models.conformer import SIZES

PRETRAIN = ("audioset_small", "audioset_large")
FINETUNE = ("audioset", "audioset20k", "mtat", "kinetics", "us8k", "fsd50k")


def pretrain(config, variant):
    """audioset_small, audioset_large: 18.4 M and 88.1 M parameters on both training splits.

    python -m conformer_jax.main --config=configs/pretrain.py:audioset_small

    About 2 million clips of 10 s, 5,600 h, if none is missing, which 100,000 steps of 256 clips
    hear 13 times. eval is held out, and no label is read. Small: 1.0 h on 8 chips, 0.26 h on 64;
    large: 8.6 h on 8 (--config.train.accumulate=4), 1.5 h on 64.
    """
    large = variant == "audioset_large"
    config.conformer.update(
        dataclasses.asdict(SIZES["large" if large else "small"]), dtype="bfloat16"
    )
    config.data.update(
        prepared="prepared/audioset",
        batch_size=512 if large else 256,
        eval_batch_size=256,
        clip_s=10.0,
        eval_folds=("eval",),
    )
    if large:
        config.optimizer.learning_rate = 3e-4
    config.train.num_steps = 200_000 if large else 100_000


def finetune(config, variant):
    """The small encoder of pretrain.py:audioset_small on the labels of a corpus; see below.

    python -m conformer_jax.main --config=configs/finetune.py:audioset
    """
    config.conformer.update(dataclasses.asdict(SIZES["small"]), dtype="bfloat16")
    config.init_from = "runs/pretrain_audioset_small"
    config.optimizer.learning_rate = 2e-4
    config.augment.update(mixup_alpha=0.5, time_masks=2, freq_masks=2)
    config.data.update(batch_size=128, eval_batch_size=128, clip_s=10.0)
    {
        "audioset": audioset,
        "audioset20k": audioset20k,
        "mtat": mtat,
        "kinetics": kinetics,
        "us8k": us8k,
        "fsd50k": fsd50k,
    }[variant](config)


def audioset(config):
    """AudioSet, both training splits, drawn by class. The paper: mAP 0.415 (large model).

    2 million clips of 10 s; 0.6 h on 8 chips.
    """
    config.data.update(prepared="prepared/audioset", eval_folds=("eval",), balanced=True)
    config.classifier.update(multi_label=True, pooling="linear_softmax")
    config.train.num_steps = 100_000


def audioset20k(config):
    """AudioSet's balanced split alone. The paper: mAP 0.276.

    22,160 clips of 10 s as published; 0.06 h on 8 chips.
    """
    audioset(config)
    config.data.update(train_folds=("train_balanced",), balanced=False)
    config.train.num_steps = 10_000


def mtat(config):
    """MagnaTagATune's 50 commonest tags, judged on its test split. The paper: AUC 0.912.

    Clips of 29 s, of which 10 are heard at a time; 0.06 h on 8 chips.
    """
    config.data.update(prepared="prepared/magnatagatune", eval_folds=("test",))
    config.classifier.multi_label = True
    config.train.num_steps = 10_000


def kinetics(config):
    """The sound of Kinetics-700, judged on its validation split. The paper: accuracy 0.235.

    Clips of 10 s, as many as there are with sound; 0.3 h on 8 chips.
    """
    config.data.update(prepared="prepared/kinetics700", eval_folds=("validation",))
    config.train.num_steps = 50_000


def us8k(config):
    """UrbanSound8K, fold 1; for its figure cross_validate, over ten folds. No figure of the paper
    is known to us."""
    config.data.update(prepared="prepared/urbansound8k", eval_folds=("1",), clip_s=4.0)
    config.train.num_steps = 4000


def fsd50k(config):
    """FSD50K, judged on eval. No figure of the paper is known to us.

    10,231 clips to judge by; 0.06 h on 8 chips.
    """
    config.data.update(prepared="prepared/fsd50k", eval_folds=("eval",))
    config.classifier.multi_label = True
    config.train.num_steps = 10_000
