"""MagnaTagATune (Law et al. 2009): its 50 commonest tags."""

from conformer_jax.corpora.corpus import Clip, Corpus, Listing

# The commonest first, as github.com/keunwoochoi/magnatagatune-list has them.
_TAGS = """
    guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat,
    violin, vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord,
    loud, quiet, flute, woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir,
    voice, new age, dance, male voice, female vocal, beats, harp, cello, no voice, weird, country,
    metal, female voice, choral"""
TAGS = tuple(tag.strip() for tag in _TAGS.split(","))
_SPLITS = {**dict.fromkeys("0123456789ab", "train"), "c": "validation"}


def _listing(source):
    clips = []
    if source.kind == "folder":
        for row in source.table("annotations_final.csv", delimiter="\t"):
            path = row["mp3_path"]
            place = source.place(path) or source.place(f"mp3/{path}")
            labels = tuple(tag for tag in TAGS if row.get(tag, "0").strip() == "1")
            clips.append(_clip(path, row["clip_id"], labels, place))
    else:
        for entry in source.entries():
            found = next((entry.fields[c] for c in ("labels", "tags") if entry.fields.get(c)), ())
            labels = tuple(tag for tag in TAGS if tag in found)
            clips.append(_clip(entry.name, entry.name, labels, entry.place))
    return Listing(clips, TAGS)


def _clip(path, id_, labels, place):
    folder, _, name = path.rpartition("/")
    # A clip is cut from an album's track: artist-album-number-title-start-end.mp3.
    track = name.rsplit("-", 2)[0]
    return Clip(str(id_), _SPLITS.get(folder[-1:], "test"), labels, "", track, place)


MAGNATAGATUNE = Corpus(
    name="magnatagatune",
    about="Excerpts of music with tags, of which the 50 commonest are kept.",
    licence="CC BY-NC-SA 3.0",
    metric="AUC, and mAP",
    protocol="train on folders 0 to b, validate on c, report folders d to f, as is usual",
    facts="github.com/keunwoochoi/magnatagatune-list for the tags; the split is a usage, not "
    "published with it",
    listing=_listing,
    multi_label=True,
)
