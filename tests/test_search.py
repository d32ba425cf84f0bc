"""python -m conformer_jax.search: what is near, a map, what to label next."""

import csv
import json
import os
import pathlib

import numpy as np
import pytest
import soundfile
from inference.conftest import toy

from conformer_jax import embed, search
from conformer_jax.data import manifest
from conformer_jax.training import model_file

RATE = 16000
EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(model, folder of recordings, store): tones and noises of 2 s, windows of 1 s."""
    root = tmp_path_factory.mktemp("search")
    model = root / model_file.NAME
    model_file.save(model, *toy())
    sounds = root / "sounds"
    rng, t = np.random.default_rng(0), np.arange(2 * RATE) / RATE
    for i in range(4):
        for kind, audio in (
            ("noise", rng.normal(size=len(t)) * 0.1),
            ("tone", 0.3 * np.sin(2 * np.pi * (400 + 20 * i) * t)),
        ):
            path = sounds / kind / f"{kind}{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, audio, RATE)
    (sounds / "tone" / "tone3.wav").rename(sounds / "tone" / "<b onclick=x>.wav")
    store = root / "vectors"
    assert embed.main([str(model), str(sounds), f"--output={store}"]) == 0
    return model, sounds, store


def said(arguments, capsys, code=0):
    capsys.readouterr()
    assert search.main(list(map(str, arguments))) == code
    return capsys.readouterr()


def test_the_nearest_windows_are_those_that_sound_alike(corpus, tmp_path, capsys):
    _, sounds, store = corpus
    query = sounds / "tone" / "tone0.wav"
    page = tmp_path / "page.html"
    options = [store, query, "--top=6", f"--page={page}"]
    rows = list(csv.DictReader(said([*options, "--format=csv"], capsys).out.splitlines()))
    assert [row["file"].split("/")[0] for row in rows] == ["tone"] * 6
    assert "tone/tone0.wav" not in {row["file"] for row in rows}  # the query itself
    assert float(rows[0]["similarity"]) >= float(rows[-1]["similarity"]) > 0.9
    text = page.read_text()
    assert text.count("<audio") == 7
    assert "<b onclick" not in text
    assert "--overwrite" in said(options, capsys, 1).err
    found = json.loads(said([store, query, "--top=6", "--format=json"], capsys).out)
    assert [str(row["similarity"]) for row in found] == [
        str(float(row["similarity"])) for row in rows
    ]


def test_a_map_draws_every_window_with_its_label_and_its_sound(corpus, tmp_path, capsys):
    _, sounds, store = corpus
    page, listed = tmp_path / "map.html", tmp_path / "labels.csv"
    said([store, f"--map={page}"], capsys)
    text = page.read_text()
    assert text.count("<circle") == 16
    assert text.count('data-label="tone"') == 1  # of the folder
    assert text.count("data:audio") == 16
    with open(listed, "w", newline="") as file:
        rows = [("path", "label", "start", "end"), (sounds / "noise/noise0.wav", EVIL, "0", "0.5")]
        rows.append((sounds / "noise/noise0.wav", "short", "0", "0.2"))  # the map has the longest
        csv.writer(file).writerows(rows)
    said([store, f"--map={page}", f"--labels={listed}", "--overwrite"], capsys)
    text = page.read_text()
    assert "<img src=x" not in text
    described = text.partition('<script type="application/json">')[2].partition("</script>")[0]
    assert sum(label == EVIL for _, label, _ in json.loads(described)) == 1  # one of two windows


def test_what_to_label_next_is_a_list_that_a_manifest_reads(corpus, tmp_path, capsys):
    _, sounds, store = corpus
    labelled, output = tmp_path / "labels.csv", tmp_path / "next.csv"
    with open(labelled, "w", newline="") as file:
        rows = [(path, "tone") for path in sorted((sounds / "tone").iterdir())]
        csv.writer(file).writerows([("path", "label"), *rows])
    said([store, f"--unlike={labelled}", "--top=3", f"--output={output}"], capsys)
    rows = [record for _, record in manifest.read_records(output)]
    assert len(rows) == 3
    assert list(rows[0]) == ["path", "start", "end", "label", "uncertainty"]
    for row in rows:
        assert (tmp_path / row["path"]).resolve().parent.name == "noise"
        assert 0 < float(row["uncertainty"]) <= 1
    first = said([store, "--unlike", "--top=2", "--format=csv"], capsys).out
    assert {line.split("/")[0] for line in first.splitlines()[1:]} == {"tone", "noise"}


def test_mistakes_are_one_line(corpus, tmp_path, capsys):
    model, sounds, store = corpus
    query = sounds / "tone" / "tone0.wav"
    other = tmp_path / "other.safetensors"
    model_file.save(other, *toy(step=8))
    (tmp_path / "bad.wav").write_bytes(bytes(range(256)))
    (tmp_path / "there.html").write_text("mine")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in store.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    os.truncate(damaged / "embeddings.npy", 300)
    old = tmp_path / "old"
    old.mkdir()
    for path in store.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    state = json.loads((old / "state.json").read_text())
    del state["origin"]
    (old / "state.json").write_text(json.dumps(state))
    for arguments, words in (
        ([sounds, query], "holds no embeddings"),
        ([damaged, query], "is damaged"),
        ([store, query, f"--model={other}"], "is not the model that made"),
        ([old, query], "--model=MODEL"),
        ([old, query, f"--model={model}", f"--page={tmp_path}/p.html"], ""),
        ([store, tmp_path / "bad.wav"], "bad.wav"),
        ([store, tmp_path / "none.wav"], "none.wav"),
        ([store], "give one of"),
        ([store, query, "--unlike"], "give one of"),
        ([store, f"--map={tmp_path}/there.html"], "--overwrite"),
        ([store, f"--map={tmp_path}/no/x.html"], "no folder"),
        ([store, query, "--top=0"], "--top"),
        ([store, f"--unlike={tmp_path}/no.csv"], "no.csv"),
    ):
        if not words:  # what is not known of an old store is said on the page
            said(arguments, capsys)
            assert "does not say where the recordings lie" in pathlib.Path(
                tmp_path, "p.html"
            ).read_text().replace("\n", " ")
            continue
        printed = said(arguments, capsys, 1)
        assert printed.err.startswith("error: "), printed.err
        assert words in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
    assert (tmp_path / "there.html").read_text() == "mine"


def test_embeddings_go_on_with_the_same_recordings_only(corpus, tmp_path, capsys):
    model, sounds, _ = corpus
    audio = (sounds / "tone" / "tone0.wav").read_bytes()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.wav").write_bytes(audio)
    odd = os.fsdecode(b"\xff.wav")
    (tmp_path / "one" / odd).write_bytes(audio)
    store = tmp_path / "store"

    def embedded(folder, *flags, code=0):
        arguments = [str(model), str(tmp_path / folder), f"--output={store}", *flags]
        assert embed.main(arguments) == code
        return capsys.readouterr()

    assert "2 new of 2 files" in embedded("one").out
    assert "0 new of 2 files" in embedded("one").out
    before = (store / "state.json").read_bytes()
    error = embedded("two", code=1).err
    assert "holds embeddings of" in error
    assert "--moved" in error
    assert (store / "state.json").read_bytes() == before
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "moved" / "new.wav").write_bytes(audio)
    assert "1 new of 3 files" in embedded("moved").out
    assert "1 new of 1 files" in embedded("two", "--moved").out
