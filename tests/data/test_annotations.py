"""Annotations beside recordings as rows of a manifest, and parts of a file as clips."""

import csv

import numpy as np
import pytest
import soundfile

from conformer_jax import manifest
from conformer_jax.data import content, heard
from conformer_jax.data.audio import BadAudio, DataError, read_audio
from conformer_jax.data.holdout import split_rows
from conformer_jax.data.manifest import read_manifest
from conformer_jax.data.source import ManifestSource, Subset
from conformer_jax.data.synthetic import SyntheticSource, SyntheticSpec
from conformer_jax.inference import tables
from conformer_jax.inference.events import Event
from conformer_jax.training import clips

RATE = 16000


def record(path, seconds=4.0, seed=0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32) * 0.1
    # Not "FLOAT": libsndfile writes the time of day into such files, and a split is by their bytes.
    soundfile.write(path, audio, rate, "PCM_32")
    return audio


def rows_of(folder, capsys, *options, code=0):
    """(name, labels) of the manifest that the command writes; what it says."""
    assert manifest.main([str(folder), *options]) == code
    said = capsys.readouterr()
    if code:
        return said.err
    return [(r.name, r.labels) for r in read_manifest(folder / "manifest.csv")], said.out


def test_label_tracks_become_parts_and_what_is_wrong_is_counted(tmp_path, capsys):
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav")
    record(tmp_path / "without.wav")
    (tmp_path / "a.txt").write_text(
        "0.5\t1.25\tdog\n"
        "\\\t100.0\t4000.0\n"
        "1.0\t2,000000\tcat; tabby\n"
        "1.0\t2.0\tdog\n"
        "3.0\t4.02\tdog\n"  # programs round
        "2.0\t2.0\tpoint\n"
        "3.0\t9.0\tlate\n"
        "3.0\t3.5\t\n"
    )
    (tmp_path / "b.wav.txt").write_text("\ufeff0\t1\tcat\r\n", newline="")
    (tmp_path / "notes.txt").write_text("bought a microphone")
    rows, said = rows_of(tmp_path, capsys, "--annotations=audacity")
    assert rows == [
        ("a.wav#t=0.5,1.25", ("dog",)),
        ("a.wav#t=1,2", ("cat; tabby", "dog")),
        ("a.wav#t=3,4", ("dog",)),
        ("b.wav#t=0,1", ("cat",)),
    ]
    assert "parts       4, 0.00 h, of 2 recordings" in said
    assert "1 recordings without annotations" in said
    at = f"{tmp_path}/a.txt, line "
    for words in (
        f"1 lines of frequencies, which are not used: {at}2",
        f"1 lines that end where they begin, or before: {at}6",
        f"1 lines beyond the end of the recording: {at}7",
        f"1 lines without a label: {at}8",
        f"overlapping 1 parts, in which another label is heard, too: {at}3",
        "1 parts have more than one label",
        "classes     3: cat, cat; tabby, dog",
    ):
        assert words in said
    (tmp_path / "b.wav.txt").write_text("dog at the start\n")
    said = rows_of(tmp_path, capsys, "--annotations=audacity", code=1)
    assert "b.wav.txt, line 1: no label of Audacity" in said
    assert said.count("\n") == 1


def test_times_are_told_apart_as_they_are_written(tmp_path, capsys):
    record(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text(
        "1.0000001\t2.5\twren\n1.0000002\t2.5000001\trobin\n3.0000001\t3.0000003\tpoint\n"
    )
    rows, said = rows_of(tmp_path, capsys, "--annotations=audacity")
    assert rows == [("a.wav#t=1,2.5", ("wren", "robin"))]
    assert "skipped     1 lines that end where they begin" in said
    record(tmp_path / "more" / "b.wav")
    added = tmp_path / "more" / "m.csv"
    again = [tmp_path, capsys, "--annotations=audacity", f"--add={added}"]
    for times, what in (
        ("1.0000001,1.0000002", "a part of no length"),
        ("1,2.5\nb.wav,1.0000001,2.5", "two rows are of its part from 1 s on"),
    ):
        added.write_text(f"path,start,end\nb.wav,{times}\n")
        assert what in rows_of(*again, code=1)


def test_selection_tables_of_one_file_and_of_several(tmp_path, capsys):
    for name in ("a.wav", "b.wav", "deep/c.wav"):
        record(tmp_path / name)
    head = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tSpecies\n"
    twice = "".join(f"1\t{view} 1\t1\t1.0\t2.5\t0\twren\n" for view in ("Waveform", "Spectrogram"))
    (tmp_path / "a.Table.1.selections.txt").write_text(head + twice)
    (tmp_path / "all.txt").write_text(
        "Begin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tSpecies\n"
        "5.0\t6.0\tb.wav\t1.0\towl\n8.0\t9.0\tC:\\x\\c.wav\t0.0\towl\n12\t13\tgone.wav\t0\towl\n"
    )
    rows, said = rows_of(tmp_path, capsys, "--annotations=raven")
    assert rows == [
        ("a.wav#t=1,2.5", ("wren",)),
        ("b.wav#t=1,2", ("owl",)),
        ("deep/c.wav#t=0,1", ("owl",)),
    ]
    assert "1 lines of a recording that is not here" in said
    said = rows_of(tmp_path, capsys, "--annotations=raven", "--label_column=Call", code=1)
    assert "has no column Call (columns: Selection, View" in said
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    (tmp_path / "all.txt").write_text(
        "Begin Time (s)\tEnd Time (s)\tBegin File\tSpecies\n0\t1\ta.wav\towl\n5\t6\tb.wav\towl\n"
    )
    said = rows_of(tmp_path, capsys, "--annotations=raven", code=1)
    assert "all.txt, line 2: the table is of several files" in said
    (tmp_path / "all.txt").unlink()
    said = rows_of(tmp_path, capsys, "--annotations=raven", code=1)
    assert "contains no annotated recording" in said


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_what_predict_writes_the_manifest_reads(form, tmp_path, capsys):
    names = ("x", "y; z")
    heard_ = []
    for i, name in enumerate(("a.wav", "b.wav")):
        record(tmp_path / name, seed=i)
        events = [Event(0.5, 1.5 + i, 0, 0.9), Event(2.0, 4.0, 1, 0.8)]
        heard_.append(tables.Heard(str(tmp_path / name), 4.0, events))
    if form == "raven":
        (tmp_path / "all.txt").write_text(tables.raven(heard_, names))
    else:
        for one, name in zip(heard_, "ab", strict=True):
            (tmp_path / f"{name}.txt").write_text(tables.audacity([one], names))
    rows, said = rows_of(tmp_path, capsys, f"--annotations={form}")
    assert rows == [
        ("a.wav#t=0.5,1.5", ("x",)),
        ("a.wav#t=2,4", ("y; z",)),
        ("b.wav#t=0.5,2.5", ("x",)),
        ("b.wav#t=2,4", ("y; z",)),
    ]
    assert "skipped" not in said


def test_parts_of_a_file_lie_in_one_fold(tmp_path, capsys):
    for i in range(4):
        record(tmp_path / f"{i}.wav", seed=i)
        (tmp_path / f"{i}.txt").write_text("0\t1\ta\n1\t2\tb\n2\t3\ta\n")
    assert manifest.main([str(tmp_path), "--annotations=audacity", "--folds=2"]) == 0
    with open(tmp_path / "manifest.csv", newline="") as file:
        found = {(r["path"], r["fold"]) for r in csv.DictReader(file)}
    assert len(found) == 4
    assert sorted(fold for _, fold in found) == ["1", "1", "2", "2"]


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_part_is_heard_as_if_it_were_cut_out(rate, tmp_path):
    audio = record(tmp_path / "a.wav", rate=rate)
    soundfile.write(tmp_path / "cut.wav", audio[round(1.5 * rate) : 3 * rate], rate, "FLOAT")
    for num_samples, position in ((None, 0.0), (RATE // 2, 0.7), (9 * RATE, None)):
        np.testing.assert_allclose(
            read_audio(tmp_path / "a.wav", RATE, num_samples, position, part=(1.5, 3.0)),
            read_audio(tmp_path / "cut.wav", RATE, num_samples, position),
            atol=1e-6,
        )
    assert len(read_audio(tmp_path / "a.wav", RATE, part=(3.5, 4.04))) == RATE // 2
    for part in ((4.0, None), (3.0, 4.2)):
        with pytest.raises(BadAudio, match=r"its part .* 4"):
            read_audio(tmp_path / "a.wav", RATE, part=part)


def test_times_that_make_no_sense_are_named(tmp_path):
    for times, words in (
        ("2,1", "line 2: it ends at 1 s and begins at 2 s"),
        ("1,1", "line 2: it ends at 1 s"),
        ("-1,1", "line 2: start is '-1'"),
        ("0,soon", "line 2: end is 'soon'"),
        ("0,nan", "line 2: end is 'nan'"),
        ("1,2\na.wav,1,2", "line 3: a.wav#t=1,2 occurs already on line 2"),
    ):
        (tmp_path / "m.csv").write_text(f"path,start,end\na.wav,{times}\n")
        with pytest.raises(DataError, match=words.replace("'", ".")):
            read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("path,start,end\na.wav,,\na.wav,1,\na.wav,0,2\n")
    names = [row.name for row in read_manifest(tmp_path / "m.csv")]
    assert names == ["a.wav", "a.wav#t=1", "a.wav#t=0,2"]


def listed(folder, files, parts=3):
    lines = [f"{name},{i},{i + 1}" for name in files for i in range(parts)]
    path = folder / "m.csv"
    path.write_text("path,start,end\n" + "\n".join(lines) + "\n")
    return content.of_rows(read_manifest(path), path), str(path)


def test_parts_of_a_file_lie_on_one_side_and_those_of_a_single_file_are_split(tmp_path, caplog):
    files = [f"{i}.wav" for i in range(8)]
    for i, name in enumerate(files):
        record(tmp_path / name, seed=i)
    rows, path = listed(tmp_path, files)
    assert len({row.content for row in rows}) == len(rows)
    split = split_rows(rows, path, (), (), 0.4)
    sides = [{row.path for row in part} for part in split]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    rows, path = listed(tmp_path, files[:1], parts=4)
    split = split_rows(rows, path, (), (), 0.05)
    assert [len(part) for part in split] == [3, 1]
    assert "parts of one recording alone" in caplog.text


def test_who_heard_the_file_has_heard_its_parts(tmp_path):
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav", seed=1)
    rows, _ = listed(tmp_path, ["a.wav", "b.wav"], parts=2)
    source = ManifestSource(rows, RATE)
    whole = heard.of_contents([content.of_file(tmp_path / "a.wav")])
    assert clips._has(whole, source).tolist() == [True, True, False, False]
    one = heard.of_contents([rows[3].content])
    assert clips._has(one, source).tolist() == [False, False, False, True]


def test_every_source_tells_the_whole_file(tmp_path):
    made_up = SyntheticSource(
        SyntheticSpec(2, 1, 1, (15.0, 40.0)),
        "train",
        sample_rate=RATE,
        num_samples=8,
        labelled=True,
    )
    record(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("path\na.wav\n")
    files = content.of_rows(read_manifest(tmp_path / "m.csv"), tmp_path / "m.csv")
    for source in (made_up, Subset(made_up, [1]), ManifestSource(files, RATE)):
        assert (source.wholes() == source.contents()).all()


def test_labelled_files_are_added_to_annotated_recordings(tmp_path, capsys):
    """What predict wrote, corrected, beside the folders that the first model learned from."""
    for name in ("own/dog/1.wav", "own/dog/2.wav", "own/cat/3.wav", "rec/day.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        record(tmp_path / name, seed=len(name))
    (tmp_path / "rec/day.txt").write_text("0.0\t0.5\tdog\n0.5\t1.0\towl\n")
    assert manifest.main([str(tmp_path / "own"), "--folds=2"]) == 0
    folds = {row.name: row.fold for row in read_manifest(tmp_path / "own/manifest.csv")}
    flags = ["--annotations=audacity", f"--add={tmp_path}/own/manifest.csv"]
    capsys.readouterr()
    assert manifest.main([str(tmp_path / "rec"), *flags]) == 0
    said = capsys.readouterr().out
    assert "added       3 rows" in said
    assert "in all      5 rows, 3 classes: cat, dog, owl" in said
    assert "one clip alone, from which little is learned: cat, owl" in said
    assert "is it a slip?" not in said
    assert said.rstrip().endswith("--workdir=runs/probe_2")  # runs/probe is of the first model
    (tmp_path / "rec/day.txt").write_text("0.0\t0.5\tdog\n0.5\t1.0\towl\n1.0\t2.0\tdogs\n")
    assert manifest.main([str(tmp_path / "rec"), *flags]) == 0
    assert "'dogs' is nearly 'dog': is it a slip?" in capsys.readouterr().out
    (tmp_path / "rec/day.txt").write_text("0.0\t0.5\tdog\n0.5\t1.0\towl\n")
    assert manifest.main([str(tmp_path / "rec"), *flags]) == 0
    rows = read_manifest(tmp_path / "rec/manifest.csv")
    assert [(row.name, row.labels, row.start, row.end) for row in rows] == [
        ("day.wav#t=0,0.5", ("dog",), 0.0, 0.5),
        ("day.wav#t=0.5,1", ("owl",), 0.5, 1.0),
        ("../own/cat/3.wav", ("cat",), 0.0, None),
        ("../own/dog/1.wav", ("dog",), 0.0, None),
        ("../own/dog/2.wav", ("dog",), 0.0, None),
    ]
    assert {row.name.removeprefix("../own/"): row.fold for row in rows[2:]} == folds
    # Once more: a file that is listed already is not listed twice.
    assert manifest.main([str(tmp_path / "own"), flags[1], "--folds=2"]) == 0
    assert "added       0 rows" in capsys.readouterr().out
