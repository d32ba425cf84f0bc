"""Any sounds: a folder tree with one subfolder a class, a manifest, or audio with fields beside."""

import os
import pathlib

from conformer_jax.corpora.corpus import Clip, Corpus, Listing
from conformer_jax.corpora.sources import split_of
from conformer_jax.data.audio import DataError
from conformer_jax.data.manifest import part_suffix, read_manifest, read_records

_SPLITS = {"valid": "validation", "dev": "validation", "test": "test", "eval": "eval"}
_LABELS = ("labels", "label", "category", "human_labels", "class", "target")


def _listing(source):
    if source.kind == "manifest":
        clips = list(of_manifest(source.path))
    elif source.kind == "folder" and source.has("manifest.csv"):
        clips = list(of_manifest(source.path / "manifest.csv"))
    else:
        clips = [_of_entry(entry, source.kind) for entry in source.entries()]
    if not clips:
        raise DataError(f"{source.path} contains no audio")
    classes = {label for clip in clips for label in clip.labels}
    return Listing(clips, tuple(sorted(classes, key=_in_order)))


def of_manifest(path):
    """Yields a Clip for each row. Its source is the column `group` or `source`, or else the file:
    parts of a recording belong on one side of a split. Raises DataError."""
    rows = read_manifest(path)
    others = (record for _, record in read_records(path))
    for row, other in zip(rows, others, strict=True):
        split = (other.get("split") or "train").strip()
        source = (other.get("group") or other.get("source") or "").strip()
        times = part_suffix(row.start, row.end)
        source = source or row.name.removesuffix(times)
        place = ("file", row.path, row.start, row.end) if times else ("file", row.path)
        yield Clip(row.name, split, row.labels, row.fold, source, place)


def _of_entry(entry, kind):
    folders = pathlib.PurePosixPath(entry.name).parts[:-1]
    found = next((entry.fields[c] for c in _LABELS if entry.fields.get(c) not in (None, "")), ())
    found = found if isinstance(found, list | tuple) else (found,)
    labels = tuple(dict.fromkeys(str(label) for label in found))
    if kind == "folder" and folders:
        labels = (folders[-1],)
    split = str(entry.fields.get("split") or "")
    if not split:
        split = "train" if kind == "folder" else split_of(entry.where, _SPLITS, "train")
    fold = entry.fields.get("fold")
    # Keys of archives may occur again in another one.
    name = entry.name if kind == "folder" else f"{os.path.splitext(entry.where)[0]}/{entry.name}"
    return Clip(name, split, labels, "" if fold is None else str(fold), "", entry.place)


def _in_order(label):
    """Numbers by size, so that 2 stands before 10."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)


ANY = Corpus(
    name="any",
    about="Sounds of your own.",
    licence="that of the recordings",
    metric="accuracy, or mAP where clips have several labels",
    protocol="the splits and folds of the manifest; else a share is held out by content",
    facts="the folder itself",
    listing=_listing,
    multi_label=True,
)
