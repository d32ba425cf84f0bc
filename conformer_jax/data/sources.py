"""Random access to examples: manifests of audio files, TFDS data sets, the synthetic corpus."""

import difflib
import logging
import os

import numpy as np

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
from conformer_jax.data.synthetic import SyntheticSource

__all__ = [
    "BadAudio",
    "BadAudioReport",
    "DataError",
    "ManifestSource",
    "Source",
    "Subset",
    "TfdsSource",
    "open_sources",
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


def open_sources(config, label_names=None) -> tuple[Source, Source]:
    """The sources to train on and to evaluate on.

    Args:
      config: the full config of a run; `data`, `features.sample_rate`, `task`,
        `classifier.multi_label` and `seed` are read. Labels are ignored unless task = 'finetune'.
      label_names: the classes of a checkpoint, whose order is taken; None for the data's own
        (of a manifest: its distinct labels, sorted).

    Raises DataError: whatever is wrong with the data as configured.
    """
    if config.data.manifest and config.data.tfds_name:
        raise DataError("config.data.manifest and config.data.tfds_name are both set: clear one")
    if config.data.manifest:
        return _finish(config, *_manifest_sources(config, label_names))
    if config.data.tfds_name:
        train, held_out = _tfds_sources(config)
        where = f"TFDS {config.data.tfds_name}"
    else:
        train, held_out = SyntheticSource(config, "train"), SyntheticSource(config, "eval")
        where = "the synthetic corpus"
    names = ()
    if config.task != "pretrain":
        if not train.label_names:
            raise DataError(f"config.data.tfds_name: {where} has no labels to fine-tune on")
        names = train.label_names if label_names is None else label_names
        _check_label_names(train.label_names, names, where)
    if tuple(names) != tuple(train.label_names):
        train, held_out = Subset(train, None, names), Subset(held_out, None, names)
    return _finish(config, train, held_out)


def _manifest_sources(config, label_names):
    manifest, data = config.data.manifest, config.data
    rows = read_manifest(manifest)
    names = ()
    if config.task != "pretrain":
        found = sorted({label for row in rows for label in row.labels})
        if not found:
            raise DataError(f"{manifest} has no labels to fine-tune on: fill its column 'label'")
        names = tuple(found if label_names is None else label_names)
        _check_label_names(found, names, manifest)
        labelled = [row for row in rows if row.labels]
        if len(labelled) < len(rows):
            logging.info(
                "%s: %d files without a label skipped", manifest, len(rows) - len(labelled)
            )
        rows = labelled
    _check_files(rows, manifest)
    parts = split_rows(rows, manifest, data.train_folds, data.eval_folds, data.eval_share)
    return tuple(ManifestSource(part, config.features.sample_rate, names) for part in parts)


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


def _tfds_sources(config):
    """Folds name splits here; without `eval_folds`: 'validation', or else a share of train."""
    data, rate = config.data, config.features.sample_rate
    splits = _tfds_builder(data.tfds_name, data.tfds_dir).info.splits
    eval_split = "+".join(fold_names(data.eval_folds)) or (
        "validation" if "validation" in splits else ""
    )
    train_split = "+".join(fold_names(data.train_folds)) or "train"
    train = TfdsSource(data.tfds_name, train_split, data.tfds_dir, rate)
    if train.multi_label and config.task != "pretrain" and not config.classifier.multi_label:
        raise DataError(_several_labels(f"TFDS {data.tfds_name}"))
    if eval_split:
        return train, TfdsSource(data.tfds_name, eval_split, data.tfds_dir, rate)
    ids = [train.example_id(i) for i in range(len(train))]
    chosen = hold_out(ids, data.eval_share, f"TFDS {data.tfds_name}")
    kept = [i for i in range(len(train)) if i not in chosen]
    return Subset(train, kept), Subset(train, sorted(chosen))


def _finish(config, train, held_out):
    """Checks that one-label tasks have one label, and keeps `labels_per_class`."""
    for source, purpose in ((train, "train on"), (held_out, "evaluate on")):
        if not len(source):
            raise DataError(f"no clip to {purpose}: check config.data (or config.synthetic)")
    if config.task == "pretrain":
        return train, held_out
    if not config.classifier.multi_label and not config.data.tfds_name:
        for source in (train, held_out):
            for i in range(len(source)):
                if len(source.labels(i)) > 1:
                    raise DataError(_several_labels(source.example_id(i)))
    per_class, share = config.data.labels_per_class, config.data.label_share
    if not 0 < share <= 1 or (per_class and share < 1):
        raise DataError(
            f"config.data.label_share = {share}: over 0 and at most 1, and 1 where "
            f"config.data.labels_per_class is set"
        )
    if per_class > 0 or share < 1:
        labels = [train.labels(i) for i in range(len(train))]
        num_classes = len(train.label_names)
        if not per_class:
            counts = np.bincount([c for of_clip in labels for c in of_clip], minlength=num_classes)
            per_class = np.maximum(np.rint(share * counts), 1)
        kept = few_labels(labels, num_classes, per_class, config.seed)
        logging.info("%d of %d labelled clips kept", len(kept), len(train))
        train = Subset(train, kept)
    return train, held_out


def _several_labels(where) -> str:
    return f"{where} has more than one label: set --config.classifier.multi_label=True"


def _check_label_names(found, known, where):
    for label in found:
        if label not in known:
            near = difflib.get_close_matches(label, known, n=1, cutoff=0.0)
            shown = ", ".join(known[:20]) + (f", ... ({len(known)})" if len(known) > 20 else "")
            raise DataError(
                f"{where}: label '{label}' is unknown to the checkpoint; nearest is "
                f"'{near[0] if near else ''}' (it knows {shown})"
            )


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
