"""Kinetics-700 (2020), its sound: from the videos, as WAV, FLAC or what else libsndfile reads."""

from conformer_jax.corpora.corpus import Clip, Corpus, Listing
from conformer_jax.data.audio import DataError

_TABLES = {"train": "train.csv", "validation": "validate.csv"}


def _listing(source):
    if source.kind != "folder":
        raise DataError(
            "kinetics700 is read from folder: only: its train.csv and validate.csv, and the "
            "sound of the videos (ffmpeg -i IN.mp4 -vn OUT.flac)"
        )
    clips = []
    for split, name in _TABLES.items():
        for row in source.table(name):
            start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
            id_ = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            place = source.place_of_stem(id_)
            clips.append(Clip(id_, split, (row["label"],), "", row["youtube_id"], place))
    classes = {label for clip in clips for label in clip.labels}
    return Listing(clips, tuple(sorted(classes)))


KINETICS700 = Corpus(
    name="kinetics700",
    about="The sound of YouTube clips of 10 s in 700 classes of human action.",
    licence="that of the tables and of YouTube's users",
    metric="accuracy",
    protocol="train on train, report validation; videos without sound are missing",
    facts="deepmind-media/Datasets/kinetics700_2020.tar.gz has the tables; classes sorted",
    listing=_listing,
)
