"""The commands that use what was trained."""

import csv
import json
import sys

import numpy as np
import pytest
import soundfile
from inference.conftest import toy

from conformer_jax import bundle, embed, predict
from conformer_jax.inference import progress_file
from conformer_jax.training import lock, model_file

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / model_file.NAME
    model_file.save(path, *toy())
    return str(path)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.wav", "deep/b.flac")):
        noise = np.random.default_rng(i).normal(size=(3 + i) * RATE) * 0.1
        soundfile.write(folder / name, noise, RATE)
    return folder


def said(command, arguments, capsys, code=0):
    assert command.main(list(map(str, arguments))) == code
    return capsys.readouterr()


def test_every_format_says_the_same_events(model, sounds, tmp_path, capsys):
    options = [model, sounds, "--threshold=0", "--format"]
    table = list(csv.DictReader(said(predict, [*options, "csv"], capsys).out.splitlines()))
    assert {row["file"] for row in table} == {str(sounds / "a.wav"), str(sounds / "deep/b.flac")}
    assert max(float(row["end"]) for row in table) == 4
    whole = json.loads(said(predict, [*options, "json"], capsys).out)
    assert [one["duration"] for one in whole] == [3, 4]
    assert sum(len(one["events"]) for one in whole) == len(table)
    raven = said(predict, [*options, "raven"], capsys).out.splitlines()
    rows = list(csv.DictReader(raven, delimiter="\t"))
    assert len(rows) == len(table)
    assert rows[-1]["Begin File"] == "b.flac"
    assert float(rows[-1]["End Time (s)"]) == 7  # both files, one after the other
    assert float(rows[-1]["File Offset (s)"]) == float(rows[-1]["Begin Time (s)"]) - 3
    tracks = tmp_path / "tracks"
    assert "one track for each" in said(predict, [*options, "audacity"], capsys, 1).err
    said(predict, [*options, "audacity", f"--output={tracks}"], capsys)
    assert {path.name for path in tracks.iterdir()} == {"a.txt", "b.txt"}
    line = (tracks / "a.txt").read_text().splitlines()[0].split("\t")
    assert [f"{float(line[0]):.3f}", f"{float(line[1]):.3f}", line[2]] == [
        table[0][name] for name in ("start", "end", "label")
    ]
    assert "0:03.0" in said(predict, [*options, "text"], capsys).out
    top = said(predict, [model, sounds / "a.wav", "--top=2", "--format=csv"], capsys).out
    assert len(top.splitlines()) == 1 + 2 * 6  # of every half second
    heard = [row["label"] for row in csv.DictReader(top.splitlines())]
    for more, left in (("--threshold=0", set()), ("--top=2", set(heard) - {heard[0]})):
        rest = [model, sounds / "a.wav", more, f"--without={heard[0]}", "--format=csv"]
        rows = csv.DictReader(said(predict, rest, capsys).out.splitlines())
        assert {row["label"] for row in rows} == left  # of this model one label holds throughout


def test_a_command_that_was_stopped_goes_on(model, sounds, tmp_path, capsys, monkeypatch):
    output = tmp_path / "events.csv"
    command = [model, sounds, "--format=csv", "--threshold=0", f"--output={output}"]
    hear = progress_file.hear

    def stopped(model, paths, **options):
        def advance(number, seconds):
            if number == 1:
                monkeypatch.setattr(progress_file, "_EVERY_S", -1.0)
                if seconds > 2:
                    raise KeyboardInterrupt

        return hear(model, paths, **{**options, "advance": advance})

    monkeypatch.setattr(progress_file, "hear", stopped)
    assert "goes on" in said(predict, command, capsys, 130).err
    assert not output.exists()
    kept = sorted(tmp_path.glob("events.csv.partial/*.npz"))
    assert len(kept) == 2
    skipped = []
    monkeypatch.setattr(progress_file, "hear", hear)
    from conformer_jax.inference.model import Model

    cut = Model._cut
    monkeypatch.setattr(
        Model,
        "_cut",
        lambda self, sound, *rest: skipped.append((sound, rest[-1])) or cut(self, sound, *rest),
    )
    said(predict, command, capsys)
    assert len(skipped) == 2
    assert skipped[0][0] is None  # whole: not read again
    assert skipped[1][1] > 0
    assert not (tmp_path / "events.csv.partial").exists()
    assert output.read_text() == said(predict, [*command[:-1]], capsys).out


def test_mistakes_are_one_line_and_nothing_is_half_written(model, sounds, tmp_path, capsys):
    (tmp_path / "there.csv").write_text("mine")
    encoder = "pretrained:tiny"
    for arguments, words in (
        ([model, tmp_path / "no.wav"], "there is no"),
        ([tmp_path / "no", sounds], "there is no"),
        ([encoder, sounds], "has no labels"),
        ([model, sounds, f"--output={tmp_path}/there.csv"], "--overwrite"),
        ([model, sounds, f"--output={tmp_path}/no/x.csv"], "no folder"),
        ([model, sounds, "--overlap=1"], "--overlap"),
        ([model, sounds, "--window=5000", f"--output={tmp_path}/x.csv"], "a window of 5000"),
        ([model, sounds, "--threshold=2"], "--threshold"),
        ([model, sounds, "--without=nothing"], "label 'nothing' is unknown"),
    ):
        printed = said(predict, arguments, capsys, 1)
        assert printed.err.startswith("error: ")
        assert words in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "x.csv.partial").exists()
    (sounds / "broken.wav").write_bytes(bytes(range(256)))
    printed = said(predict, [model, sounds, "--format=csv"], capsys)  # of a folder: passed over
    assert "broken.wav" in printed.err
    said(predict, [model, sounds / "broken.wav"], capsys, 1)


def test_embeddings_grow_by_new_files_and_survive_a_kill(model, sounds, tmp_path, capsys):
    output = tmp_path / "vectors"
    command = [model, sounds, f"--output={output}"]
    assert "2 new of 2" in said(embed, command, capsys).out
    first = np.load(output / "embeddings.npy", mmap_mode="r")
    assert first.dtype == np.float32
    assert first.shape[0] == 7
    before = (output / "embeddings.csv").read_text()
    # What a kill may have left behind the last whole file.
    for name, junk in (("embeddings.npy", b"\0" * 1000), ("embeddings.csv", b"half,a li")):
        with open(output / name, "ab") as file:
            file.write(junk)
    soundfile.write(sounds / "c.wav", np.zeros(RATE // 2), RATE)
    assert "1 new of 3" in said(embed, command, capsys).out
    after = (output / "embeddings.csv").read_text()
    assert after == before + "c.wav,0.000,0.500,7\n"
    assert np.load(output / "embeddings.npy").shape == (8, first.shape[1])
    np.testing.assert_array_equal(np.load(output / "embeddings.npy")[:7], first)
    assert "another hop" in said(embed, [*command, "--hop=0.5"], capsys, 1).err
    assert "other files" in said(embed, [model, sounds, f"--output={sounds}"], capsys, 1).err


def test_a_bundle_of_a_model_predicts(model, sounds, tmp_path, capsys):
    assert "Wrote" in said(bundle, [model, tmp_path / "b", "--licence=cc0-1.0"], capsys).out
    assert "license: cc0-1.0" in (tmp_path / "b/README.md").read_text()
    options = [sounds / "a.wav", "--format=csv", "--threshold=0"]
    assert (
        said(predict, [tmp_path / "b", *options], capsys).out
        == said(predict, [model, *options], capsys).out
    )
    assert "--overwrite" in said(bundle, [model, tmp_path / "b"], capsys, 1).err


def test_a_page_goes_with_the_table(model, sounds, tmp_path, capsys):
    page = tmp_path / "page.html"
    command = [model, sounds, "--threshold=0", "--format=csv", f"--page={page}"]
    printed = said(predict, command, capsys)
    assert printed.out == said(predict, command[:-1], capsys).out
    assert f"Wrote {page}" in printed.err
    assert page.read_text().count("<audio") == 2
    assert "--overwrite" in said(predict, command, capsys, 1).err
    assert "no folder" in said(predict, [*command[:-1], f"--page={tmp_path}/no/p"], capsys, 1).err


def test_one_process_at_a_time_adds_to_embeddings(model, sounds, tmp_path, capsys):
    output = tmp_path / "vectors"
    with lock.alone(output, "--output"):
        printed = said(embed, [model, sounds, f"--output={output}"], capsys, 1)
    assert f"--output={output}: another run is at work there" in printed.err
    said(embed, [model, sounds, f"--output={output}"], capsys)
    assert not (sounds / ".lock").exists()
    said(embed, [model, sounds, f"--output={sounds}"], capsys, 1)
    assert not (sounds / ".lock").exists()  # nothing is left where nothing may be written


def test_embeddings_as_parquet(model, sounds, tmp_path, capsys, monkeypatch):
    output = tmp_path / "vectors"
    command = [model, sounds, f"--output={output}", "--parquet"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow.parquet", None)
        without.setitem(sys.modules, "pyarrow", None)
        printed = said(embed, command, capsys, 1)
        assert printed.err == "error: --parquet needs pyarrow: pip install pyarrow\n"
        assert not output.exists()
    pyarrow = pytest.importorskip("pyarrow.parquet")
    said(embed, command, capsys)
    said(embed, command, capsys)  # again, over what is there
    table = pyarrow.read_table(output / "embeddings.parquet").to_pydict()
    np.testing.assert_array_equal(table["embedding"], np.load(output / "embeddings.npy"))
    with open(output / "embeddings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert table["file"] == [row["file"] for row in rows]
    assert table["row"] == [int(row["row"]) for row in rows]
