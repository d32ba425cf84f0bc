"""A model as a folder to hand on: `config.json`, `model.safetensors`, and a model card."""

import hashlib
import json
import os
import pathlib
import shutil

from conformer_jax import fields
from conformer_jax.errors import UserError
from conformer_jax.training import model_file

FORMAT = 1
_KEY = "conformer_jax_bundle"  # in config.json: the format of the folder
_CONFIG, _CARD = "config.json", "README.md"
_LONGEST_CONFIG = 32 << 20  # bytes


def is_one(folder) -> bool:
    """Whether the folder says that it is a bundle; nothing else is checked."""
    file = pathlib.Path(folder, _CONFIG)
    try:
        if file.stat().st_size > _LONGEST_CONFIG:
            return False
        return _KEY in json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def check(folder) -> None:
    """Raises UserError unless config.json and model.safetensors belong together and are whole."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / _CONFIG).read_bytes())
    version = config.pop(_KEY)
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"{folder} is a bundle of format {version}, this version reads up to {FORMAT}: install "
            f"a newer conformer_jax"
        )
    path = folder / model_file.NAME
    meta = model_file.read_meta(path)
    if config.pop("sha256", None) != _sha256(path):
        raise UserError(f"{path} is not what {_CONFIG} was written for: fetch the bundle again")
    if config != json.loads(json.dumps(meta)):
        raise UserError(f"{folder / _CONFIG} is not what {path.name} says: fetch the bundle again")


def write(folder, meta: dict, tensors: dict, card: str, *, overwrite: bool = False) -> None:
    """Writes the folder; it is there whole or not at all.

    Args:
      folder: new, or an older bundle where `overwrite`.
      meta, tensors: as of trained.Trained.
      card: text of README.md.
      overwrite: whether a bundle that is there may be replaced.

    Raises:
      UserError: it exists, or the model is not finite.
      OSError: no room, no rights.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (overwrite and is_one(folder)):
        hint = "--overwrite replaces it" if is_one(folder) else "choose another"
        raise UserError(f"{folder} exists: {hint}")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        path = temporary / model_file.NAME
        model_file.save(path, meta, tensors)
        config = {_KEY: FORMAT, "sha256": _sha256(path), **meta}
        (temporary / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        (temporary / _CARD).write_text(card, encoding="utf-8")
        _put(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put(temporary, folder):
    """Moves a folder to its place; what was there stays until that is done, whatever happens."""
    aside = folder.with_name(folder.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)  # of a kill
    if folder.exists():
        os.replace(folder, aside)
    try:
        os.replace(temporary, folder)
    except BaseException:
        if aside.exists():
            os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def card(
    meta: dict,
    *,
    title: str,
    licence: str = "",
    figures: dict | None = None,
    heard: dict | None = None,
) -> str:
    """The model card: YAML front matter, and what is known of the model.

    Args:
      meta: as of trained.Trained.
      title: of the card.
      licence: identifier of the weights' licence; '' leaves it to be filled in.
      figures: of the held-out clips, by name.
      heard: what is known of the clips that it was trained on, by name.
    """
    config, labels = fields.with_defaults(meta["config"]), meta["label_names"]
    features, encoder = config["features"], config["conformer"]
    kind = {"classifier": "a linear head", "knn": "nearest neighbours", "encoder": "no head"}
    front = ["---", f"license: {licence or 'unknown'}", "library_name: conformer_jax"]
    front += ["pipeline_tag: audio-classification"] if labels else []
    front += ["tags:", "- audio", "- sound-event-detection", "- conformer", "---", ""]
    classifier = config["classifier"]
    crops = f", heard in {classifier['crops']} crops of {classifier['crop_s']:g} s"
    rows = {
        "Model": f"Conformer, width {encoder['width']}, {len(encoder['kernel_sizes'])} blocks, "
        f"{kind[meta['kind']]}",
        "Input": f"mono, {features['sample_rate']} Hz (others are resampled), windows of "
        f"{config['data']['clip_s']:g} s{crops if classifier['crops'] else ''}; feature "
        f"statistics are in the file",
        "Labels": f"{len(labels)}, in this order: {', '.join(labels)}" if labels else "none",
        "Several labels at once": "yes" if config["classifier"]["multi_label"] else "no",
        "Thresholds": "chosen on validation clips, in the file" if meta["thresholds"] else "none",
        "Steps of training": str(meta["step"]),
        "Versions": ", ".join(f"{name} {v}" for name, v in sorted(meta["versions"].items())),
    }
    if not meta["step"]:  # a probe takes none
        del rows["Steps of training"]
    if not labels:
        del rows["Several labels at once"], rows["Thresholds"]
    lines = [*front, f"# {title}", "", "```python", "import conformer_jax", ""]
    lines += [f'model = conformer_jax.load("{title}")', "```", "", "| | |", "|---|---|"]
    lines += [
        f"| {name} | {' '.join(text.split())} |".replace("\n", " ") for name, text in rows.items()
    ]
    if figures:
        lines += ["", "## Figures", "", "On the held-out clips of its run, one split:", ""]
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in figures.items()]
    lines += ["", "## What it has heard", ""]
    lines += [f"- {name}: {value}" for name, value in (heard or {"clips": "not recorded"}).items()]
    lines += [
        "",
        "## To be filled in",
        "",
        "Where its training sounds come from, its licence, what it cannot do.",
    ]
    return "\n".join(lines) + "\n"


def _sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
