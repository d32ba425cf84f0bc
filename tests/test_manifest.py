"""Manifests: what is read, what is refused and in which words, and the command that writes one."""

import collections
import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conformer_jax.data import manifest
from conformer_jax.data.audio import DataError
from conformer_jax.data.manifest import Row, read_manifest, split_rows


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return str(path)


def error_of(function, *args):
    with pytest.raises(DataError) as info:
        function(*args)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_paths_labels_and_folds(tmp_path):
    text = "path,label,fold,other\na.wav,dog,1,x\nsub/b.wav, dog ; cat;;dog,2,\n/abs/c.wav,,,\n"
    rows = read_manifest(write(tmp_path / "m.csv", text))
    assert rows == [
        Row(str(tmp_path / "a.wav"), ("dog",), "1", "a.wav"),
        Row(str(tmp_path / "sub" / "b.wav"), ("dog", "cat"), "2", "sub/b.wav"),
        Row("/abs/c.wav", (), "", "/abs/c.wav"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_spreadsheet_encodings(tmp_path, encoding, newline):
    text = "path,label\nä.wav,Vögel\n".replace("\n", newline)
    (row,) = read_manifest(write(tmp_path / "m.csv", text, encoding))
    assert (row.name, row.labels) == ("ä.wav", ("Vögel",))


def test_a_relative_manifest_gives_absolute_paths(tmp_path, monkeypatch):
    write(tmp_path / "m.csv", "path\na.wav\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("m.csv")[0].path == str(tmp_path / "a.wav")


def test_quoted_commas_and_short_lines(tmp_path):
    rows = read_manifest(write(tmp_path / "m.csv", 'path,label,fold\n"a,b.wav"\nc.wav,x\n'))
    assert [(r.name, r.labels, r.fold) for r in rows] == [
        ("a,b.wav", (), ""),
        ("c.wav", ("x",), ""),
    ]


def test_missing_manifest(tmp_path):
    path = tmp_path / "no.csv"
    assert f"cannot read the manifest {path} (config.data.manifest)" in error_of(
        read_manifest, path
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paths,label\na.wav,x\n", "no column 'path' (columns: paths, label); rename 'paths'?"),
        ("filename,label\na.wav,x\n", "no column 'path' (columns: filename, label); rename 'fil"),
        ("a.wav\nb.wav\n", "(columns: a.wav); its first line must name the columns"),
        ("", "no column 'path' (columns: none)"),
        ("path,label\n", "lists no files"),
        ("path,label\na.wav,x\n,y\n", "line 3: the path is empty"),
        ("path\na.wav\nb.wav\n./a.wav\n", "line 4: ./a.wav occurs already on line 2"),
    ],
)
def test_broken_manifests_say_what_to_mend(tmp_path, text, words):
    assert words in error_of(read_manifest, write(tmp_path / "m.csv", text))


def test_not_utf8(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xe4.wav,x\n")
    assert "not a CSV file in UTF-8" in error_of(read_manifest, tmp_path / "m.csv")


def rows_of(n, folds=0):
    names = [f"f{i}.wav" for i in range(n)]
    return [
        Row("/" + name, (), str(i % folds + 1) if folds else "", name)
        for i, name in enumerate(names)
    ]


def test_folds_are_compared_as_strings():
    rows = rows_of(20, folds=5)
    train, held_out = split_rows(rows, "m.csv", (), (5,), 0.05)
    assert {r.fold for r in train} == {"1", "2", "3", "4"}
    assert {r.fold for r in held_out} == {"5"}
    train, held_out = split_rows(rows, "m.csv", ("1", 2), ("3",), 0.05)
    assert ({r.fold for r in train}, {r.fold for r in held_out}) == ({"1", "2"}, {"3"})


def test_train_folds_alone_hold_out_a_share_of_them():
    train, held_out = split_rows(rows_of(100, folds=5), "m.csv", ("1", "2"), (), 0.1)
    assert {r.fold for r in train + held_out} == {"1", "2"}
    assert (len(train), len(held_out)) == (36, 4)


def test_unknown_folds():
    words = error_of(split_rows, rows_of(9, folds=3), "m.csv", (), ("7",), 0.1)
    assert words == "config.data.eval_folds: m.csv has no fold '7' (folds: 1, 2, 3)"
    words = error_of(split_rows, rows_of(9), "m.csv", ("1",), (), 0.1)
    assert "config.data.train_folds" in words
    assert "no filled `fold` column" in words
    assert "takes every file" in error_of(split_rows, rows_of(3, folds=1), "m.csv", (), ("1",), 0.1)


def test_what_is_held_out_depends_on_names_alone():
    rows = rows_of(200)
    train, held_out = split_rows(rows, "m.csv", (), (), 0.05)
    assert len(held_out) == 10
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 200
    shuffled = random.Random(0).sample(rows, 200)
    assert set(split_rows(shuffled, "m.csv", (), (), 0.05)[1]) == set(held_out)
    moved = [row._replace(path="/elsewhere" + row.path) for row in rows]
    assert {r.name for r in split_rows(moved, "m.csv", (), (), 0.05)[1]} == {
        r.name for r in held_out
    }


def test_every_label_with_two_files_has_one_held_out():
    labels = ["cat"] * 40 + ["dog"] * 12 + ["owl"] * 2 + ["wren"]
    rows = [row._replace(labels=(name,)) for row, name in zip(rows_of(55), labels, strict=True)]
    held_out = split_rows(rows, "m.csv", (), (), 0.1)[1]
    count = collections.Counter(row.labels[0] for row in held_out)
    assert count == {"cat": 4, "dog": 1, "owl": 1}
    unlabelled = [row._replace(path=f"/x/{row.name}", name=f"x/{row.name}") for row in rows_of(99)]
    with_more = split_rows(rows + unlabelled, "m.csv", (), (), 0.1)[1]
    assert set(held_out) < set(with_more)  # what pre-training has not heard judges fine-tuning
    # Not all of a label, whatever the share; labels of one file each are as none.
    pairs = split_rows(rows[-3:-1] + rows[:40], "m.csv", (), (), 0.9)
    assert {row.labels for row in pairs[0]} == {row.labels for row in pairs[1]}
    singles = [row._replace(labels=(row.name,)) for row in rows]
    assert len(split_rows(singles, "m.csv", (), (), 0.1)[1]) == 6


def test_many_labels_of_few_files_are_told(caplog):
    rows = [row._replace(labels=(f"speaker {i // 2}",)) for i, row in enumerate(rows_of(100))]
    assert len(split_rows(rows, "m.csv", (), (), 0.05)[1]) == 50
    assert "50 of 100 files are held out" in caplog.text


def test_at_least_one_file_is_held_out_and_one_is_left():
    train, held_out = split_rows(rows_of(2), "m.csv", (), (), 0.001)
    assert (len(train), len(held_out)) == (1, 1)
    for n, share in ((1, 0.05), (10, 1.0)):
        assert "config.data.eval_share" in error_of(split_rows, rows_of(n), "m.csv", (), (), share)


def folder_of_sounds(folder):
    tone = np.sin(np.arange(8000) / 10).astype(np.float32)
    for name in (
        "dog/1.wav",
        "dog/deep/2.flac",
        "cat/3.wav",
        "4.ogg",
        "cat/.hidden.wav",
        ".git/5.wav",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone, 16000)
    (folder / "cat" / "notes.txt").write_text("not a sound")
    (folder / "cat" / "empty.wav").touch()


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_manifest(tmp_path):
    folder_of_sounds(tmp_path)
    command = [sys.executable, "-m", "conformer_jax.data.manifest", str(tmp_path)]
    root = Path(manifest.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "files       4, 0.00 h" in done.stdout
    assert "classes     2: cat, dog" in done.stdout
    assert "unreadable  2" in done.stdout
    assert f"--config.data.manifest={tmp_path}/manifest.csv" in done.stdout
    listed = [tuple(record.values()) for record in table(tmp_path / "manifest.csv")]
    assert listed == [
        ("4.ogg", "", "", "0.500"),
        ("cat/3.wav", "cat", "", "0.500"),
        ("dog/1.wav", "dog", "", "0.500"),
        ("dog/deep/2.flac", "dog", "", "0.500"),
    ]
    unreadable = {r["path"]: r["reason"] for r in table(tmp_path / "manifest_unreadable.csv")}
    assert unreadable["cat/empty.wav"] == "empty file"
    assert unreadable["cat/notes.txt"].startswith("not audio or unknown format")
    assert [row.path for row in read_manifest(tmp_path / "manifest.csv")] == [
        str(tmp_path / record[0]) for record in listed
    ]


def test_the_command_again_and_elsewhere(tmp_path, capsys):
    sounds, other = tmp_path / "sounds", tmp_path / "lists"
    sounds.mkdir()
    other.mkdir()
    folder_of_sounds(sounds)
    assert manifest.main([str(sounds)]) == 0
    first = (sounds / "manifest.csv").read_bytes()
    (sounds / "cat" / "notes.txt").unlink()
    (sounds / "cat" / "empty.wav").unlink()
    assert manifest.main([str(sounds)]) == 0  # its own files are no audio, and not listed
    assert (sounds / "manifest.csv").read_bytes() == first
    assert not (sounds / "manifest_unreadable.csv").exists()
    assert manifest.main([str(sounds), "--output", str(other / "m.csv")]) == 0
    rows = read_manifest(other / "m.csv")
    assert {r.name for r in rows} >= {"../sounds/dog/1.wav"}
    assert all(os.path.exists(row.path) for row in rows)
    capsys.readouterr()


def test_the_command_assigns_balanced_folds(tmp_path, capsys):
    for i in range(12):
        for label in ("a", "b"):
            (tmp_path / label).mkdir(exist_ok=True)
            soundfile.write(tmp_path / label / f"{i}.wav", np.zeros(10), 8000)
    assert manifest.main([str(tmp_path), "--folds", "3"]) == 0
    first = table(tmp_path / "manifest.csv")
    for label in ("a", "b"):
        folds = [record["fold"] for record in first if record["label"] == label]
        assert sorted(folds) == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    assert manifest.main([str(tmp_path), "--folds", "3"]) == 0
    assert table(tmp_path / "manifest.csv") == first
    capsys.readouterr()


def test_the_command_fails_in_one_line(tmp_path, capsys):
    assert manifest.main([str(tmp_path / "no")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("x")
    assert manifest.main([str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "contains no readable audio; what it contains is listed in" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "manifest.csv").exists()
