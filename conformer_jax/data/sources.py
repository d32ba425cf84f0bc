"""Which clips a run hears: of manifests, TFDS data sets and the synthetic corpus."""

import dataclasses
import logging
import os
from typing import NamedTuple

import numpy as np

from conformer_jax.data import labels, mixture, prepared, prepared_split
from conformer_jax.data.audio import BadAudio, BadAudioReport, DataError
from conformer_jax.data.content import of_rows
from conformer_jax.data.heard import of_contents
from conformer_jax.data.holdout import (
    fold_names,
    hold_out,
    say_labels_not_held_out,
    say_there_are_folds,
    split_rows,
)
from conformer_jax.data.manifest import read_manifest
from conformer_jax.data.sampling import few_labels
from conformer_jax.data.source import (
    ManifestSource,
    Source,
    Subset,
    TfdsSource,
    tfds_builder,
)
from conformer_jax.data.synthetic import SyntheticSource, SyntheticSpec

__all__ = [
    "BadAudio",
    "BadAudioReport",
    "Before",
    "DataError",
    "ManifestSource",
    "Source",
    "SourceSpec",
    "Sources",
    "Subset",
    "TfdsSource",
    "finish",
    "open_sources",
    "open_split",
    "source_spec",
]


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """Which clips a run trains on and which it evaluates on: fields of config.data and others.

    labelled: whether labels are needed; without, they are ignored. synthetic: of the corpus that
    is used where none of `manifest`, `tfds_name` and `prepared` is given; its clips have
    `num_samples`. is_added: whether it is a part of a mixture.
    """

    manifest: str
    tfds_name: str
    tfds_dir: str
    prepared: str
    mixture: tuple
    train_folds: tuple
    eval_folds: tuple
    eval_share: float
    unlabelled: str
    labels_per_class: int
    label_share: float
    sample_rate: int
    labelled: bool
    multi_label: bool
    seed: int
    synthetic: SyntheticSpec
    num_samples: int
    is_added: bool = False


def source_spec(config) -> SourceSpec:
    """From the full config."""
    data, sample_rate = config.data, config.features.sample_rate
    return SourceSpec(
        manifest=data.manifest,
        tfds_name=data.tfds_name,
        tfds_dir=data.tfds_dir,
        prepared=data.prepared,
        mixture=mixture.parts(data.mixture),
        train_folds=tuple(fold_names(data.train_folds)),
        eval_folds=tuple(fold_names(data.eval_folds)),
        eval_share=data.eval_share,
        unlabelled=data.unlabelled,
        labels_per_class=data.labels_per_class,
        label_share=data.label_share,
        sample_rate=sample_rate,
        labelled=config.task != "pretrain",
        multi_label=config.classifier.multi_label,
        seed=config.seed,
        synthetic=SyntheticSpec(**config.synthetic),
        num_samples=round(data.clip_s * sample_rate),
    )


class Sources(NamedTuple):
    """What is trained on and what is evaluated on."""

    train: Source
    held_out: Source


class Before(NamedTuple):
    """How a run that goes on had split its manifest: arguments of holdout.split_rows."""

    sides: dict[int, bool] | None = None
    by_name: bool = False


def open_sources(spec: SourceSpec, label_names=None, before: Before | None = None) -> Sources:
    """The sources to train on and to evaluate on.

    Args:
      spec: from `source_spec`.
      label_names: the classes of a checkpoint, whose order is taken; None for the data's own
        (of a manifest: its distinct labels, sorted).
      before: of a run that goes on.

    Raises DataError: whatever is wrong with the data as configured.
    """
    return finish(spec, *open_split(spec, label_names, before))


def open_split(spec: SourceSpec, label_names=None, before: Before | None = None) -> Sources:
    """`open_sources` before anything is left out of what is trained on (labels_per_class)."""
    fields = ("manifest", "tfds_name", "prepared")
    given = [f"config.data.{field}" for field in fields if getattr(spec, field)]
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} are both set: clear one")
    if spec.mixture:
        return _mixed(spec, label_names, before)
    if spec.manifest:
        return Sources(*_manifest_sources(spec, label_names, before or Before()))
    if spec.prepared:
        return Sources(*_prepared_sources(spec, label_names))
    if spec.tfds_name:
        train, held_out = _tfds_sources(spec)
        where = f"TFDS {spec.tfds_name}"
    else:
        named = {f: fold_names(getattr(spec, f)) for f in ("train_folds", "eval_folds")}
        if named := {field: folds for field, folds in named.items() if folds}:
            raise DataError(
                f"config.data names fold '{next(iter(named.values()))[0]}', and no corpus: name "
                "one that has folds, --config.data.manifest=FILE or --config.data.prepared=DIR; "
                "the synthetic corpus, which is heard otherwise, has none "
                f"({' '.join(f'--config.data.{field}=' for field in named)} to hear it)"
            )
        train, held_out = (_synthetic_source(spec, split) for split in ("train", "eval"))
        where = "the synthetic corpus"
    names = ()
    if spec.labelled:
        if not train.label_names:
            raise DataError(f"config.data.tfds_name: {where} has no labels to fine-tune on")
        names = train.label_names if label_names is None else label_names
        labels.check_names(train.label_names, names, where)
    if tuple(names) != tuple(train.label_names):
        train, held_out = Subset(train, None, names), Subset(held_out, None, names)
    return Sources(train, held_out)


def _mixed(spec, label_names, before):
    """The first corpus, with the training clips of the others (mixture.py) behind its own."""
    if not spec.manifest and not spec.prepared:
        raise DataError(
            "config.data.mixture adds to config.data.manifest or config.data.prepared: set one"
        )
    first = dataclasses.replace(spec, mixture=())
    alone = dataclasses.replace(first, train_folds=(), eval_folds=(), is_added=True)
    found = [open_split(first, None, before)]
    for part in spec.mixture:
        found.append(open_split(dataclasses.replace(alone, **part.fields), None, before))
    own = list(dict.fromkeys(name for split in found for name in split.train.label_names))
    names = tuple(own if label_names is None or not spec.labelled else label_names)
    labels.check_names(own, names, "config.data.mixture")
    # A part of a recording by its content or by its recording, as evaluations look for copies.
    known = lambda source: np.stack([source.contents(), source.wholes()])
    held_out = [known(split.held_out).ravel() for split in found]
    trains, paths = [], [spec.manifest or spec.prepared, *(part.path for part in spec.mixture)]
    for i, (split, path) in enumerate(zip(found, paths, strict=True)):
        others = of_contents(np.concatenate(held_out[:i] + held_out[i + 1 :]))
        fresh = np.flatnonzero(~others.has(known(split.train)).any(0))
        if left_out := len(split.train) - len(fresh):
            logging.info("%s: %d clips that others hold out are left out", path, left_out)
        trains.append(Subset(split.train, fresh, names))
    for share, path, train in zip(mixture.shares_of(spec.mixture), paths, trains, strict=True):
        logging.info("%.3g of every batch from %s: %d clips", share, path, len(train))
    prefixes = ["", *(part.prefix for part in spec.mixture)]
    return Sources(mixture.Joined(trains, prefixes), Subset(found[0].held_out, None, names))


def _synthetic_source(spec, split):
    return SyntheticSource(
        spec.synthetic,
        split,
        sample_rate=spec.sample_rate,
        num_samples=spec.num_samples,
        labelled=spec.labelled,
    )


def _manifest_sources(spec, label_names, before):
    manifest = spec.manifest
    rows = read_manifest(manifest)
    names = ()
    if spec.labelled:
        found = sorted({label for row in rows for label in row.labels})
        if not found:
            raise DataError(f"{manifest} has no labels to fine-tune on: fill its column 'label'")
        names = tuple(found if label_names is None else label_names)
        labels.check_names(found, names, manifest)
        rows = labels.usable(rows, manifest, spec.multi_label, spec.unlabelled)
    _check_files(rows, manifest)
    parts = split_rows(
        of_rows(rows, manifest),
        manifest,
        spec.train_folds,
        spec.eval_folds,
        spec.eval_share,
        before.sides,
        by_name=before.by_name,
        say_folds=not spec.is_added,
    )
    if spec.labelled and not spec.eval_folds:
        say_labels_not_held_out(parts)
    return tuple(ManifestSource(part, spec.sample_rate, names) for part in parts)


def _check_files(rows, manifest):
    """Raises DataError where half of a hundred rows or more name no file: a moved folder, which
    would be noticed only after compiling. Fewer are for the report of bad audio to judge."""
    looked_at = rows[:: -(-len(rows) // 100) or 1]
    missing = [row for row in looked_at if not os.path.exists(row.path)]
    if missing and 2 * len(missing) >= len(looked_at):
        raise DataError(
            f"{manifest}: {len(missing)} of {len(looked_at)} files looked at do not exist, such as "
            f"{missing[0].path}: paths are relative to the manifest's folder"
        )


def _prepared_sources(spec, label_names):
    opened = prepared.open_folder(spec.prepared)
    logging.info("%s", prepared.citation(opened.summary))
    names = tuple(opened.summary["classes"]) if spec.labelled else ()
    if spec.labelled and not names:
        raise DataError(f"{opened.folder} has no labels to fine-tune on: prepare it with labels")
    labelled_only = spec.labelled and not (spec.multi_label and spec.unlabelled == "negatives")
    chosen = prepared_split.choose(
        opened,
        spec.train_folds,
        spec.eval_folds,
        spec.eval_share,
        labelled_only=labelled_only,
    )
    known = {str(fold) for index in opened.index.values() for fold in index.folds if fold}
    named = spec.train_folds or spec.eval_folds or set(prepared.HELD_OUT_SPLITS) & set(opened.index)
    if known and not named and not spec.is_added:
        say_there_are_folds(str(opened.folder), tuple(sorted(known)), spec.eval_share)
    parts = [prepared.PreparedSource(opened, part, spec.sample_rate, names) for part in chosen]
    if label_names is None or not spec.labelled:
        return parts
    labels.check_names(names, label_names, str(opened.folder))
    return [Subset(part, None, label_names) for part in parts]


def _tfds_sources(spec):
    """Folds name splits here; without `eval_folds`: 'validation', or else a share of train."""
    name, folder, rate = spec.tfds_name, spec.tfds_dir, spec.sample_rate
    splits = tfds_builder(name, folder).info.splits
    eval_split = "+".join(spec.eval_folds) or ("validation" if "validation" in splits else "")
    train_split = "+".join(spec.train_folds) or "train"
    train = TfdsSource(name, train_split, folder, rate)
    if train.multi_label and spec.labelled and not spec.multi_label:
        raise DataError(_several_labels(f"TFDS {name}"))
    if eval_split:
        return train, TfdsSource(name, eval_split, folder, rate)
    chosen = hold_out(train.ids(), spec.eval_share, f"TFDS {name}")
    kept = [i for i in range(len(train)) if i not in chosen]
    return Subset(train, kept), Subset(train, sorted(chosen))


def finish(spec, train, held_out) -> Sources:
    """Checks that one-label tasks have one label, and keeps `labels_per_class`."""
    for source, purpose in ((train, "train on"), (held_out, "evaluate on")):
        if not len(source):
            raise DataError(f"no clip to {purpose}: check config.data (or config.synthetic)")
    if not spec.labelled:
        return Sources(train, held_out)
    if spec.tfds_name and spec.multi_label and spec.unlabelled == "skip":
        train, held_out = (
            Subset(source, np.flatnonzero(source.all_labels().counts))
            for source in (train, held_out)
        )
    if not spec.multi_label and not spec.tfds_name:
        for source in (train, held_out):
            several = np.flatnonzero(source.all_labels().counts > 1)
            if len(several):
                raise DataError(_several_labels(source.example_id(int(several[0]))))
    per_class, share = spec.labels_per_class, spec.label_share
    if spec.mixture and (per_class or share < 1):
        raise DataError(
            "config.data.labels_per_class and config.data.label_share choose clips of one corpus: "
            "leave config.data.mixture out"
        )
    if not 0 < share <= 1 or (per_class and share < 1):
        raise DataError(
            f"config.data.label_share = {share}: over 0 and at most 1, and 1 where "
            f"config.data.labels_per_class is set"
        )
    if per_class > 0 or share < 1:
        of_train = [train.labels(i) for i in range(len(train))]
        num_classes = len(train.label_names)
        if spec.multi_label:  # negatives of every class are counted as one more
            of_train = [of_clip or (num_classes,) for of_clip in of_train]
            num_classes += 1
        if not per_class:
            counts = np.bincount(
                [c for of_clip in of_train for c in of_clip], minlength=num_classes
            )
            per_class = np.maximum(np.rint(share * counts), 1)
        kept = few_labels(of_train, num_classes, per_class, spec.seed)
        logging.info("%d of %d labelled clips kept", len(kept), len(train))
        train = Subset(train, kept)
    return Sources(train, held_out)


def _several_labels(where) -> str:
    return f"{where} has more than one label: set --config.classifier.multi_label=True"
