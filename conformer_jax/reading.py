"""Which fields a run reads: what it does not may differ between the run and its continuation."""

_TRAINED = ("pretrain", "finetune")
FROZEN = ("linear_probe", "knn", "mlp_probe")  # the encoder stays as it is: no steps
_LABELLED = ("finetune", *FROZEN)
TASKS = (*_TRAINED, *FROZEN)

# Which tasks read a section, or a field of one; all tasks read what is not named here. What a task
# does not read may differ between a run and its continuation.
_READ_BY = {
    "objective": ("pretrain",),
    "clip": ("pretrain",),
    "views": ("pretrain",),
    "target": ("pretrain",),
    "masking": ("pretrain",),
    "wav2vec2": ("pretrain",),
    "quantizer": ("pretrain",),
    "losses.diversity_weight": ("pretrain",),
    "losses.masked_weight": ("pretrain",),
    "losses.label_smoothing": ("finetune",),
    "monitor": ("pretrain",),
    "classifier": _LABELLED,
    "probe": _LABELLED,
    "augment": ("finetune",),
    "optimizer": _TRAINED,
    "optimizer.layer_decay": ("finetune",),
    "optimizer.head_multiplier": ("finetune",),
    "optimizer.freeze_encoder_share": ("finetune",),
    "checkpoint": _TRAINED,
    "data.unlabelled": _LABELLED,
    "data.labels_per_class": _LABELLED,
    "data.label_share": _LABELLED,
    "data.balanced": ("finetune",),
    "data.balanced_offset": ("finetune",),
    "train": _TRAINED,
    "compare_with_scratch": _LABELLED,
}

# And objectives that read no such section or field.
_NOT_OF = {
    "clip": ("wav2vec2",),
    "views": ("wav2vec2",),
    "losses.masked_weight": ("wav2vec2", "clip"),
    **dict.fromkeys(("target", "masking", "wav2vec2", "quantizer"), ("clip",)),
    "losses.diversity_weight": ("clip",),
}

# Of config.views what labelled clips are coloured by (steps/views.recolour).
_COLOURS = (
    "height",
    "noise",
    "noise_share",
    "equaliser",
    "equaliser_share",
    "cutoff_share",
    "ramp",
)


def is_read(name: str, config: dict) -> bool:
    """Whether a run of this saved config reads the field, such as 'masking.span_length'."""
    section = name.partition(".")[0]
    if section == "views" and config["task"] == "finetune":
        return name.removeprefix("views.") in _COLOURS and config["augment"]["views"] > 0
    tasks = set(_READ_BY.get(section, TASKS)) & set(_READ_BY.get(name, TASKS))
    if config["objective"] in _NOT_OF.get(name, _NOT_OF.get(section, ())):
        return False
    if section == "quantizer" and config["target"] != "gumbel":
        return False
    if name == "classifier.crop_s" and config["task"] in FROZEN:
        return config["classifier"]["crops"] > 0
    if name == "quantizer.sharpness" and config["quantizer"]["logits"] != "distance":
        return False
    if name == "quantizer.code_dim" and config["quantizer"]["logits"] == "distance":
        return False
    if section == "synthetic" and any(
        config["data"][given] for given in ("manifest", "tfds_name", "prepared")
    ):
        return False
    if section == "monitor" and not config["monitor"]["manifest"]:
        return False
    if name == "data.unlabelled" and not config["classifier"]["multi_label"]:
        return False
    if section == "probe" and config["task"] == "finetune":
        return config["classifier"]["init"] == "probe" or config["classifier"]["refit"]
    return config["task"] in tasks
