"""Every corpus from a small tree in its published layout, with a file broken and one missing."""

import io
import json
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_trees import MIDS, NAMES, RATE, TREES, fill, sound  # tests/

from conformer_jax import prepare
from conformer_jax.corpora import sources
from conformer_jax.corpora.catalogue import CORPORA
from conformer_jax.data import packed, prepared
from conformer_jax.data.audio import DataError


def prepared_from(corpus, source, output):
    """{id: (split, labels, fold, source)} of the data set, and {id: reason} of what is left out."""
    flags = ["--engine=processes", "--workers=1"]
    assert prepare.main([corpus, f"--source={source}", f"--output={output}", *flags]) == 0
    found = prepared.open_folder(output)
    names, records = found.summary["classes"], {}
    for split, index in found.index.items():
        source = prepared.PreparedSource(found, {split: np.arange(len(index.content))}, RATE, names)
        for i in range(len(source)):
            assert len(source.read(i, RATE, 0.0)) > RATE // 20
            recording = packed.text_of(index.sources, index.source_starts, i)
            labels = [names[c] for c in source.labels(i)]
            fold = str(index.folds[index.fold[i]])
            records[source.example_id(i)] = (split, labels, fold, recording)
    left_out = found.folder / "left_out.csv"
    lines = left_out.read_text().splitlines()[1:] if left_out.exists() else []
    return records, {line.split(",")[0]: line.split(",", 2)[2].strip('"') for line in lines}


@pytest.mark.parametrize("corpus", TREES)
def test_a_corpus_as_it_is_published(corpus, tmp_path):
    files, wanted, left_out = TREES[corpus]
    fill(tmp_path / "in", files)
    records, bad = prepared_from(corpus, f"folder:{tmp_path / 'in'}", tmp_path / "out")
    assert records == wanted
    assert bad.keys() == left_out.keys()
    assert all(bad[id_].startswith(reason) for id_, reason in left_out.items()), bad


def test_every_corpus_is_tried_and_says_where_its_facts_are_from():
    assert set(TREES) | {"any"} == set(CORPORA)
    for corpus in CORPORA.values():
        assert corpus.licence, corpus.name
        assert corpus.facts, corpus.name
        assert corpus.protocol, corpus.name
    assert len(NAMES) == len(set(NAMES)) == 527
    assert (NAMES[0], NAMES[526]) == ("Speech", "Field recording")


AUDIOSET = {
    "--aaaaaaaaa": ("train_balanced", [NAMES[0], NAMES[72]], "", "--aaaaaaaaa"),
    "ddddddddddd": ("eval", [NAMES[5]], "", "ddddddddddd"),
}


def parquet(folder):
    """As agkphysics/AudioSet on the hub."""
    for split, id_, labels, seed in (
        ("bal_train", "--aaaaaaaaa", [MIDS[0], MIDS[72]], 1),
        ("eval", "ddddddddddd", [MIDS[5]], 2),
    ):
        audio = [{"bytes": sound(seed, "FLAC"), "path": f"{id_}.flac"},
                 {"bytes": b"broken", "path": "broken.flac"}]  # fmt: skip
        columns = {"video_id": [id_, f"x{split}"], "audio": audio, "labels": [labels, []]}
        (folder / "data" / split).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "data" / split / "00.parquet")
    return f"parquet:{folder}"


def tar(folder):
    """As WebDataset; a member that would leave the folder is only a name."""
    for split, id_, labels, seed in (
        ("20k/train", "--aaaaaaaaa", [NAMES[0], NAMES[72]], 1),
        ("20k/test", "ddddddddddd", [5], 2),
    ):
        (folder / split).mkdir(parents=True)
        with tarfile.open(folder / split / "0.tar", "w") as archive:
            for name, content in (
                (f"../../{id_}.flac", sound(seed, "FLAC")),
                (f"../../{id_}.json", json.dumps({"labels": labels}).encode()),
                ("broken.flac", b"broken"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return f"tar:{folder}"


def as_json(folder):
    """As AST's lists, whose paths are of another machine."""
    fill(folder, {"a/Y--aaaaaaaaa.flac": "sound", "b/ddddddddddd.flac": "sound"})
    for name, file, labels in (
        ("balanced.json", "Y--aaaaaaaaa.flac", f"{MIDS[0]},{MIDS[72]}"),
        ("eval.json", "ddddddddddd.flac", MIDS[5]),
    ):
        data = {"data": [{"wav": f"/data/of/others/{file}", "labels": labels}]}
        (folder / name).write_text(json.dumps(data))
    return f"json:{folder}"


def h5(folder):
    """As PaSST's."""
    folder.mkdir()
    for name, key, labels, seed in (
        ("balanced_train_segments_mp3.hdf", b"Y--aaaaaaaaa.mp3", [0, 72], 1),
        ("eval_segments_mp3.hdf", b"Yddddddddddd.mp3", [5], 2),
    ):
        target = np.zeros(527, bool)
        target[labels] = True
        with h5py.File(folder / name, "w") as file:
            file["audio_name"] = np.array([key])
            file["target"] = np.packbits(target)[None]
            rows = file.create_dataset("mp3", (1,), h5py.vlen_dtype(np.uint8))
            rows[0] = np.frombuffer(sound(seed, "MP3"), np.uint8)
    return f"h5:{folder}"


@pytest.mark.parametrize("make", [parquet, tar, as_json, h5])
def test_audioset_as_people_have_it(make, tmp_path):
    source = make(tmp_path / "in")
    records, bad = prepared_from("audioset", source, tmp_path / "out")
    assert records == AUDIOSET
    assert all(reason.startswith("not audio") for reason in bad.values())
    assert len(bad) == {"parquet": 2, "tar": 1}.get(make.__name__, 0)


def test_a_table_cannot_lead_out_of_its_folder(tmp_path):
    fill(tmp_path, {"secret.wav": "sound", "in/a.wav": "sound"})
    folder = sources.Folder(tmp_path / "in")
    assert folder.place("../secret.wav") is None
    assert folder.place(str(tmp_path / "secret.wav")) is None
    assert folder.place("./a.wav") == ("file", str(tmp_path / "in" / "a.wav"))


def test_what_is_no_archive_is_named(tmp_path):
    for kind, extension in (("parquet", "parquet"), ("tar", "tar"), ("h5", "h5"), ("json", "json")):
        path = tmp_path / f"x.{extension}"
        path.write_text("nothing of the kind")
        with pytest.raises(DataError, match=rf"x\.{extension} cannot be read as {kind}"):
            list(sources.open_source(f"{kind}:{path}").entries())


def test_a_shard_of_eval_is_none_of_val(tmp_path):
    """FSD50K as tar shards: 'val' is in 'eval', too."""
    for shard in ("train-00", "val-00", "eval-00", "FSDeval-01"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for name, content in ((f"{shard}.wav", sound(1)), (f"{shard}.txt", b"Bark")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    listing = CORPORA["fsd50k"].listing(sources.open_source(f"tar:{tmp_path}"))
    assert {clip.id: clip.split for clip in listing.clips} == {
        "train-00": "train",
        "val-00": "validation",
        "eval-00": "eval",
        "FSDeval-01": "eval",
    }


@pytest.mark.parametrize("column", [[1, 0, 2], [[1], [0], []]])
def test_numbers_of_classes_are_in_the_order_that_the_file_states(tmp_path, column):
    """Speech Commands on the hub numbers its words otherwise than ours, and has silence."""
    feature = {"names": ["yes", "cat", "_silence_"], "_type": "ClassLabel"}
    if isinstance(column[0], list):
        feature = {"feature": feature, "_type": "List"}
    audio = [{"bytes": sound(i), "path": f"{i}_nohash_0.wav"} for i in range(3)]
    table = pa.table({"audio": audio, "label": column})
    noted = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    )
    pq.write_table(noted, tmp_path / "train-0.parquet")
    source = f"parquet:{tmp_path}"
    listing = CORPORA["speech_commands"].listing(sources.open_source(source))
    assert [clip.labels[0] for clip in listing.clips][:2] == ["cat", "yes"]
    assert CORPORA["any"].listing(sources.open_source(source)).clips[0].labels == ("cat",)
    pq.write_table(table, tmp_path / "train-0.parquet")
    for corpus in ("speech_commands", "fsd50k"):
        with pytest.raises(DataError, match=r"number.*whose metadata names the classes"):
            CORPORA[corpus].listing(sources.open_source(source))
