"""Manifests: what is read, and what is refused in which words."""

import csv

import pytest

from conformer_jax.data.audio import DataError
from conformer_jax.data.manifest import Row, check_exists, join_labels, read_manifest, read_records


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


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(tmp_path, separator):
    text = 'path,label,fold\n"a,b.wav",,1\nc.wav,"x;y",2\n'.replace('"a,b.wav",,1', "a.wav,,1")
    text = text.replace(",", separator)
    rows = read_manifest(write(tmp_path / "m.csv", text))
    assert [(r.name, r.labels, r.fold) for r in rows] == [
        ("a.wav", (), "1"),
        ("c.wav", ("x", "y"), "2"),
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['"a.wav,x', "b.wav,y"], "line 3: a quote that is opened here is not closed"),
        (['"a.wav,x', 'b.wav,"y"'], "line 3: a quote that is opened here is not closed"),
        (["a,b.wav,x"], "line 3: more fields than the 2 columns"),
        (['"two\nlines.wav",x', "a.wav,y,z"], "line 5: more fields than the 2 columns"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path, lines, words):
    text = "\n".join(["path,label", "0.wav,x", *lines]) + "\n"
    assert words in error_of(read_manifest, write(tmp_path / "m.csv", text))


def test_empty_fields_behind_the_last_column_do_no_harm(tmp_path):
    (row,) = read_manifest(write(tmp_path / "m.csv", "path,label\na.wav,x,,\n"))
    assert row.labels == ("x",)


def test_spaces_around_a_path_count_where_there_is_such_a_file(tmp_path):
    (tmp_path / "a.wav ").touch()
    rows = read_manifest(write(tmp_path / "m.csv", "path\na.wav \nb.wav \n"))
    assert [row.name for row in rows] == ["a.wav ", "b.wav"]


@pytest.mark.parametrize(
    "labels", [("cats; dogs",), ("a\\",), ("a;", "\\;b", "c\\\\"), ("x\\y", ",", '"'), ()]
)
def test_labels_survive_being_written(tmp_path, labels):
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), ("a.wav", join_labels(labels))])
    assert read_manifest(tmp_path / "m.csv")[0].labels == labels


def test_a_folder_is_no_manifest_but_may_hold_one(tmp_path):
    with pytest.raises(DataError, match=r"Is a directory; `python -m conformer_jax.manifest"):
        check_exists(tmp_path)
    check_exists(tmp_path, "mixture", or_folder=True)  # a prepared corpus
    (tmp_path / "manifest.csv").touch()
    for or_folder in (False, True):
        with pytest.raises(DataError, match=r"manifest.csv is there: is that meant\?"):
            check_exists(tmp_path, or_folder=or_folder)
    (tmp_path / "own" / "1.0.0").mkdir(parents=True)
    (tmp_path / "own" / "1.0.0" / "summary.json").touch()
    check_exists(tmp_path, or_folder=True)  # a prepared one below


def test_columns_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "m.csv").write_text("path,label,note,note,,\na.wav,hum,one,two,three,four\n")
    [(_, record)] = read_records(tmp_path / "m.csv")
    assert list(record.values()) == ["a.wav", "hum", "one", "two", "three", "four"]
