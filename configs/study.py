"""What pre-training is worth: the questions of `python -m conformer_jax.study`.

    :label_efficiency   accuracy against the share of labels, from scratch and pre-trained
    :target             linear against Gumbel targets
    :corpus             pre-training on unlabelled sound alone, or on the training folds, too
    :masking            share and span of what is masked
    :frozen             linear probe and neighbours of the frozen encoder against fine-tuning

`config.pretrain` and `config.finetune` are full configs (those of configs/pretrain.py:tiny and
configs/finetune.py:esc50), and `config.arms` says what each arm changes in them: any field, for
any corpus with a manifest.
"""

import ml_collections

from configs import base, finetune, pretrain

VARIANTS = ("label_efficiency", "target", "corpus", "masking", "frozen")


def get_config(variant: str = "label_efficiency"):
    base.check_variant(variant, VARIANTS)
    config = ml_collections.ConfigDict()
    config.name = f"study_{variant}"
    config.seeds = (0, 1, 2)
    config.pretrain = pretrain.get_config("tiny")
    config.finetune = finetune.get_config("esc50")
    config.finetune.compare_with_scratch = False
    # Workdir of a finished pre-training run for the arms that change nothing in it; '' runs it.
    config.finetune.init_from = ""
    arms = {
        "label_efficiency": label_efficiency,
        "target": target,
        "corpus": corpus,
        "masking": masking,
        "frozen": frozen,
    }[variant]()
    # (name, ((change, value), ...)) of each; a change is 'pretrain.<field>', 'finetune.<field>',
    # 'scratch' (no encoder) or 'with_training_folds' (pre-trains on finetune's training clips too).
    config.arms = tuple((name, tuple(changes.items())) for name, changes in arms.items())
    return config


def label_efficiency():
    shares = {"1/10": 0.1, "1/5": 0.2, "1/3": 1 / 3, "2/3": 2 / 3, "all": 1.0}
    return {
        f"{name} of the labels, {origin}": {
            "finetune.data.label_share": share,
            "scratch": origin == "from scratch",
        }
        for name, share in shares.items()
        for origin in ("pre-trained", "from scratch")
    }


def target():
    return {"linear": {}, "gumbel": {"pretrain.target": "gumbel"}}


def corpus():
    return {
        "unlabelled corpus alone": {},
        "and the training folds": {"with_training_folds": True},
    }


def masking():
    return {
        f"probability {probability}, span {span}": {
            "pretrain.masking.probability": probability,
            "pretrain.masking.span_length": span,
        }
        for probability, span in ((0.3, 3), (0.5, 3), (0.65, 3), (0.3, 1), (0.3, 6), (0.65, 10))
    }


def frozen():
    tasks = {"fine-tuned": "finetune", "linear probe": "linear_probe", "neighbours": "knn"}
    return {
        f"{name}, {origin}": {"finetune.task": task, "scratch": origin == "from scratch"}
        for name, task in tasks.items()
        for origin in ("pre-trained", "from scratch")
    }
