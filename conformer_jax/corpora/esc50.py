"""ESC-50 and its subset ESC-10 (Piczak 2015)."""

import pathlib
import re

from conformer_jax.corpora.corpus import Clip, Corpus, Listing
from conformer_jax.data.audio import DataError

# In the order of the column `target` of meta/esc50.csv.
_NAMES = """
    dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets
    chirping_birds water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing
    clapping breathing coughing footsteps laughing brushing_teeth snoring drinking_sipping
    door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening washing_machine
    vacuum_cleaner clock_alarm clock_tick glass_breaking helicopter chainsaw siren car_horn engine
    train church_bells airplane fireworks hand_saw"""
_NAMES_10 = """
    dog rooster rain sea_waves crackling_fire crying_baby sneezing clock_tick helicopter chainsaw"""
CLASSES, ESC10 = tuple(_NAMES.split()), tuple(_NAMES_10.split())
# {fold}-{Freesound clip}-{take}-{target}: "Repository content" in its README.
_NAME = re.compile(r"([1-5])-(\d+)-([A-Z])-(\d+)")
_FACTS = "github.com/karolpiczak/ESC-50, README and meta/esc50.csv"
_PROTOCOL = "5-fold cross-validation over `fold`, as published; report the mean"


def _listing(source, classes):
    clips = {}
    if source.kind == "folder" and source.has("esc50.csv"):
        for row in source.table("esc50.csv"):
            name = row.get("filename", "")
            place = source.place(f"audio/{name}") or source.place_of_stem(_stem(name))
            clips[_stem(name)] = _clip(name, place)
    else:
        for entry in source.entries():
            clips.setdefault(_stem(entry.name), _clip(entry.name, entry.place))
    chosen = [clip for _, clip in sorted(clips.items()) if clip and clip.labels[0] in classes]
    if not chosen:
        raise DataError(f"{source.path} holds no file named like ESC-50's, 1-100032-A-0.wav")
    return Listing(chosen, classes)


def _stem(name):
    return pathlib.PurePosixPath(name).stem


def _clip(name, place):
    found = _NAME.fullmatch(_stem(name))
    if not found or int(found[4]) >= len(CLASSES):
        return None
    label = CLASSES[int(found[4])]
    return Clip(found[0], "train", (label,), found[1], f"freesound:{found[2]}", place)


ESC_50 = Corpus(
    name="esc50",
    about="2000 recordings of 5 s in 50 classes of environmental sound.",
    licence="CC BY-NC 3.0",
    metric="accuracy",
    protocol=_PROTOCOL,
    facts=_FACTS,
    listing=lambda source: _listing(source, CLASSES),
    expected={"train": 2000},
)
ESC_10 = Corpus(
    name="esc10",
    about="The 10 classes of ESC-50 that its column esc10 marks, 400 recordings.",
    licence="CC BY",
    metric="accuracy",
    protocol=_PROTOCOL,
    facts=_FACTS,
    listing=lambda source: _listing(source, ESC10),
    expected={"train": 400},
)
