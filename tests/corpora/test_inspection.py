"""What inspect finds in sounds of which it is known: levels, copies, leaks, the like of a clip."""

import numpy as np
import pytest
import soundfile

from conformer_jax import inspect, prepare
from conformer_jax.corpora import hearing, inspection

RATE = 16000


def bursts(seed, seconds=2.0):
    """Noise that swells and fades in random bands: no two are alike."""
    draw = np.random.default_rng(seed)
    audio = np.zeros(round(seconds * RATE))
    for start in draw.integers(0, len(audio) - RATE // 4, 12):
        tone = np.sin(2 * np.pi * draw.uniform(300, 7000) * np.arange(RATE // 4) / RATE)
        audio[start : start + RATE // 4] += tone * np.hanning(RATE // 4)
    return (0.1 * audio).astype("f4")


def test_levels_silence_and_clipping():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype("f4")
    found = hearing.hear(np.concatenate([0.5 * tone, np.zeros(RATE, "f4")]), RATE)
    assert found.peak_db == pytest.approx(-6.02, abs=0.01)
    assert found.loudness_db == pytest.approx(-6.02 - 3.01 - 3.01, abs=0.02)
    assert found.silent == pytest.approx(0.5, abs=0.01)
    assert found.clipped == 0
    assert hearing.hear(np.clip(3 * tone, -1, 1), RATE).clipped > 0.3
    assert hearing.hear(np.zeros(10, "f4"), RATE).silent == 1


def test_the_like_of_a_clip_is_found_and_nothing_else():
    clips = [bursts(i) for i in range(12)]
    late = np.concatenate([np.zeros(1500, "f4"), 0.3 * clips[4]])[: len(clips[4])]  # 94 ms
    noisy = late + 1e-3 * np.random.default_rng(9).standard_normal(len(late)).astype("f4")
    traces = [hearing.trace(clip, RATE) for clip in (*clips, noisy, np.zeros(100, "f4"))]
    assert [(i, j) for i, j, _ in hearing.alike(traces)] == [(4, 12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folds that leak: a copy of 0 in another fold, and clip 3 again, softer."""
    folder = tmp_path_factory.mktemp("sounds")
    clips = [bursts(i) for i in range(4)]
    clips += [clips[0], 0.5 * clips[3]]
    rows = ["path,label,fold"]
    for i, clip in enumerate(clips):
        soundfile.write(folder / f"{i}.wav", clip, RATE, subtype="FLOAT")
        rows.append(f"{i}.wav,{'<b>' if i % 2 else 'a'},{i // 3}")
    (folder / "bad.wav").write_text("no sound")
    (folder / "manifest.csv").write_text("\n".join([*rows, "bad.wav,a,1"]) + "\n")
    return folder


def test_a_manifest_and_what_was_prepared_from_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspect.main([str(folder / "manifest.csv"), "--examples=1"]) == 0
    text = capsys.readouterr().out
    assert "6, 0.00 h" in text
    assert "0 3, 1 3" in text
    assert "2; most:" in text
    assert "equal audio      1: 0.wav = 4.wav" in text
    assert "ACROSS SPLITS    equal audio: 1: 0.wav = 4.wav" in text
    assert "ACROSS SPLITS    alike: 1: 3.wav = 5.wav" not in text  # both in fold 1
    assert "alike            1: 3.wav = 5.wav" in text
    assert "1: bad.wav (not audio" in text
    page = (tmp_path / "inspect.html").read_text()
    assert page.count("<audio") == 2
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    flags = ["--engine=processes", "--workers=1", f"--output={tmp_path / 'out'}"]
    assert prepare.main(["any", f"--source=folder:{folder}", *flags]) == 0
    capsys.readouterr()
    assert inspect.main([str(tmp_path / "out"), "--page="]) == 0
    again = capsys.readouterr().out
    assert "equal audio      1: 0.wav = 4.wav" in again
    assert "alike            1: 3.wav = 5.wav" in again
    assert inspect.main([str(tmp_path / "nowhere")]) == 1


def test_parts_and_groups_of_a_manifest(folder, tmp_path, capsys):
    """Two parts of a file in two folds, a group on two sides of a split: both are leaks."""
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes((folder / f"{i}.wav").read_bytes())
    (tmp_path / "m.csv").write_text(
        "path,start,end,fold,split,group\n0.wav,0,1,1,train,\n0.wav,1.5,2,2,train,\n"
        "1.wav,,,1,train,g\n2.wav,,,1,test,g\n"
    )
    assert inspect.main([str(tmp_path / "m.csv"), "--page="]) == 0
    text = capsys.readouterr().out
    assert "splits           test 1, train 3" in text
    assert "ACROSS SPLITS    same recording: 2: 0.wav#t=0,1 = 0.wav#t=1.5,2, 1.wav = 2.wav" in text
    seconds = [
        one.seconds for one in inspection.survey(inspection.listed(tmp_path / "m.csv")).heard
    ]
    assert seconds == pytest.approx([1, 0.5, 2, 2])


def test_only_compared_clips_have_traces(folder, monkeypatch):
    monkeypatch.setattr(inspection, "_COMPARED", 2)
    found = inspection.survey(inspection.listed(folder / "manifest.csv"))
    assert (found.compared, len(found.heard)) == (1, 6)  # the other one is bad.wav
    assert [one.trace is not None for one in found.heard] == [True, *[False] * 5]


def test_mistakes_are_said_before_anything_is_heard(folder, tmp_path, capsys, monkeypatch):
    page, manifest = tmp_path / "page.html", str(folder / "manifest.csv")
    assert inspect.main([manifest, f"--page={page}", "--examples=0"]) == 0
    assert "<audio" not in page.read_text()
    monkeypatch.setattr(inspection, "survey", None)
    for flags, words in (
        ([f"--page={page}"], "--overwrite replaces it"),
        ([f"--page={manifest}", "--overwrite"], "is what is read"),
        ([f"--page={tmp_path}/no/x.html"], "there is no folder"),
        (["--page=", "--examples=-1"], "0 or more"),
    ):
        assert inspect.main([manifest, *flags]) == 1
        assert words in capsys.readouterr().err
