"""What a run and a study left in their folders, read once; what is missing is said, not guessed."""

import csv
import dataclasses
import json
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from conformer_jax import fields
from conformer_jax.data.folds import folder_name
from conformer_jax.errors import UserError
from conformer_jax.evaluation.predictions import Predictions, load
from conformer_jax.training import progress


@dataclasses.dataclass
class Run:
    """One workdir."""

    name: str
    path: pathlib.Path
    config: ml_collections.ConfigDict | None
    records: list[dict]
    predictions: Predictions | None
    bad_audio: list[tuple[str, str]]  # (file, reason)
    left_out: list[str]  # sentences on what is not there
    is_control: bool = False  # the same from scratch, in `scratch/` of another run

    @property
    def task(self) -> str:
        """As in the config; without one 'pretrain' or 'finetune', by what was logged."""
        if self.config is not None:
            return self.config.task
        losses = {"contrastive_loss", "clip_loss"}
        contrastive = any(losses & record.keys() for record in self.records)
        return "pretrain" if contrastive else "finetune"

    def last(self, split: str) -> dict:
        """The newest record of 'train' or 'eval', {} where there is none."""
        return next((r for r in reversed(self.records) if r["split"] == split), {})

    def series(self, name: str, split: str) -> tuple:
        """(step, value or None) of a metric, in order; () where it was never logged."""
        points = [(r["step"], r[name]) for r in self.records if r["split"] == split and name in r]
        return tuple(points) if any(value is not None for _, value in points) else ()


@dataclasses.dataclass
class Study:
    """A folder of several runs: label efficiency or another study, cross-validation."""

    name: str
    path: pathlib.Path
    efficiency: dict | None
    arms: dict | None  # of a study that has no shares of labels
    folds: dict | None
    fold_runs: list[Run]


class Found(NamedTuple):
    """All that there is to report on, and why the rest is left out, a line each."""

    runs: list[Run]
    studies: list[Study]
    unusable: list[str]


def read_all(paths) -> Found:
    """Runs, each followed by its control from `scratch/`, and studies, in the order given.

    A folder that is not there or holds nothing to report on, and one with a file of a study that
    cannot be read, is left out.

    Raises:
      UserError: no folder is left; what is wrong with the first.
    """
    found = Found([], [], [])
    for name, path in _names([pathlib.Path(path) for path in paths]).items():
        try:
            runs, study = _folder(name, path)
        except UserError as error:
            found.unusable.append(str(error))
            continue
        found.runs.extend(runs)
        found.studies.extend([study] if study else [])
    if not found.runs and not found.studies:
        raise UserError(found.unusable[0])
    return found


def _folder(name, path):
    if not path.is_dir():
        raise UserError(f"{path} is no folder: name the workdir of a run, such as runs/pretrain")
    study, run = _study(name, path), read_run(name, path)
    control = read_run(f"{name}, from scratch", path / "scratch")
    if control is not None:
        control.is_control = True
    if study is None and run is None and control is None:
        raise UserError(
            f"{path} holds nothing to report on (no metrics.jsonl, predictions.npz, "
            f"study.json, label_efficiency.json or folds.json): name the workdir of a run"
        )
    return [r for r in (run, control) if r is not None], study


_NO_FOLD_DONE = {"folds": {}, "mean": {}, "deviation": {}, "interval95": {}, "missing": []}


def read_run(name: str, path: pathlib.Path) -> Run | None:
    """A run's folder; None where it has neither records nor predictions."""
    records = [r for r in progress.read_records(path / "metrics.jsonl") if _is_record(r)]
    left_out = []
    predictions = None
    file = path / "predictions.npz"
    if file.exists():
        try:
            predictions = load_predictions(file)
        except UserError as error:
            left_out.append(f"Classes and mistakes: {error}.")
    if not records and predictions is None:
        return None
    config = _config(path / "config.json", left_out)
    if not records:
        left_out.append("Curves: there is no metrics.jsonl.")
    run = Run(name, path, config, records, predictions, _bad_audio(path, left_out), left_out)
    if run.task != "pretrain" and not file.exists():
        left_out.append("Classes and mistakes: there is no predictions.npz.")
    return run


def load_predictions(path) -> Predictions:
    """predictions.npz, with labels float32 and names as lists.

    Raises:
      UserError: it cannot be read, or holds what cannot be ranked.
    """
    found = load(path)
    if not len(found.ids):
        raise UserError(f"{path} holds no clip: evaluate again")
    if not np.isfinite(found.logits).all():
        raise UserError(f"{path} holds logits that are not finite: the model has diverged")
    return found._replace(
        ids=found.ids.tolist(),
        labels=found.labels.astype(np.float32),
        label_names=found.label_names.tolist(),
    )


def _names(paths):
    """Short distinct names: the last part of each path, more parts where these agree."""
    parts = {path: path.resolve().parts for path in dict.fromkeys(paths)}
    for depth in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = ["/".join(p[-depth:]).lstrip("/") for p in parts.values()]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, parts, strict=True)) if parts else {}


def _is_record(record):
    return (
        isinstance(record, dict)
        and isinstance(record.get("step"), int)
        and record.get("split") in ("train", "validation", "eval")
    )


def _config(path, left_out):
    reason = "there is no config.json"
    if path.exists():
        try:
            return ml_collections.ConfigDict(fields.with_defaults(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = f"config.json cannot be read ({error})"
    left_out.append(f"Settings, healthy ranges and sounds: {reason}.")
    return None


def _bad_audio(path, left_out):
    """Of several processes each lists what it could not read."""
    found = {}
    for file in sorted(path.glob("bad_audio*.csv")):
        try:
            with file.open(encoding="utf-8", errors="replace", newline="") as lines:
                rows = list(csv.DictReader(lines))
        except csv.Error as error:
            left_out.append(f"Files left out of the run: {file.name} is damaged ({error}).")
            continue
        found |= {row.get("path") or "": row.get("reason") or "" for row in rows}
    return list(found.items())


def _study(name, path):
    efficiency, folds = (_json(path / f) for f in ("label_efficiency.json", "folds.json"))
    arms = _json(path / "study.json") if efficiency is None else None
    if folds is None:  # none is done yet
        names = {folder.name: folder.name.replace("_", " ", 1) for folder in path.glob("fold_*")}
    else:  # others there may be of an earlier cross-validation
        of_study = [*folds["folds"], *folds.get("missing", ())]
        names = {folder_name(fold): f"fold {fold}" for fold in of_study}
    runs = [read_run(names[folder], path / folder) for folder in sorted(names)]
    runs = [run for run in runs if run]
    if efficiency is None and arms is None and folds is None and not runs:
        return None
    if folds is None and runs:
        folds = _NO_FOLD_DONE
    return Study(name, path, efficiency, arms, folds, runs)


def _json(path):
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if path.name == "folds.json":
            for part in (content, content.get("control") or content):
                rows = [*part["folds"].values(), part["mean"], part.get("deviation", {})]
                [float(value) for row in rows for value in row.values()]
        else:
            for record in content["records"]:
                if path.name == "study.json" and not isinstance(record["arm"], str):
                    raise ValueError(f"arm {record['arm']!r}")
                [float(record[key]) for key in ("share", "accuracy", "mAP", "seed")]
                if record["init"] not in ("pretrained", "scratch") or record["share"] <= 0:
                    raise ValueError(f"init {record['init']!r}, share {record['share']!r}")
            if not content["records"]:
                raise ValueError("no records")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not as expected ({type(error).__name__}: {error}): write it again"
        ) from error
    return content
