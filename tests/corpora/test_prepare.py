"""From a small tree to a data set: what is stored, left out and gone on with; by Beam, too."""

import csv
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conformer_jax import prepare
from conformer_jax.corpora import encoding, engine, shard
from conformer_jax.corpora.corpus import Clip, Listing
from conformer_jax.data import packed, prepared
from conformer_jax.data.audio import read_audio
from conformer_jax.training import lock

RATE = 16000


def noise(seed, seconds=1.0, rate=RATE):
    draw = np.random.default_rng(seed)
    return (0.1 * draw.standard_normal(round(seconds * rate))).astype("f4")


def run(corpus, source, output, *flags):
    return prepare.main([corpus, f"--source={source}", f"--output={output}", *flags])


def opened(output):
    return prepared.open_folder(output)


def ids_of(found, split="train"):
    index = found.index[split]
    return [packed.text_of(index.ids, index.id_starts, i) for i in range(len(index.content))]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes: 16 and 44.1 kHz, stereo, a copy of a clip, a broken file and a text."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("bird", "frög 'x'"):
        (folder / name).mkdir()
    for i in range(4):
        soundfile.write(folder / "bird" / f"{i}.wav", noise(i, 1 + i / 10), RATE)
    soundfile.write(folder / "bird" / "copy.flac", noise(0), RATE, subtype="PCM_16")
    soundfile.write(folder / "bird" / "first.flac", noise(0), RATE, subtype="PCM_16")
    stereo = np.stack([noise(8, rate=44100), noise(9, rate=44100)], 1)
    soundfile.write(folder / "frög 'x'" / "stereo.wav", stereo, 44100)
    (folder / "frög 'x'" / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def output(tree, tmp_path_factory):
    """The tree, prepared in three shards by processes of this one."""
    folder = tmp_path_factory.mktemp("output")
    flags = ("--engine=processes", "--workers=1", "--shard_clips=3")
    assert run("any", f"folder:{tree}", folder, *flags) == 0
    return folder


def test_what_is_there_is_stored_and_what_is_broken_is_named(output):
    found = opened(output)
    assert ids_of(found) == [
        *(f"bird/{i}.wav" for i in range(4)),
        "bird/copy.flac",
        "bird/first.flac",
        "frög 'x'/stereo.wav",
    ]
    one = found.summary["splits"]["train"]
    assert (one["listed"], one["found"], one["class_found"]) == (8, 7, [6, 1])
    assert one["sample_rates"] == {"16000": 6, "44100": 1}
    with open(found.folder / engine.LEFT_OUT, encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["frög 'x'/broken.wav"]
    assert found.summary["duplicates"]["ids"] == [["bird/first.flac", "train", "bird/copy.flac"]]
    assert not (found.folder.parent / engine.STAGING).exists()


def test_samples_are_those_of_the_file_to_the_last_bit(output, tree):
    source = prepared.PreparedSource(opened(output), {"train": np.arange(7)}, RATE)
    for i, name in ((1, "bird/1.wav"), (6, "frög 'x'/stereo.wav")):
        for crop in ((None, 0.0), (4000, 0.37)):
            a, b = source.read(i, *crop), read_audio(tree / name, RATE, *crop)
            assert np.abs(a - b).max() < 1.1 / 2**15  # stereo's mean is rounded to 16 bits
            if i == 1:
                assert np.array_equal(a, b)


OPEN_PLAINLY = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder("any", data_dir=sys.argv[1])
names = builder.info.features["labels"].feature.names
for one in builder.as_data_source(split="train"):
    labels = [names[i] for i in one["labels"]]
    print(one["id"].decode(), labels, one["num_samples"], one["audio"][:4])
assert not [name for name in sys.modules if name.startswith("conformer_jax")]
"""


def test_tfds_opens_it_without_our_code(output):
    done = subprocess.run(
        [sys.executable, "-c", OPEN_PLAINLY, str(output)], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-1000:]
    lines = done.stdout.splitlines()
    assert lines[0] == "bird/0.wav ['bird'] 16000 b'fLaC'"
    assert lines[6] == "frög 'x'/stereo.wav [\"frög 'x'\"] 44100 b'fLaC'"


def test_an_interrupted_run_goes_on_and_a_finished_one_is_left_alone(
    tree, output, tmp_path, monkeypatch, capsys
):
    flags = ("--engine=processes", "--workers=1", "--shard_clips=3")
    made, original = [], shard._writer

    def two_then_none(path, encoding):
        made.append(path.name)
        if len(made) == 3:
            raise KeyboardInterrupt
        return original(path, encoding)

    monkeypatch.setattr(shard, "_writer", two_then_none)
    assert run("any", f"folder:{tree}", tmp_path, *flags) == 130
    assert not (tmp_path / "any" / engine.VERSION).exists()
    assert run("any", f"folder:{tree}", tmp_path, *flags) == 0
    assert len(made) == 4  # the third one again, and no other
    assert opened(tmp_path).summary == opened(output).summary
    assert run("any", f"folder:{tree}", tmp_path, *flags) == 0
    assert len(made) == 4
    assert "is there already" in capsys.readouterr().out
    assert run("any", f"folder:{tree}", tmp_path, "--encoding=pcm16", *flags) == 1
    assert "another preparation" in capsys.readouterr().err


def test_pcm16_resampled_cut_trimmed_and_without_copies(tmp_path):
    (tmp_path / "in").mkdir()
    silent = np.zeros(RATE // 2, "f4")
    padded = np.concatenate([silent, noise(1, 2.5), silent])
    soundfile.write(tmp_path / "in" / "a.wav", padded, RATE)
    soundfile.write(tmp_path / "in" / "b.flac", padded, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "in" / "c.flac", padded, RATE, subtype="PCM_16")
    flags = ("--encoding=pcm16", "--sample_rate=8000", "--segment=1", "--overlap=0.5", "--trim=60")
    source = f"folder:{tmp_path / 'in'}"
    assert run("any", source, tmp_path / "out", *flags, "--drop_duplicates", "--workers=1",
               "--engine=processes") == 0  # fmt: skip
    found = opened(tmp_path / "out")
    index = found.index["train"]
    names = [f"{name}#{i}" for name in ("a.wav", "b.flac") for i in range(4)]
    assert [name for name in ids_of(found) if name[0] == "b"] == names[4:]
    assert index.num_samples[:4].tolist() == [8000] * 4
    assert "c.flac#0" not in ids_of(found)
    assert found.summary["duplicates"]["found"] >= 4
    source = prepared.PreparedSource(found, {"train": np.arange(4)}, 8000)
    whole = read_audio(tmp_path / "in" / "a.wav", 8000)
    assert np.abs(source.read(1, 8000, 0.0) - whole[8000:16000]).max() < 1 / 2**14  # 0.5 + 0.5 s


def test_only_ids_restricts_and_is_said(tree, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("bird/1.wav\nbird/3.wav\n")
    flags = ("--engine=processes", "--workers=1")
    assert run("any", f"folder:{tree}", tmp_path, f"--only-ids={tmp_path / 'ids.txt'}", *flags) == 0
    assert ids_of(opened(tmp_path)) == ["bird/1.wav", "bird/3.wav"]
    assert opened(tmp_path).summary["left_out"]["by_only_ids"] == 6
    (tmp_path / "ids.txt").write_text("nobody\n")
    assert run("any", f"folder:{tree}", tmp_path, f"--only-ids={tmp_path / 'ids.txt'}") == 1
    assert "none of its ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("corpus", "source", "flags", "words"),
    [
        ("esc5", "folder:.", (), "did you mean 'esc50'"),
        ("esc50", "folders:.", (), "did you mean 'folder'"),
        ("any", "plain", (), "write KIND:PATH, such as folder:plain"),
        ("any", "folder:nowhere", (), "there is no nowhere"),
        ("any", "folder:.", ("--segment=1", "--overlap=1"), "must be less than --segment"),
        ("any", "folder:.", ("--name=No",), "small letters"),
        ("audioset", "folder:.", (), "copy Google's there"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    corpus, source, flags, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(corpus, source, tmp_path / "out", *flags) == 1
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs the extra `prepare`"
)
def test_beam_makes_the_same(tree, output, tmp_path):
    """5 s: Beam starts slowly."""
    flags = ("--engine=beam", "--workers=1", "--shard_clips=3")
    assert run("any", f"folder:{tree}", tmp_path, *flags) == 0
    assert opened(tmp_path).summary == opened(output).summary
    for name, _ in opened(output).summary["shards"]["train"]:
        same = [(opened(o).folder / name).read_bytes() for o in (tmp_path, output)]
        assert same[0] == same[1]


def test_a_long_recording_is_cut_and_stays_on_one_side(tmp_path, monkeypatch):
    monkeypatch.setattr("conformer_jax.corpora.encoding.LONGEST_S", 2.0)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.wav", noise(5, 5.0), RATE)
    flags = ("--engine=processes", "--workers=1")
    assert run("any", f"folder:{tmp_path / 'in'}", tmp_path / "out", *flags) == 0
    found = opened(tmp_path / "out")
    assert ids_of(found) == ["long.wav", "long.wav#1", "long.wav#2"]
    assert found.index["train"].num_samples.tolist() == [32000, 32000, 16000]
    one = found.summary["splits"]["train"]
    assert (one["listed"], one["found"], one["records"]) == (1, 1, 3)
    assert len(set(found.index["train"].content.tolist())) == 1  # one side of every split


def test_a_damaged_corpus_is_said_to_be(output, tmp_path):
    found = opened(output)
    summary = dict(found.summary)
    summary["shards"] = {"train": [["lost.array_record", 1]]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "clips-train.npz").write_bytes((found.folder / "clips-train.npz").read_bytes())
    with pytest.raises(prepared.DataError, match=r"lost\.array_record is missing"):
        opened(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(prepared.DataError, match="holds no prepared corpus"):
        opened(tmp_path / "empty")


ONE = ("--engine=processes", "--workers=1")


def test_parts_of_a_manifest_are_stored_as_parts_of_one_source(tmp_path):
    audio = noise(7, 4.0)
    soundfile.write(tmp_path / "day.wav", audio, RATE, subtype="PCM_16")
    (tmp_path / "m.csv").write_text(
        "path,label,start,end,group\nday.wav,a,0.5,1.25,\nday.wav,b,3,,\nday.wav,c,,,g\n"
    )
    assert run("any", f"manifest:{tmp_path / 'm.csv'}", tmp_path / "out", *ONE) == 0
    found = opened(tmp_path / "out")
    index = found.index["train"]
    assert ids_of(found) == ["day.wav#t=0.5,1.25", "day.wav#t=3", "day.wav"]
    assert [packed.text_of(index.sources, index.source_starts, i) for i in range(3)] == [
        "day.wav",
        "day.wav",
        "g",
    ]
    source = prepared.PreparedSource(found, {"train": np.arange(3)}, RATE)
    for i, part in enumerate([(0.5, 1.25), (3.0, None), (0.0, None)]):
        wanted = read_audio(tmp_path / "day.wav", RATE, part=part)
        assert np.array_equal(source.read(i, None, 0.0), wanted)


def test_a_finished_corpus_is_not_taken_for_one_of_other_audio_or_classes(tmp_path, capsys):
    (tmp_path / "in" / "a").mkdir(parents=True)
    path = tmp_path / "in" / "a" / "x.wav"
    soundfile.write(path, noise(1), RATE)
    source, out = f"folder:{tmp_path / 'in'}", tmp_path / "out"
    assert run("any", source, out, *ONE) == 0
    assert run("any", source, out, *ONE) == 0
    assert run("any", source, out, *ONE, "--drop_duplicates") == 1
    soundfile.write(path, noise(2), RATE)
    assert run("any", source, out, *ONE) == 1
    assert "of audio that has changed since" in capsys.readouterr().err


def test_a_recording_that_breaks_off_leaves_no_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("conformer_jax.corpora.encoding.LONGEST_S", 0.5)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "whole.flac", noise(1), RATE)
    soundfile.write(tmp_path / "in" / "cut.flac", noise(2, 4.0), RATE)
    content = (tmp_path / "in" / "cut.flac").read_bytes()
    (tmp_path / "in" / "cut.flac").write_bytes(content[: len(content) * 3 // 4])
    assert run("any", f"folder:{tmp_path / 'in'}", tmp_path / "out", *ONE) == 0
    found = opened(tmp_path / "out")
    assert ids_of(found) == ["whole.flac", "whole.flac#1"]
    assert "cut.flac" in (found.folder / engine.LEFT_OUT).read_text()


def test_two_at_once_do_not_mix_their_shards(tree, tmp_path, capsys):
    with lock.alone(tmp_path / "any", "--output"):
        assert run("any", f"folder:{tree}", tmp_path, *ONE) == 1
    assert "another run is at work there" in capsys.readouterr().err
    clip = Clip("a", "train", place=("file", str(tree / "bird" / "0.wav")))
    listing, options = Listing([clip], ()), encoding.Options()
    first = engine.plan(tmp_path / "x", listing, options, 10)
    engine.run(first, engine.Work("processes", 1))
    second = engine.plan(tmp_path / "x", listing, options._replace(encoding="pcm16"), 10)
    engine.collect(first, "flac", drop_duplicates=False)
    with pytest.raises(prepared.DataError, match="was not made"):
        engine.collect(second, "pcm16", drop_duplicates=False)
