"""AudioSet (Gemmeke et al. 2017): what is left of its YouTube clips."""

import csv
import functools
import importlib.resources
import pathlib

from conformer_jax.corpora.corpus import Clip, Corpus, Listing
from conformer_jax.corpora.sources import split_of
from conformer_jax.data.audio import DataError

TABLES = {
    "train_balanced": "balanced_train_segments.csv",
    "train_unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
# As copies name their folders and files: PANNs, PaSST, AST, agkphysics and confit on the hub.
_WORDS = {
    "unbal": "train_unbalanced",
    "2m/train": "train_unbalanced",
    "500k/train": "train_unbalanced",
    "bal": "train_balanced",
    "20k/train": "train_balanced",
    "eval": "eval",
    "test": "eval",
}


@functools.cache
def classes() -> dict[str, str]:
    """Display name of each machine identifier, in the order of class_labels_indices.csv."""
    path = importlib.resources.files("conformer_jax.corpora") / "audioset_classes.csv"
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {row["mid"]: row["display_name"] for row in csv.DictReader(lines)}


def _listing(source):
    clips = list(_of_tables(source) if source.kind == "folder" else _of_entries(source))
    seen, once = set(), []
    for clip in clips:  # a copy may hold the evaluation set several times
        if (clip.split, clip.id) not in seen:
            seen.add((clip.split, clip.id))
            once.append(clip)
    return Listing(once, tuple(classes().values()))


def _of_tables(source):
    tables = {split: name for split, name in TABLES.items() if source.has(name)}
    if not tables:
        raise DataError(
            f"{source.path} has none of {', '.join(TABLES.values())}: copy Google's there "
            "(research.google.com/audioset/download.html), they tell the clips' labels"
        )
    columns = ["id", "start", "end", "labels"]
    for split, name in tables.items():
        for row in source.table(name, header=columns, skip="#"):
            id_ = row["id"].strip()
            more = row.get(None) or []  # of copies that lost the quotes around the labels
            labels = [text.strip(' "') for text in [*row["labels"].split(","), *more]]
            start = row["start"].strip().partition(".")[0]
            place = source.place_of_stem(f"Y{id_}", id_, f"{id_}_{start}")
            yield Clip(id_, split, _names([label for label in labels if label]), "", id_, place)


def _of_entries(source):
    for entry in source.entries():
        fields = entry.fields
        id_ = str(fields.get("video_id") or _id(entry.name))
        labels = next((fields[c] for c in ("labels", "label", "mids") if fields.get(c)), ())
        labels = labels.replace(";", ",").split(",") if isinstance(labels, str) else labels
        split = split_of(entry.where, _WORDS, "")
        if not split:
            raise DataError(
                f"{entry.where}: neither its name nor its folder says which split it is: name one "
                "balanced, unbalanced or eval"
            )
        yield Clip(id_, split, _names(labels), "", id_, entry.place)


def _id(name):
    stem = pathlib.PurePosixPath(name).stem
    return stem[1:] if len(stem) == 12 and stem[0] == "Y" else stem


def _names(labels):
    """From machine identifiers, numbers or display names."""
    known, names = classes(), list(classes().values())
    found = []
    for label in labels:
        if isinstance(label, int) and label < len(names):
            found.append(names[label])
        elif label in known:
            found.append(known[label])
        elif label in names:
            found.append(label)
        else:
            raise DataError(f"{label!r} is none of AudioSet's 527 classes")
    return tuple(dict.fromkeys(found))


AUDIOSET = Corpus(
    name="audioset",
    about="Clips of 10 s from YouTube in 527 classes, several a clip.",
    licence="labels CC BY 4.0; the audio is that of YouTube's users",
    metric="mAP",
    protocol="train on train_balanced (AudioSet-20K) or both training splits, report mAP on eval",
    facts="research.google.com/audioset/download.html; the counts are those in the heads of its "
    "CSV files, for train_balanced as the card of agkphysics/AudioSet gives it",
    listing=_listing,
    multi_label=True,
    expected={"train_balanced": 22160, "eval": 20371},
)
