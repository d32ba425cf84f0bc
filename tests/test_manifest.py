"""The command that writes a manifest of a folder."""

import csv
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conformer_jax import manifest
from conformer_jax.data import folder_summary
from conformer_jax.data.clips import Clip, Sound
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
    assert "classes     3: cat, deep, dog" in done.stdout
    assert "--label_from=top would give 2: cat, dog" in done.stdout
    assert "unreadable  1, see " in done.stdout
    assert "texts       1, passed over" in done.stdout
    assert f"--config.data.manifest={tmp_path}/manifest.csv" in done.stdout
    listed = [tuple(record.values()) for record in table(tmp_path / "manifest.csv")]
    assert listed == [
        ("4.ogg", "", "", "0.500"),
        ("cat/3.wav", "cat", "", "0.500"),
        ("dog/1.wav", "dog", "", "0.500"),
        ("dog/deep/2.flac", "deep", "", "0.500"),
    ]
    unreadable = {r["path"]: r["reason"] for r in table(tmp_path / "manifest_unreadable.csv")}
    assert unreadable["cat/empty.wav"] == "empty file"
    assert unreadable["cat/notes.txt"].startswith("not audio or unknown format")
    assert [row.path for row in read_manifest(tmp_path / "manifest.csv")] == [
        str(tmp_path / record[0]) for record in listed
    ]


ABOVE = "data_of_mine"  # folders of these are
CUT = "path,label,start,end\ndog/1.wav,{0},0.1,0.2\ndog/1.wav,{0},0.3,0.4\n"  # by hand
TRACKS, GROUPS = ["--annotations=audacity"], ["--folds=2", "--group=[0-9]"]
DAYS = ["--folds=2", "--group=day"]


def column(name, *values):
    """Adds one that is filled so, in turn."""

    def edit(text):
        rows = enumerate(text.splitlines())
        return "\n".join(r + "," + (values[i % len(values)] if i else name) for i, r in rows)

    return edit


def put(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "again", "said"),
    [
        (put("", ""), [], None),
        (put("", ""), ["--folds=2"], None),
        (column("site", ""), [], None),
        (lambda text: "", [], None),
        (lambda text: "path,label\n", GROUPS, None),
        # Another table is asked for, or rows go: a copy is kept.
        (put("", ""), ["--label_from=top"], "kept"),
        (put("1.wav,dog,", "1.wav,,"), [], "kept"),
        (put("1.wav,dog,,", "1.wav,dog,3,"), ["--folds=2"], "kept"),
        (lambda text: text + "gone.wav,wolf,,1\n", [], "kept"),
        (lambda text: text + ".git/5.wav,wolf,,1\n", [], "kept"),
        (lambda text: CUT.format("bark"), TRACKS, "kept"),
        (lambda text: "path,label\ndog/1.wav,bark\n", TRACKS, "kept"),
        (column("group", "a"), GROUPS, "kept"),
        (lambda text: column("day", "a", "b")(text) + "\ndog/8.wav,dog,,1,a", DAYS, "kept"),
        (lambda text: column("day", "a", "b")(text), [*DAYS, "--label_from=top"], "kept"),
        # Something goes altogether, or a label that was given by hand.
        (put(",dog,", ",hound,"), [], "labels (1)"),
        (put("dog/1.wav,dog", "./dog/1.wav,hound"), [], "labels (1)"),
        (put(",dog,", ",hound,"), TRACKS, "labels (1)"),
        (put(",dog,", f",{ABOVE},"), [], "labels (1)"),  # a folder, but none below this
        (put("3.wav,cat", "3.wav,dog"), [], "labels (1)"),
        (put(".ogg,,", ".ogg,hum,"), ["--label_from=none"], "labels (4)"),
        (lambda text: CUT.format("bark"), [], "parts"),
        (put("1.wav,dog,,", "1.wav,dog,3,"), [], "the column fold"),
        (column("site", "a"), [], "the column site"),
        (column("", "a"), [], "a column without a name"),
        (lambda text: column("", "")(column("", "a")(text)), [], "a column without a name"),
        (column("group", "a"), [], "the column group"),
        (lambda text: column("day", "a", "b")(column("group", "a")(text)), DAYS, "column group"),
        (put("path", "file"), [], "no column 'path'"),
        (lambda text: "hello", GROUPS, "no column 'path'"),
    ],
)
def test_what_was_filled_in_by_hand_is_not_lost(tmp_path, capsys, edit, again, said):
    tmp_path /= ABOVE
    folder_of_sounds(tmp_path)
    assert manifest.main([str(tmp_path)]) == 0
    listed, copy = tmp_path / "manifest.csv", tmp_path / "manifest_before.csv"
    text = edit(listed.read_text())
    listed.write_text(text)
    (tmp_path / "manifest_unreadable.csv").unlink()
    (tmp_path / "dog" / "1.txt").write_text("0.1\t0.2\tbark\n")
    refused = said not in (None, "kept")
    capsys.readouterr()
    assert manifest.main([str(tmp_path), *again]) == refused
    told = capsys.readouterr()
    if refused:
        assert said in told.err
        assert "--overwrite" in told.err
        assert listed.read_text() == text
        assert not (tmp_path / "manifest_unreadable.csv").exists()
        assert not copy.exists()
        assert manifest.main([str(tmp_path), *again, "--overwrite"]) == 0
    else:
        assert ("kept in" in told.out) == bool(said)
    assert copy.exists() == bool(said)
    assert not said or copy.read_text() == text
    assert read_manifest(listed)
    before = listed.read_bytes()
    assert manifest.main([str(tmp_path), *again]) == 0  # as it is now it may be listed again
    assert listed.read_bytes() == before
    assert not (tmp_path / "manifest_before1.csv").exists()


def test_parts_with_labels_of_their_own_are_listed_again(tmp_path):
    folder_of_sounds(tmp_path)
    track, added = tmp_path / "dog" / "1.txt", tmp_path / "more.csv"
    added.write_text("path,label,start,end\n4.ogg,wren,0,0.2\n4.ogg,robin,0.2,0.4\n")
    for line in ("0.1\t0.2\tbark\n", "0.1\t0.3\thowl\n"):
        track.write_text(line)
        again = [str(tmp_path), "--annotations=audacity", f"--add={added}"]
        assert manifest.main(again) == 0
    assert manifest.main([str(tmp_path), f"--add={added}"]) == 1  # howl is not listed then
    assert sorted(row["label"] for row in table(tmp_path / "manifest.csv")) == [
        "howl",
        "robin",
        "wren",
    ]


def test_labels_given_by_hand_to_what_lies_elsewhere_are_kept(tmp_path, capsys):
    """Of folders that are links, and of rows of another manifest that has no labels."""
    own, other, data = tmp_path / "own", tmp_path / "other", tmp_path / "data"
    folder_of_sounds(data)
    folder_of_sounds(other)
    own.mkdir()
    (own / "dog").symlink_to(data / "dog")
    sound(own / "cat" / "1.wav")
    (other / "m.csv").write_text("path\ndog/1.wav\n")
    command = [str(own), f"--add={other}/m.csv"]
    assert manifest.main(command) == 0
    listed = own / "manifest.csv"
    text = listed.read_text()
    for old, new in (
        ("dog/1.wav,dog", "dog/1.wav,wolf"),
        ("other/dog/1.wav,", "other/dog/1.wav,fox"),
    ):
        assert old in text
        listed.write_text(text.replace(old, new))
        capsys.readouterr()
        assert manifest.main(command) == 1
        assert "labels (1)" in capsys.readouterr().err


def test_a_folder_may_be_renamed_and_reached_by_a_link(tmp_path):
    folder_of_sounds(tmp_path / "data")
    output = f"--output={tmp_path}/m.csv"
    assert manifest.main([str(tmp_path / "data"), output]) == 0
    (tmp_path / "data").rename(tmp_path / "sounds")
    assert manifest.main([str(tmp_path / "sounds"), output]) == 0
    (tmp_path / "link").symlink_to("sounds")
    assert manifest.main([str(tmp_path / "link"), output, "--label_from=none"]) == 0


def test_a_folder_above_a_link_is_that_of_what_it_leads_to(tmp_path, monkeypatch):
    for name in "real/sounds/dog/1.wav", "real/more/2.wav":
        sound(tmp_path / name)
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "link").symlink_to("real/deep")
    monkeypatch.chdir(tmp_path)
    assert manifest.main(["link/../more"]) == 0
    added = "--add=link/../more/manifest.csv"
    for output in ("m.csv", "link/../m.csv"):
        assert manifest.main(["link/../sounds", added, f"--output={output}"]) == 0
        assert all(os.path.exists(row.path) for row in read_manifest(output))
    assert len(table("real/m.csv")) == 2


def test_rows_from_elsewhere_and_their_groups_are_kept(tmp_path, capsys):
    own, other = tmp_path / "own", tmp_path / "other"
    folder_of_sounds(own)
    folder_of_sounds(other)
    (own / "manifest.csv").write_text(
        "path,label,day,start,end\n./4.ogg,,a\ndog/../dog/1.wav,dog,b\ncat/3.wav,cat,a\n"
        "../other/dog/1.wav,dog,a,0.2,0.5\n../other/dog/1.wav,dog,b,0,0.1\n"
    )
    (other / "manifest.csv").write_text(
        "path,label,start,end\ndog/1.wav,dog,0.2000004\ndog/1.wav,dog,0,0.1\n"
    )
    command = [str(own), "--folds=2", "--group=day"]
    for _ in range(2):
        assert manifest.main([*command, f"--add={other}/manifest.csv"]) == 0
    rows = {row["path"] + row["start"]: row for row in table(own / "manifest.csv")}
    assert [rows[name]["day"] for name in ("4.ogg", "dog/1.wav", "cat/3.wav")] == ["a", "b", "a"]
    assert rows["4.ogg"]["fold"] == rows["cat/3.wav"]["fold"]
    # To the end of the file, and not as long as all of it.
    assert float(rows["../other/dog/1.wav0.200000"]["end"]) == 0.5

    assert [rows[f"../other/dog/1.wav0.{t}00000"]["day"] for t in (2, 0)] == ["a", "b"]
    capsys.readouterr()
    assert manifest.main(command) == 1
    assert "parts, files from elsewhere. " in capsys.readouterr().err
    for track in ("dog/1.txt", "4.txt"):  # parts belong to the group of their recording
        (own / track).write_text("0.1\t0.2\tbark\n0.3\t0.4\tbark\n")
    assert manifest.main([*command, "--annotations=audacity", "--overwrite"]) == 0
    rows = [(row["path"], row["day"]) for row in table(own / "manifest.csv")]
    assert rows == [("4.ogg", "a")] * 2 + [("dog/1.wav", "b")] * 2


def test_a_part_of_another_manifest_goes_to_the_end_of_its_file(tmp_path, capsys):
    own, other = tmp_path / "own", tmp_path / "other"
    folder_of_sounds(own)
    folder_of_sounds(other)
    (own / "again").symlink_to(other / "cat")
    (other / "link.wav").symlink_to(own / "dog" / "1.wav")
    rows = "path,label,duration_s,start\ndog/1.wav,dog,0.300,{}\ncat/3.wav,cat,0.500,\n"
    rows += "link.wav,dog,0.500,\n"
    command = [str(own), f"--add={other}/manifest.csv"]
    (other / "manifest.csv").write_text(rows.format(0.2))
    assert manifest.main(command) == 0
    added = {row["path"]: row for row in table(own / "manifest.csv") if "other" in row["path"]}
    assert set(added) == {"../other/dog/1.wav"}  # the others are listed, by links
    assert (added["../other/dog/1.wav"]["end"], added["../other/dog/1.wav"]["duration_s"]) == (
        "0.500000",
        "0.300",
    )
    (other / "manifest.csv").write_text(rows.format(9))
    assert manifest.main(command) == 1
    assert "dog/1.wav#t=9: the part begins at 9 s of 0.500 s" in capsys.readouterr().err


def test_a_length_that_is_none_is_measured(tmp_path, capsys):
    own, other = tmp_path / "own", tmp_path / "other"
    folder_of_sounds(own)
    folder_of_sounds(other)
    added, listed = other / "m.csv", own / "manifest.csv"
    for length in ("nan", "inf", "-3", "0", "2"):
        added.write_text(f"path,duration_s\ndog/1.wav,{length}\n")
        assert manifest.main([str(own), f"--add={added}"]) == 0
        assert table(listed)[-1]["duration_s"] == ("2.000" if length == "2" else "0.500")
    added.unlink()
    assert manifest.main([str(own), f"--add={added}"]) == 1
    assert f"cannot read the manifest {added} (--add): No such file" in capsys.readouterr().err


def test_links_to_a_file_are_of_its_fold(tmp_path):
    for i in range(8):
        sound(tmp_path / "rain" / f"{i}.wav")
        (tmp_path / "wet").mkdir(exist_ok=True)
        (tmp_path / "wet" / f"{7 - i}_again.wav").symlink_to(f"../rain/{i}.wav")
    assert manifest.main([str(tmp_path), "--folds=4"]) == 0
    fold = {row["path"]: row["fold"] for row in table(tmp_path / "manifest.csv")}
    assert [fold[f"rain/{i}.wav"] for i in range(8)] == [
        fold[f"wet/{7 - i}_again.wav"] for i in range(8)
    ]
    assert len(set(fold.values())) == 4


def test_groups_that_share_a_file_are_of_one_fold(tmp_path, capsys):
    for name in "abcd":
        for i in range(2):
            sound(tmp_path / name / f"{i}.wav")
    for i, name in enumerate("abc"):
        (tmp_path / f"best{i}").mkdir()
        link = tmp_path / f"best{i}" / "0.wav"
        (link.hardlink_to if i else link.symlink_to)(tmp_path / name / "0.wav")
    command = [str(tmp_path), r"--group=^(\w+)/", "--label_from=none"]
    assert manifest.main([*command, "--folds=4"]) == 0
    said = "7 groups, each in one fold (4 where those that share files are one)"
    assert said in capsys.readouterr().out
    rows = {row["path"]: (row["fold"], row["group"]) for row in table(tmp_path / "manifest.csv")}
    for i, name in enumerate("abc"):
        fold = rows[f"{name}/0.wav"][0]
        assert rows[f"{name}/1.wav"] == (fold, name)
        assert rows[f"best{i}/0.wav"] == (fold, f"best{i}")
    assert len({fold for fold, _ in rows.values()}) == 4
    assert manifest.main([*command, "--folds=5"]) == 1
    assert "4 groups of files cannot fill them" in capsys.readouterr().err


def test_parts_of_a_file_may_be_told_apart_by_groups(tmp_path):
    soundfile.write(tmp_path / "night.wav", np.zeros(64000), 8000)
    (tmp_path / "again.wav").symlink_to("night.wav")
    command = [str(tmp_path), "--segment=2"]
    assert manifest.main(command) == 0
    path = tmp_path / "manifest.csv"
    rows = path.read_text().splitlines()
    hours = [f"{row},{'abcdefg'[i : i + 1]}" for i, row in enumerate(rows[1:])]
    path.write_text("\n".join([f"{rows[0]},hour", *hours]))
    assert manifest.main([*command, "--folds=3", "--group=hour"]) == 0
    fold = {(row["path"], row["start"]): row["fold"] for row in table(path)}
    starts = [row["start"] for row in table(path)][:4]
    assert len({fold["again.wav", start] for start in starts}) == 3
    assert all(fold["again.wav", start] == fold["night.wav", start] for start in starts)


def test_a_file_with_a_group_takes_its_links_along(tmp_path):
    for day in "1234":
        for i in range(2):
            sound(tmp_path / f"day{day}" / f"{i}.wav")
        (tmp_path / "wet").mkdir(exist_ok=True)
        (tmp_path / "wet" / f"l{day}.wav").symlink_to(f"../day{day}/0.wav")
    arguments = ["--folds=4", r"--group=day(\d)", "--label_from=none"]
    assert manifest.main([str(tmp_path), *arguments]) == 0
    fold = {row["path"]: row["fold"] for row in table(tmp_path / "manifest.csv")}
    for day in "1234":
        assert fold[f"day{day}/0.wav"] == fold[f"day{day}/1.wav"] == fold[f"wet/l{day}.wav"]


def test_files_are_the_same_wherever_the_manifest_lies(tmp_path):
    sounds, lists = tmp_path / "sounds", tmp_path / "deep" / "lists"
    folder_of_sounds(sounds)
    lists.mkdir(parents=True)
    (tmp_path / "link").symlink_to(lists)
    (tmp_path / "other.csv").write_text("path,label\nsounds/dog/1.wav,dog\n")
    command = [str(sounds), f"--output={tmp_path}/link/m.csv", f"--add={tmp_path}/other.csv"]
    for _ in range(2):
        assert manifest.main(command) == 0
    assert [row["path"] for row in table(lists / "m.csv")].count("../sounds/dog/1.wav") == 1


def test_two_rows_that_become_one_part_are_refused(tmp_path, capsys):
    own, other = tmp_path / "own", tmp_path / "other"
    folder_of_sounds(own)
    folder_of_sounds(other)
    (other / "m.csv").write_text("path,start,end\ndog/1.wav,0.2,\ndog/1.wav,0.2,0.5\n")
    assert manifest.main([str(own), f"--add={other}/m.csv"]) == 1
    assert "two rows are of its part from 0.2 s on" in capsys.readouterr().err


def test_groups_of_another_manifest_stay_together(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for i in range(12):
        sound(other / "dog" / f"{i}.wav")
    for i in range(4):
        sound(own / "dog" / f"{i}.wav")
    rows = [f"dog/{i}.wav,dog,{'abc'[i % 3]}" for i in range(12)]
    (other / "m.csv").write_text("\n".join(["path,label,group", *rows]))
    command = [str(own), f"--add={other}/m.csv", "--folds=3", f"--output={tmp_path}/m.csv"]
    assert manifest.main([command[0], command[1], command[3]]) == 0  # without folds, too
    assert [row["group"] for row in table(tmp_path / "m.csv")] == [""] * 4 + [*"abc"] * 4
    for more in ([], ["--group=group"]):
        assert manifest.main([*command, *more]) == 0
        found = [row for row in table(tmp_path / "m.csv") if "other" in row["path"]]
        assert [row["group"] for row in found] == [*"abc"] * 4
        assert len({(row["group"], row["fold"]) for row in found}) == 3
    # What is changed there is heard of, and a row that says nothing keeps what was filled in here.
    (other / "m.csv").write_text("\n".join(["path,label,group", *rows[:-1], "dog/11.wav,dog,"]))
    assert manifest.main([*command, "--group=group"]) == 0
    assert table(tmp_path / "m.csv")[-1]["group"] == "c"
    (other / "m.csv").write_text("\n".join(["path,label,group", *rows[:-1], "dog/11.wav,dog,a"]))
    assert manifest.main([*command, "--group=group"]) == 0
    assert table(tmp_path / "m.csv")[-1]["group"] == "a"


def test_a_group_that_is_empty_is_none(tmp_path, capsys):
    folder_of_sounds(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label,day\ndog/1.wav,dog,\n")
    assert manifest.main([str(tmp_path), "--folds=2", "--group=day"]) == 1
    assert "--group=day: the column of that name is empty" in capsys.readouterr().err


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


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(100), 8000)


def labels_of(folder):
    return {row.name: row.labels for row in read_manifest(folder / "manifest.csv")}


def test_the_level_of_the_labels_can_be_chosen(tmp_path, capsys):
    for part in ("train", "test"):
        for label in ("cats; dogs", "rain"):
            sound(tmp_path / part / label / f"{part}.wav")
    name = "train/cats; dogs/train.wav"
    expected = {
        "parent": ("cats; dogs",),
        "top": ("train",),
        "1": ("train",),
        "2": ("cats; dogs",),
        "3": (),
        "none": (),
    }
    for level, labels in expected.items():
        assert manifest.main([str(tmp_path), f"--label_from={level}"]) == 0
        assert labels_of(tmp_path)[name] == labels, level
        said = capsys.readouterr().out
        assert ("--label_from=top would give 2: test, train" in said) == (level in "parent23")
    assert manifest.main([str(tmp_path), "--label_from=0"]) == 1
    assert "--label_from=0: parent, top, none" in capsys.readouterr().err


def test_one_class_warns(tmp_path, capsys):
    sound(tmp_path / "rain" / "1.wav")
    assert manifest.main([str(tmp_path)]) == 0
    assert "WARNING     one class only" in capsys.readouterr().out


def test_what_cannot_be_read_is_counted_with_what_would_read_it(tmp_path, capsys):
    sound(tmp_path / "rain" / "1.wav")
    for i in range(3):
        (tmp_path / f"{i}.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(100))
    (tmp_path / "a.raw").write_bytes(bytes(100))
    (tmp_path / "readme.txt").write_text("wörds")
    assert manifest.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "unreadable  4, see" in said
    assert "3 .m4a: read with `pip install 'conformer_jax[media]'`, if it is whole" in said
    assert "1 .raw: no header" in said
    assert "texts       1, passed over" in said


def test_folds_keep_groups_together(tmp_path, capsys):
    for label in "ab":
        for site in range(4):
            for take in range(2):
                sound(tmp_path / label / f"site{site}_{take}.wav")
    command = [str(tmp_path), "--folds=2"]
    assert manifest.main([*command, "--group=site[0-2]"]) == 0
    warning = "WARNING     4 rows without a group are dealt by file: a/site3_0.wav, ..."
    assert warning in capsys.readouterr().out
    assert manifest.main([*command, "--group=site[0-9]"]) == 0
    assert "without a group" not in capsys.readouterr().out
    rows = table(tmp_path / "manifest.csv")
    assert len({(row["group"], row["fold"]) for row in rows}) == 4
    # Another column, filled by hand: it is read from the manifest that is replaced, and kept.
    for row in rows:
        row["day"] = "monday" if row["group"] in ("site0", "site3") else "tuesday"
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for overwrite in (["--overwrite"], []):  # the column group
        assert manifest.main([*command, "--group=day", *overwrite]) == 0
        rows = table(tmp_path / "manifest.csv")
        assert len({(row["day"], row["fold"]) for row in rows}) == 2
    assert "folds       2, of 8, 8 labelled files; 2 groups" in capsys.readouterr().out
    assert manifest.main([*command, "--group=night"]) == 1
    assert "no such column" in capsys.readouterr().err
    assert table(tmp_path / "manifest.csv") == rows


def test_linked_folders_are_followed_once(tmp_path, capsys):
    folder, elsewhere = tmp_path / "sounds", tmp_path / "elsewhere"
    sound(elsewhere / "1.wav")
    sound(folder / "rain" / "2.wav")
    (folder / "cats").symlink_to(elsewhere)
    (folder / "drops").symlink_to("rain")
    (folder / "rain" / "up").symlink_to("..")
    assert manifest.main([str(folder)]) == 0
    assert labels_of(folder) == {"cats/1.wav": ("cats",), "rain/2.wav": ("rain",)}
    assert "links       2 to folders that are listed already: drops, rain/up" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("part", [(os, "fsync"), (shutil, "copyfile")], ids=lambda part: part[1])
def test_a_full_disk_leaves_the_old_manifest(part, tmp_path, capsys, monkeypatch):
    sound(tmp_path / "rain" / "1.wav")
    (tmp_path / "manifest.csv").write_text("path\nold.wav\n")

    def full(*args):
        if args[1:]:
            args[1].write_text("pat")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*part, full)
    assert manifest.main([str(tmp_path)]) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot write {tmp_path}/manifest.csv: No space left on device" in said
    assert (tmp_path / "manifest.csv").read_text() == "path\nold.wav\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.csv", "rain"]


def test_a_folder_whose_name_is_not_utf8_fails_in_one_line(tmp_path, capsys, monkeypatch):
    odd = tmp_path / os.fsdecode(b"b\xff")
    sound(tmp_path / "b" / "sounds" / "rain" / "1.wav")
    (tmp_path / "b").rename(odd)
    monkeypatch.chdir(odd)
    assert manifest.main(["sounds", f"--output={tmp_path}/m.csv"]) == 1
    assert "has a name that is not UTF-8: rename it" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [odd.name]


def test_an_interrupt_does_not_say_that_nothing_was_written(tmp_path, capsys, monkeypatch):
    sound(tmp_path / "rain" / "1.wav")
    replace = os.replace

    def then_interrupt(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", then_interrupt)
    assert manifest.main([str(tmp_path)]) == 130
    assert "what it was before, or written as a whole" in capsys.readouterr().err
    assert table(tmp_path / "manifest.csv")


def long_recordings(folder, seconds):
    for name, length in seconds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sound = np.sin(np.arange(round(length * 8000)) ** 1.5 / 900).astype(np.float32)
        soundfile.write(folder / name, 0.5 * sound, 8000)


def test_long_recordings_are_cut_into_clips_of_one_fold_each(tmp_path, capsys):
    long_recordings(tmp_path, {"pond/a.wav": 34.6, "pond/b.flac": 14.9, "wood/c.wav": 35.4})
    assert manifest.main([str(tmp_path), "--segment=10", "--folds=2"]) == 0
    said = capsys.readouterr().out
    assert "files       3, 0.02 h" in said
    assert "parts       8, of about 10 s" in said
    listed = table(tmp_path / "manifest.csv")
    ends = [
        (row["path"], row["start"], row["end"]) for row in listed if row["path"] != "pond/b.flac"
    ]
    assert ends == [
        ("pond/a.wav", "0.000000", "10.000000"),
        ("pond/a.wav", "10.000000", "20.000000"),
        ("pond/a.wav", "20.000000", "34.600000"),  # rather than a clip of less than half
        *[("wood/c.wav", f"{at}.000000", f"{at + 10}.000000") for at in (0, 10, 20)],
        ("wood/c.wav", "30.000000", "35.400000"),
    ]
    whole = [row for row in listed if row["path"] == "pond/b.flac"]
    assert [(row["start"], row["end"]) for row in whole] == [("", "")]
    for name in ("pond/a.wav", "wood/c.wav"):
        assert len({row["fold"] for row in listed if row["path"] == name}) == 1
    assert {row["label"] for row in listed} == {"pond", "wood"}
    rows = read_manifest(tmp_path / "manifest.csv")
    assert [(row.start, row.end) for row in rows if row.name.startswith("pond/b")] == [(0.0, None)]


@pytest.mark.parametrize(
    ("cut", "asked"),  # parts of the first recording in the manifest before, and what is said
    [
        ([(0.1, 0.2)], True),
        ([(0, 3.1), (3.1, 6.2), (6.2, 9)], True),  # not up to the end
        ([(0, 3), (3, "")], True),
        ([(0, 4), (4, 5), (5, 9.3)], True),
        ([(0, 7), (7, 9.3)], True),  # --segment=7 would make no part of it
        ([(3, 6)], False),  # which is listed again
        ([(0, 4.6), (4.6, "")], False),
        (
            [
                (0, 1.1),
                *((round(i * 1.1, 6), round(i * 1.1 + 1.1, 6)) for i in range(1, 7)),
                (7.7, 9.3),
            ],
            False,
        ),
    ],
)
def test_parts_made_by_hand_are_not_lost_among_others(tmp_path, capsys, cut, asked):
    long_recordings(tmp_path, {"pond/a.wav": 9.3, "pond/b.wav": 12.0})
    rows = "".join(f"pond/a.wav,pond,{start},{end}\n" for start, end in cut)
    (tmp_path / "manifest.csv").write_text(
        f"path,label,start,end\n{rows}pond/b.wav,pond,0,6\npond/b.wav,pond,6,12\n"
    )
    assert manifest.main([str(tmp_path), "--segment=3"]) == asked
    assert ("would be lost: parts (of 1 files)" in capsys.readouterr().err) == asked
    for again in (["--segment=3", "--overwrite"], ["--segment=1.0000004"], ["--segment=6"]):
        assert manifest.main([str(tmp_path), *again]) == 0


def test_parts_of_another_manifest_are_read_anew(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    long_recordings(tmp_path, {"own/pond/a.wav": 9.0, "other/b.wav": 9.0})
    for end in (2, 3):
        (other / "m.csv").write_text(f"path,label,start,end\nb.wav,pond,1,{end}\n")
        assert manifest.main([str(own), "--segment=3", f"--add={other}/m.csv"]) == 0


def test_what_cannot_be_cut_is_said(tmp_path, capsys):
    long_recordings(tmp_path, {"a.wav": 3.0})
    (tmp_path / "a.txt").write_text("0\t1\tfrog\n")
    for wrong in (
        ["--segment=0.5"],
        ["--segment=-1"],
        ["--segment=nan"],
        ["--segment=10", "--annotations=audacity"],
    ):
        assert manifest.main([str(tmp_path), *wrong]) == 1
        assert capsys.readouterr().err.startswith("error: --segment=")
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize(
    ("files", "clips", "variant", "segment"),
    [
        (90, 90, "tiny_clip", False),
        (40, 400, "tiny_clip", False),
        (39, 400, "tiny", False),  # a twentieth of which is less than two files
        (1, 1, "tiny", True),
        (50, 50, "tiny", True),
        (25, 50, "tiny", False),  # which are parts
    ],
)
def test_clip_contrast_is_advised_where_its_batches_fill(files, clips, variant, segment):
    sounds = [Sound(f"{i % files}.wav", (), 3600.0) for i in range(clips)]
    end = 200.0 if clips > files else None
    listed = [Clip(sound, (), end=end) for sound in sounds]
    said = "\n".join(folder_summary.advice("m.csv", listed, 0, again=False))
    assert f"--config=configs/pretrain.py:{variant} --config.data.manifest=m.csv" in said
    assert ("--segment=10" in said) == segment


def test_a_fold_or_a_long_recording_may_leave_too_little():
    def variant(lengths, folds=0):
        listed = [
            Clip(Sound(f"{i}.wav", (), 9e3), (), end=1.0)
            for i, n in enumerate(lengths)
            for _ in range(n)
        ]
        said = folder_summary.advice("m.csv", listed, folds, again=False)
        return "tiny_clip" if "tiny_clip" in "".join(said) else "tiny"

    assert variant([2] * 50) == variant([2] * 50, 4) == "tiny_clip"
    assert variant([2] * 50, 2) == "tiny"
    assert variant([60] + [1] * 60) == "tiny"


def test_several_labels_of_a_clip_are_trained_as_such():
    clips = [Clip(Sound(f"{name}.wav", (), 1.0), tuple(name)) for name in ("a", "b", "ab")]
    for folds in (0, 2):
        for listed in (clips, clips[:2]):
            said = "".join(folder_summary.advice("m.csv", listed, folds, again=True))
            assert ("m.csv --config.classifier.multi_label=True --w" in said) == (listed == clips)
