"""UrbanSound8K (Salamon et al. 2014)."""

import pathlib
import re

from conformer_jax.corpora.corpus import Clip, Corpus, Listing

# In the order of its column classID.
_NAMES = """
    air_conditioner car_horn children_playing dog_bark drilling engine_idling gun_shot jackhammer
    siren street_music"""
CLASSES = tuple(_NAMES.split())
_NAME = re.compile(r"(\d+)-(\d)-\d+-\d+")  # [fsID]-[classID]-[occurrenceID]-[sliceID]


def _listing(source):
    clips = []
    if source.kind == "folder":
        for row in source.table("UrbanSound8K.csv", "UrbanSound8k.csv"):
            name, fold = row["slice_file_name"], row["fold"]
            place = source.place(f"audio/fold{fold}/{name}")
            place = place or source.place_of_stem(pathlib.PurePosixPath(name).stem)
            clips.append(_clip(name, fold, place))
    else:
        for entry in source.entries():
            folder = re.search(r"fold[-_]?(\d+)", f"{entry.where}/{entry.name}")
            fold = entry.fields.get("fold") or (folder[1] if folder else "")
            clips.append(_clip(entry.name, str(fold), entry.place))
    return Listing([clip for clip in clips if clip], CLASSES)


def _clip(name, fold, place):
    stem = pathlib.PurePosixPath(name).stem
    found = _NAME.fullmatch(stem)
    if not found:
        return None
    return Clip(stem, "train", (CLASSES[int(found[2])],), fold, f"freesound:{found[1]}", place)


URBANSOUND8K = Corpus(
    name="urbansound8k",
    about="8732 excerpts of at most 4 s in 10 classes of city sound.",
    licence="CC BY-NC",
    metric="accuracy",
    protocol="10-fold cross-validation over `fold`, as published and never shuffled; report the "
    "mean",
    facts="urbansounddataset.weebly.com/urbansound8k.html",
    listing=_listing,
    expected={"train": 8732},
)
