"""Pre-training. `configs/pretrain.py` is the demo on the synthetic corpus, minutes on a laptop.

Variants:
    :clip    the demo with another objective: two views of a clip find each other
    :both    the demo with both objectives at once
    :smoke   seconds, for tests
    :tiny    3 M parameters, for hours of audio on a few cores or one small GPU
    :tiny_clip   the same, two views of a clip find each other: better on a few hours of audio
    :small   18.4 M parameters, the paper's small model
    :large   88.1 M parameters, the paper's large model
    :audioset_small, :audioset_large   the same on a prepared AudioSet (configs/table.py)
"""

import dataclasses

from configs import base, table
from conformer_jax.models.conformer import SIZES

VARIANTS = ("clip", "both", "smoke", "tiny", "tiny_clip", "small", "large", *table.PRETRAIN)


def get_config(variant: str = ""):
    base.check_variant(variant, VARIANTS)
    config = base.get_config()
    config.task = "pretrain"
    config.name = f"pretrain_{variant}" if variant else "pretrain"
    # What target='gumbel' learns with from the start, keeps its codes in use and is worth what
    # linear targets are (docs/results.md); the defaults are wav2vec 2.0's.
    config.quantizer.update(logits="distance", init="clusters", num_groups=8, sharpness=100.0)
    if variant in table.PRETRAIN:
        table.pretrain(config, variant)
        if variant == "audioset_small":  # whose size those of the table have
            config.next_command = (
                "python -m conformer_jax.main --config=configs/finetune.py:audioset20k"
            )
        return config
    make = {
        "": demo,
        "clip": clip,
        "both": both,
        "smoke": smoke,
        "tiny": tiny,
        "tiny_clip": tiny_clip,
        "small": small,
        "large": large,
    }
    make[variant](config)
    # What follows is the same after any objective, on an encoder of the same size.
    follows = {"clip": "", "both": "", "tiny_clip": "tiny"}.get(variant, variant)
    suffix = f":{follows}" if follows else ""
    config.next_command = f"python -m conformer_jax.main --config=configs/finetune.py{suffix}"
    return config


def demo(config):
    """The tiny encoder on the synthetic corpus."""
    config.conformer.update(dataclasses.asdict(SIZES["tiny"]))
    config.synthetic.num_train = 1024
    config.synthetic.num_eval = 64
    config.synthetic.snr_db = (15.0, 40.0)  # noise cannot be predicted: less of it, faster learning
    config.data.batch_size = 16
    config.data.eval_batch_size = 32
    config.data.statistics_clips = 256
    config.optimizer.update(learning_rate=7e-4, warmup_share=0.1)
    config.train.num_steps = 200
    config.train.log_every = 10
    config.train.eval_every = 50
    config.checkpoint.every_steps = 100
    # As many clips as the demo hears cannot fill 320.
    config.quantizer.update(num_entries=64, num_groups=2, sharpness=30.0)


def clip(config):
    """The demo's sound and minutes, two views of a clip finding each other."""
    demo(config)
    config.objective = "clip"
    config.data.batch_size = 32
    config.optimizer.update(learning_rate=5e-4, b2=0.95, weight_decay=0.05)
    # 200 steps are too few for views that hide more: docs/results.md.
    config.views.update(mixup=0.0, noise=0.0, hidden_time=0.0, hidden_bands=0.0)


def both(config):
    """The sum of that and of the demo's objective."""
    clip(config)
    config.objective = "both"
    config.data.batch_size = 24
    config.optimizer.learning_rate = 7e-4  # of the demo: at less the other half learns nothing


def smoke(config):
    """A toy encoder and a dozen steps; learns nothing."""
    demo(config)
    config.conformer.update(
        feature_dim=16, width=16, num_heads=2, feed_forward_width=32, kernel_sizes=(5, 3)
    )
    config.data.update(batch_size=4, eval_batch_size=4, clip_s=1.0, statistics_clips=8)
    config.synthetic.update(num_train=32, num_eval=10)
    config.wav2vec2.update(num_distractors=10, projection_dim=16)
    config.quantizer.update(num_entries=8, code_dim=16)
    config.train.update(num_steps=12, log_every=4, eval_every=6)
    config.checkpoint.every_steps = 6


def tiny(config):
    """Hours of audio on two CPU cores, in under an hour; give a GPU more steps."""
    config.conformer.update(dataclasses.asdict(SIZES["tiny"]))
    config.data.batch_size = 32
    config.optimizer.learning_rate = 1e-3
    config.train.update(num_steps=1000, log_every=20, eval_every=250)
    config.checkpoint.every_steps = 250


def tiny_clip(config):
    """The same encoder, two views of a clip finding each other; three quarters of an hour."""
    tiny(config)
    config.objective = "clip"
    config.data.update(batch_size=64, eval_batch_size=64)
    config.train.num_steps = 2000
    config.optimizer.update(learning_rate=5e-4, warmup_share=0.1, b2=0.95, weight_decay=0.05)


def small(config):
    """The paper's small encoder; batch and steps are ours, for one GPU or a TPU slice."""
    config.conformer.update(dataclasses.asdict(SIZES["small"]), dtype="bfloat16")
    config.data.update(batch_size=256, eval_batch_size=256, clip_s=10.0)
    config.train.num_steps = 100_000


def large(config):
    """The paper's large encoder, likewise."""
    config.conformer.update(dataclasses.asdict(SIZES["large"]), dtype="bfloat16")
    config.data.update(batch_size=512, eval_batch_size=256, clip_s=10.0)
    config.optimizer.learning_rate = 3e-4
    config.train.num_steps = 200_000
