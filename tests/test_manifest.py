"""The command that writes a manifest of a folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from conformer_jax import manifest
from conformer_jax.data.manifest import read_manifest


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
    command = [sys.executable, "-m", "conformer_jax.manifest", str(tmp_path)]
    root = Path(manifest.__file__).parents[1]
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
