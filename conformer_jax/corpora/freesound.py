"""FSD50K (Fonseca et al. 2022) and FSDKaggle2019 (Fonseca et al. 2019)."""

import pathlib

from conformer_jax.corpora.corpus import NUMBERS, Clip, Corpus, Listing
from conformer_jax.corpora.sources import split_of
from conformer_jax.data.audio import DataError


def _fsd50k(source):
    if source.kind != "folder":
        return _of_entries(source, {"eval": "eval", "test": "eval", "valid": "validation",
                                    "val": "validation"})  # fmt: skip
    clips = []
    for table in ("dev.csv", "eval.csv"):
        for row in source.table(f"FSD50K.ground_truth/{table}", table):
            split = {"train": "train", "val": "validation"}.get(row.get("split"), "eval")
            folder = "FSD50K.eval_audio" if split == "eval" else "FSD50K.dev_audio"
            clips.append(_clip(source, folder, row["fname"], row["labels"], split))
    return Listing(clips, _vocabulary(source))


def _fsdkaggle2019(source):
    if source.kind != "folder":
        return _of_entries(source, {"curated": "train_curated", "noisy": "train_noisy",
                                    "test": "test"})  # fmt: skip
    clips = []
    for split in ("train_curated", "train_noisy", "test"):
        for row in source.table(f"{split}_post_competition.csv", f"{split}.csv"):
            stem = pathlib.PurePosixPath(row["fname"]).stem
            folder = f"FSDKaggle2019.audio_{split}"
            clips.append(_clip(source, folder, stem, row["labels"], split))
    return Listing(clips, _vocabulary(source))


def _clip(source, folder, stem, labels, split):
    place = source.place(f"{folder}/{stem}.wav") or source.place_of_stem(stem)
    return Clip(stem, split, _labels(labels), "", f"freesound:{stem}", place)


def _vocabulary(source):
    """The classes in the order of vocabulary.csv: number, label, and perhaps its identifier."""
    rows = source.table("vocabulary.csv", header=["number", "label", "mid"])
    return tuple(row["label"] for row in rows if row["number"].strip().isdecimal())


def _of_entries(source, words):
    clips = []
    for entry in source.entries():
        split = str(entry.fields.get("split") or split_of(entry.where, words, "train"))
        names = (entry.fields.get(c) for c in ("labels", "label"))
        found = next((one for one in names if one not in (None, "", [])), "")
        stem = pathlib.PurePosixPath(entry.name).stem
        clips.append(
            Clip(
                stem, words.get(split, split), _labels(found), "", f"freesound:{stem}", entry.place
            )
        )
    classes = sorted({label for clip in clips for label in clip.labels})
    if not classes:
        raise DataError(f"{source.path}: no labels beside the audio; use folder: and its tables")
    return Listing(clips, tuple(classes))


def _labels(found):
    parts = found.split(",") if isinstance(found, str) else found
    parts = parts if isinstance(parts, list | tuple) else [parts]
    if any(isinstance(part, int) for part in parts):
        raise DataError(f"the labels are numbers ({parts[0]}), of unknown classes: {NUMBERS}")
    return tuple(str(part).strip() for part in parts if str(part).strip())


FSD50K = Corpus(
    name="fsd50k",
    about="51,197 Freesound clips in 200 classes, several a clip.",
    licence="CC BY; clips CC0, CC BY, CC BY-NC or CC Sampling+",
    metric="mAP",
    protocol="train and validation of its dev set as published; report eval",
    facts="zenodo.org/record/4060432; classes in the order of vocabulary.csv, sorted where a "
    "source has none",
    listing=_fsd50k,
    multi_label=True,
    expected={"eval": 10231},
)
FSDKAGGLE2019 = Corpus(
    name="fsdkaggle2019",
    about="Curated Freesound clips and noisy ones of Flickr, several labels a clip.",
    licence="CC BY 4.0; clips with licences of their own",
    metric="lwlrap",
    protocol="train on train_curated and train_noisy; report lwlrap on test",
    facts="zenodo.org/record/3612637; classes in the order of vocabulary.csv, sorted where a "
    "source has none",
    listing=_fsdkaggle2019,
    multi_label=True,
)
