"""Speech Commands v0.02 (Warden 2018), all 35 words."""

import pathlib

from conformer_jax.corpora.corpus import Clip, Corpus, Listing, named
from conformer_jax.corpora.sources import split_of

_WORDS = """
    backward bed bird cat dog down eight five follow forward four go happy house learn left marvin
    nine no off on one right seven sheila six stop three tree two up visual wow yes zero"""
CLASSES = tuple(_WORDS.split())
_NO_WORDS = ("_silence_", "_background_noise_")  # noise, which the hub has beside the words
_SPLITS = {"valid": "validation", "dev": "validation", "test": "test"}


def _listing(source):
    clips = []
    lists = {}
    if source.kind == "folder":
        for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
            lists |= dict.fromkeys((line.strip() for line in source.lines(name)), split)
    for entry in source.entries():
        name = "/".join(pathlib.PurePosixPath(entry.name).parts[-2:])
        word = name.partition("/")[0]
        if source.kind == "folder":
            if word in CLASSES:
                lists.setdefault(name, "train")
                clips.append(_clip(name, lists[name], (word,), entry.place))
            continue
        split = split_of(entry.where, _SPLITS, "train")
        labels = named(entry, ("label", "labels", "class"), CLASSES, ignored=_NO_WORDS)
        if labels is None:
            continue
        clips.append(_clip(entry.name, split, labels or (word,), entry.place))
    there = {clip.id for clip in clips}
    for name, split in lists.items():  # listed for evaluation, and not there
        if name not in there:
            clips.append(_clip(name, split, (name.partition("/")[0],), None))
    return Listing(sorted(clips), CLASSES)


def _clip(name, split, labels, place):
    speaker = pathlib.PurePosixPath(name).name.partition("_")[0]
    return Clip(name, split, labels, "", f"speaker:{speaker}", place)


SPEECH_COMMANDS = Corpus(
    name="speech_commands",
    about="One second each of 35 spoken words (v0.02).",
    licence="CC BY 4.0",
    metric="accuracy",
    protocol="its validation_list.txt and testing_list.txt; report the test split",
    facts="card of google/speech_commands on Hugging Face; the order of the words is ours: "
    "alphabetical",
    listing=_listing,
)
