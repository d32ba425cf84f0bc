"""Fine-tuning from a pre-training run, and the same from scratch beside it.

`configs/finetune.py` goes on from the demo's `runs/pretrain`. Variants:
    :smoke, :tiny, :small, :large   go on from runs/pretrain_<variant>
    :probe                          a linear probe on the frozen encoder that comes with the
                                    package: in a minute, what it is worth on sound of one's own
    :esc50                          ESC-50 fold 1, from the encoder that comes with the package;
                                    needs --config.data.manifest=FILE with a fold column, or
                                    --config.data.prepared=DIR
    :esc50_long                     80 passes over short, mixed crops: half an hour on one core
    :hear                           as the benchmark HEAR judges the frozen encoder: a shallow
                                    network on its embeddings, the best of a grid
    :audioset, :audioset20k, :mtat, :kinetics, :us8k, :fsd50k
                                    the paper's table, and two more corpora (configs/table.py)
"""

import dataclasses

from configs import base, pretrain, table
from conformer_jax.models.conformer import SIZES

VARIANTS = (
    "smoke",
    "tiny",
    "small",
    "large",
    "probe",
    "esc50",
    "esc50_long",
    "hear",
    *table.FINETUNE,
)


def get_config(variant: str = ""):
    base.check_variant(variant, VARIANTS)
    config = base.get_config()
    config.task = "finetune"
    config.name = f"finetune_{variant}" if variant else "finetune"
    config.init_from = f"runs/pretrain_{variant}" if variant else "runs/pretrain"
    if variant in table.FINETUNE:
        table.finetune(config, variant)
        return config
    {
        "": demo,
        "smoke": smoke,
        "tiny": tiny,
        "small": small,
        "large": large,
        "probe": probe,
        "esc50": esc50,
        "esc50_long": esc50_long,
        "hear": hear,
    }[variant](config)
    return config


def demo(config):
    """A few labelled synthetic clips a class, one class a clip."""
    pretrain.demo(config)
    config.compare_with_scratch = True
    config.synthetic.update(num_train=512, num_eval=256, max_classes=1)
    config.data.update(labels_per_class=4, batch_size=16, eval_batch_size=32)
    config.optimizer.learning_rate = 5e-4
    config.train.update(num_steps=60, log_every=10, eval_every=1000)
    config.checkpoint.every_steps = 1000


def smoke(config):
    """A toy encoder and a dozen steps; learns nothing."""
    pretrain.smoke(config)
    config.synthetic.max_classes = 1
    config.compare_with_scratch = True


def tiny(config):
    """A few thousand labelled clips on a few cores or one GPU."""
    config.conformer.update(dataclasses.asdict(SIZES["tiny"]))
    config.compare_with_scratch = True
    config.synthetic.max_classes = 1
    config.augment.update(mixup_alpha=0.5, time_masks=2, freq_masks=2)
    config.optimizer.learning_rate = 5e-4
    config.train.update(num_steps=600, log_every=20, eval_every=200)
    config.checkpoint.every_steps = 200


def small(config):
    """The paper's small encoder."""
    tiny(config)
    config.conformer.update(dataclasses.asdict(SIZES["small"]), dtype="bfloat16")
    config.optimizer.learning_rate = 2e-4
    config.train.num_steps = 4000


def large(config):
    """The paper's large encoder."""
    small(config)
    config.conformer.update(dataclasses.asdict(SIZES["large"]), dtype="bfloat16")
    config.optimizer.learning_rate = 1e-4


def probe(config):
    """Seconds of training once every clip is embedded; on ESC-50 0.772 (docs/results.md)."""
    tiny(config)
    config.update(name="probe", task="linear_probe", init_from="pretrained:tiny")
    config.classifier.update(pooling="statistics", layers="all")
    config.data.eval_share = 0.2  # of a few hundred clips, a twentieth says nothing


def hear(config):
    """HEAR's protocol; with folds: python -m conformer_jax.cross_validate, same arguments."""
    probe(config)
    config.update(name="hear", task="mlp_probe", compare_with_scratch=False)


def esc50(config):
    """ESC-50 (Piczak 2015), trained on folds 2 to 5 and evaluated on fold 1, on two CPU cores.

    The head starts from the probe, and few gentle steps follow, without what changes the statistics
    that it reads: harder ones fell behind the probe in as many steps (docs/results.md).
    """
    probe(config)
    config.update(name="finetune_esc50", task="finetune")
    config.classifier.init = "probe"
    config.conformer.dropout = 0.0
    config.augment.update(mixup_alpha=0.0, time_masks=0, freq_masks=0)
    config.optimizer.update(learning_rate=1e-4, head_multiplier=0.1)
    config.data.update(batch_size=16, eval_folds=("1",))
    config.train.update(num_steps=120, eval_every=0)


def esc50_long(config):
    """ESC-50 as the literature fine-tunes small models: many passes over short crops, two classes
    mixed (EnvNet-v2, Tokozume et al. 2018); and crops that sound as the views which the encoder
    knows.

    The head starts from the probe, moves at a tenth of the rate, and is fitted anew at the end,
    which is worth 3 to 5 points (docs/results.md). Left out are dropout and SpecAugment, which
    change the statistics that it reads, and layer decay, with which more steps were worth nothing.
    With a share of the labels take that share of the steps. From scratch other values are better:
    --config.init_from='' --config.classifier.init=random --config.classifier.refit=False
    --config.augment.views=0 --config.optimizer.head_multiplier=1
    --config.optimizer.learning_rate=2e-3 --config.train.num_steps=4000.
    """
    esc50(config)
    config.name = "finetune_esc50_long"
    config.classifier.update(crop_s=2.0, dropout=0.0, refit=True)
    config.losses.label_smoothing = 0.1
    config.augment.update(speed=1.25, gain_db=6.0, between_class=1.0, views=1.0)
    config.optimizer.update(learning_rate=1e-3, head_multiplier=0.1)
    config.optimizer.update(weight_decay=0.05, ema_decay=0.99)
    config.data.update(batch_size=64, eval_batch_size=32)
    config.train.update(num_steps=2000, log_every=50, eval_every=500)
    config.checkpoint.every_steps = 500
    config.compare_with_scratch = False
