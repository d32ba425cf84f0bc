"""Random access to examples: manifests of audio files, TFDS data sets, the synthetic corpus."""

import dataclasses
import logging
import os
from typing import NamedTuple

import numpy as np

from conformer_jax.data import labels
from conformer_jax.data.audio import (
    BadAudio,
    BadAudioReport,
    DataError,
    plan_crop,
    read_audio,
    resample,
)
from conformer_jax.data.holdout import fold_names, hold_out, split_rows
from conformer_jax.data.manifest import read_manifest
from conformer_jax.data.sampling import few_labels
from conformer_jax.data.synthetic import SyntheticSource, SyntheticSpec

__all__ = [
    "BadAudio",
    "BadAudioReport",
    "DataError",
    "ManifestSource",
    "Source",
    "SourceSpec",
    "Sources",
    "Subset",
    "TfdsSource",
    "open_sources",
    "source_spec",
]


class Source:
    """Examples 0 to len - 1. Methods are called from several threads at once.

    Attributes:
      sample_rate: Hz of what `read` returns.
      label_names: names of the classes in order; () where there are no labels.
    """

    sample_rate: int
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def example_id(self, i) -> str:
        """A name for messages and predictions; the path as the manifest writes it."""
        raise NotImplementedError

    def labels(self, i) -> tuple[int, ...]:
        """Indices into `label_names`; () where the example has none."""
        raise NotImplementedError

    def read(self, i, num_samples, position) -> np.ndarray:
        """Returns float32 [n], mono, n <= num_samples; shorter examples are not padded.

        A longer example is cropped: `position` in [0, 1) runs from the first possible start to
        the last; None takes the middle. Raises BadAudio.
        """
        raise NotImplementedError


class ManifestSource(Source):
    """Audio files listed in a manifest."""

    def __init__(self, rows, sample_rate, label_names=()):
        """`rows`: list of manifest.Row. Without `label_names` the rows' labels are ignored."""
        self.sample_rate = sample_rate
        self.label_names = tuple(label_names)
        self._rows = rows
        self._index = {name: c for c, name in enumerate(self.label_names)}

    def __len__(self):
        return len(self._rows)

    def example_id(self, i):
        return self._rows[i].name

    def labels(self, i):
        if not self._index:
            return ()
        return tuple(self._index[name] for name in self._rows[i].labels)

    def read(self, i, num_samples, position):
        return read_audio(self._rows[i].path, self.sample_rate, num_samples, position)


class TfdsSource(Source):
    """A split of a prepared TFDS data set with an `audio` feature, read without TensorFlow.

    `audio` is float, or integer with 16-bit full scale (as tfds.features.Audio stores it), [n] or
    [n, channels]. Labels come from `label` or `labels`, a ClassLabel or a sequence of them.
    """

    def __init__(self, name, split, data_dir, sample_rate):
        """Raises DataError: not prepared for random access, or without such a feature or split."""
        builder = _tfds_builder(name, data_dir)
        features = builder.info.features
        if "audio" not in features:
            raise DataError(f"config.data.tfds_name: {name} has no feature 'audio'")
        try:
            self._examples = builder.as_data_source(split=split)
        except Exception as e:
            raise DataError(_tfds_problem(name, data_dir, e)) from e
        self.sample_rate = sample_rate
        self._rate = getattr(features["audio"], "sample_rate", None) or sample_rate
        self._prefix = f"{name}/{split}"
        self._key = next((key for key in ("label", "labels") if key in features), None)
        feature = features[self._key] if self._key else None
        self.multi_label = hasattr(feature, "feature")  # a sequence
        names = getattr(feature.feature if self.multi_label else feature, "names", None)
        self.label_names = tuple(names or ())
        self._labels = {}  # filled as examples are read: a label cannot be read on its own

    def __len__(self):
        return len(self._examples)

    def example_id(self, i):
        return f"{self._prefix}/{i}"

    def labels(self, i):
        if not self.label_names:
            return ()
        if i not in self._labels:
            self._remember(i, self._examples[i])
        return self._labels[i]

    def read(self, i, num_samples, position):
        example = self._examples[i]
        if self.label_names:
            self._remember(i, example)
        audio = np.asarray(example["audio"])
        if audio.size == 0:
            raise BadAudio("no samples")
        first, count, offset, keep = plan_crop(
            len(audio), self._rate, self.sample_rate, num_samples, position
        )
        audio = audio[first : first + count]
        if np.issubdtype(audio.dtype, np.integer):
            if np.abs(audio.astype(np.int64)).max() > 2**15:
                raise BadAudio("integer samples of more than 16 bits: scale unknown")
            audio = audio / np.float32(2**15)
        audio = audio.astype(np.float32)
        audio = audio.mean(axis=1) if audio.ndim > 1 else audio
        return resample(audio, self._rate, self.sample_rate)[offset : offset + keep]

    def _remember(self, i, example):
        classes = np.atleast_1d(example[self._key])
        self._labels[i] = tuple(int(c) for c in classes if c >= 0)  # -1: TFDS for 'unknown'


class Subset(Source):
    """Some examples of a source, perhaps with its labels in another order or left out."""

    def __init__(self, source, indices=None, label_names=None):
        """Wraps `source`.

        Args:
          source: any Source.
          indices: the examples to keep, in their new order; None for all.
          label_names: the new order, which must contain all of the source's; () for no labels;
            None for the source's own.
        """
        self._source = source
        self._indices = np.arange(len(source)) if indices is None else np.asarray(indices)
        self.sample_rate = source.sample_rate
        self.label_names = tuple(source.label_names if label_names is None else label_names)
        self._new = None
        if self.label_names:
            self._new = [self.label_names.index(name) for name in source.label_names]

    def __len__(self):
        return len(self._indices)

    def example_id(self, i):
        return self._source.example_id(int(self._indices[i]))

    def labels(self, i):
        if self._new is None:
            return ()
        return tuple(self._new[c] for c in self._source.labels(int(self._indices[i])))

    def read(self, i, num_samples, position):
        return self._source.read(int(self._indices[i]), num_samples, position)


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """Which clips a run trains on and which it evaluates on: fields of config.data and others.

    labelled: whether labels are needed; without, they are ignored. synthetic: of the corpus that
    is used where neither `manifest` nor `tfds_name` is given; its clips have `num_samples`.
    """

    manifest: str
    tfds_name: str
    tfds_dir: str
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


def source_spec(config) -> SourceSpec:
    """From the full config."""
    data, sample_rate = config.data, config.features.sample_rate
    return SourceSpec(
        manifest=data.manifest,
        tfds_name=data.tfds_name,
        tfds_dir=data.tfds_dir,
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


def open_sources(spec: SourceSpec, label_names=None) -> Sources:
    """The sources to train on and to evaluate on.

    Args:
      spec: from `source_spec`.
      label_names: the classes of a checkpoint, whose order is taken; None for the data's own
        (of a manifest: its distinct labels, sorted).

    Raises DataError: whatever is wrong with the data as configured.
    """
    if spec.manifest and spec.tfds_name:
        raise DataError("config.data.manifest and config.data.tfds_name are both set: clear one")
    if spec.manifest:
        return _finish(spec, *_manifest_sources(spec, label_names))
    if spec.tfds_name:
        train, held_out = _tfds_sources(spec)
        where = f"TFDS {spec.tfds_name}"
    else:
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
    return _finish(spec, train, held_out)


def _synthetic_source(spec, split):
    return SyntheticSource(
        spec.synthetic,
        split,
        sample_rate=spec.sample_rate,
        num_samples=spec.num_samples,
        labelled=spec.labelled,
    )


def _manifest_sources(spec, label_names):
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
    parts = split_rows(rows, manifest, spec.train_folds, spec.eval_folds, spec.eval_share)
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


def _tfds_sources(spec):
    """Folds name splits here; without `eval_folds`: 'validation', or else a share of train."""
    name, folder, rate = spec.tfds_name, spec.tfds_dir, spec.sample_rate
    splits = _tfds_builder(name, folder).info.splits
    eval_split = "+".join(spec.eval_folds) or ("validation" if "validation" in splits else "")
    train_split = "+".join(spec.train_folds) or "train"
    train = TfdsSource(name, train_split, folder, rate)
    if train.multi_label and spec.labelled and not spec.multi_label:
        raise DataError(_several_labels(f"TFDS {name}"))
    if eval_split:
        return train, TfdsSource(name, eval_split, folder, rate)
    ids = [train.example_id(i) for i in range(len(train))]
    chosen = hold_out(ids, spec.eval_share, f"TFDS {name}")
    kept = [i for i in range(len(train)) if i not in chosen]
    return Subset(train, kept), Subset(train, sorted(chosen))


def _finish(spec, train, held_out) -> Sources:
    """Checks that one-label tasks have one label, and keeps `labels_per_class`."""
    for source, purpose in ((train, "train on"), (held_out, "evaluate on")):
        if not len(source):
            raise DataError(f"no clip to {purpose}: check config.data (or config.synthetic)")
    if not spec.labelled:
        return Sources(train, held_out)
    if spec.tfds_name and spec.multi_label and spec.unlabelled == "skip":
        train, held_out = (
            Subset(source, [i for i in range(len(source)) if source.labels(i)])
            for source in (train, held_out)
        )
    if not spec.multi_label and not spec.tfds_name:
        for source in (train, held_out):
            for i in range(len(source)):
                if len(source.labels(i)) > 1:
                    raise DataError(_several_labels(source.example_id(i)))
    per_class, share = spec.labels_per_class, spec.label_share
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


def _tfds_builder(name, data_dir):
    # Here: it takes a second to import, and only TFDS data sets need it.
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except Exception as e:  # TFDS raises many types, some of them private
        raise DataError(_tfds_problem(name, data_dir, e)) from e


def _tfds_problem(name, data_dir, error) -> str:
    reason = str(error).strip().split("\n")[0]
    return (
        f"config.data.tfds_name: cannot open {name} in {data_dir or 'the default data_dir'}: "
        f"{reason} (prepare it with file_format='array_record')"
    )
