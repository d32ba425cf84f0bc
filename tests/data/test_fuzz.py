"""600 damaged and special files: each gives finite samples or one line, and nothing else.

They are made here from small encodings of every format that soundfile writes, and read in a
process of its own, as a run and the manifest command read them.
"""

import csv
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conformer_jax.corpora import engine
from conformer_jax.data import prepared

ROOT = pathlib.Path(__file__).parents[2]
NUM_FILES = 600
LONGEST_S, MOST_MIB = 60, 400

# Raw samples have no header to recognise them by; SD2 keeps its header in a second file.
FORMATS = sorted(set(soundfile.available_formats()) - {"RAW", "SD2"})
MUTATIONS = ("cut", "flip", "zero_header", "swap_magic", "declare", "garbage", "append", "insert")


def encodings():
    """(format, subtype) -> content: 0.15 s of a noisy tone, and 0.5 s where frames are long."""
    found, rng = {}, np.random.default_rng(0)
    for file_format in FORMATS:
        for subtype in soundfile.available_subtypes(file_format):
            for rate in (16000, 8000):
                count = 8000 if file_format in ("MP3", "OGG") else 2400
                audio = 0.3 * np.sin(np.arange(count) * 0.1) + 0.05 * rng.normal(size=count)
                path = pathlib.Path("one")
                try:
                    with path.open("wb") as file:
                        soundfile.write(file, audio, rate, format=file_format, subtype=subtype)
                except (soundfile.LibsndfileError, ValueError):
                    continue
                found[file_format, subtype] = path.read_bytes()
                break
    path.unlink()
    return found


def mutated(content, others, kind, rng):
    """Damaged content, of a kind of MUTATIONS."""
    content = bytearray(content)
    at, near = int(rng.integers(len(content))), int(rng.integers(min(len(content), 96)))
    noise = rng.integers(0, 256, int(rng.integers(1, 400)), np.uint8).tobytes()
    if kind == "cut":
        del content[at:]
    elif kind == "flip":
        for where in rng.integers(0, len(content), int(rng.integers(1, 30))):
            content[where] ^= 1 << int(rng.integers(8))
    elif kind == "zero_header":
        content[near : near + 16] = bytes(16)
    elif kind == "swap_magic":
        content[:12] = others[int(rng.integers(len(others)))][:12]
    elif kind == "declare":  # of a size, a rate, a number of channels or of bits
        width = int(rng.choice([2, 4, 8]))
        content[near : near + width] = rng.choice([b"\xff", b"\x7f", b"\x80"]) * width
    elif kind == "garbage":
        content[at : at + len(noise)] = noise
    elif kind == "append":
        content += noise
    else:
        content[at:at] = noise
    return bytes(content)


def special(folder):
    """Files that are no damaged recordings: name -> whether it may be read."""
    tone = (0.3 * np.sin(np.arange(1600) / 10)).astype("f4")
    readable = {}

    def sound(name, audio, rate=16000, subtype="FLOAT", may_be_read=False):
        soundfile.write(folder / name, audio, rate, subtype=subtype)
        readable[name] = may_be_read

    def content(name, data):
        (folder / name).write_bytes(data)
        readable[name] = False

    for rate in (1, 999, 1_000_001, 2**31 - 1):
        sound(f"rate_{rate}.wav", tone, rate)
    for rate in (1000, 44_101, 999_983, 1_000_000):
        sound(f"rate_{rate}.wav", tone, rate, may_be_read=True)
    sound("loud.wav", tone * 1e4)
    sound("nan.wav", np.where(np.arange(1600) == 800, np.nan, tone))
    sound("infinite.wav", np.where(np.arange(1600) == 800, np.inf, tone))
    sound("no_samples.wav", tone[:0])
    sound("one_sample.wav", tone[:1], may_be_read=True)
    sound("channels.wav", np.zeros((4, 1024)), may_be_read=True)
    content("empty.wav", b"")
    content("text.wav", b"not a sound\n" * 40)
    content("page.mp3", b"<!DOCTYPE html><title>404</title>")
    content("zeros.wav", bytes(5000))
    content("ones.mp3", b"\xff" * 5000)
    content("film.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(500))
    content("new\nline.wav", b"RIFF")
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    bound = socket.socket(socket.AF_UNIX)
    here = pathlib.Path.cwd()
    os.chdir(folder)  # a socket's whole path has a limit of 100 bytes
    bound.bind("socket.wav")
    bound.close()
    os.chdir(here)
    (folder / "to_pipe.wav").symlink_to("pipe.wav")
    (folder / "to_device.wav").symlink_to("/dev/zero")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "to_nothing.wav").symlink_to("nothing.wav")
    (folder / "up").symlink_to(".")
    names = ("folder", "pipe", "socket", "to_pipe", "to_device", "loop", "to_nothing")
    readable |= {f"{name}.wav": False for name in names} | {"missing.wav": False}
    (folder / "locked.wav").write_bytes((folder / "one_sample.wav").read_bytes())
    (folder / "locked.wav").chmod(0)
    readable["locked.wav"] = os.access(folder / "locked.wav", os.R_OK)  # root may
    return readable


READ = """
import json, resource, sys, warnings
import numpy as np
from conformer_jax.data.audio import BadAudio, audio_length, read_audio

warnings.simplefilter("error")
folder, most_mib = sys.argv[1], int(sys.argv[2])

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, answers = used(), {}
for name in json.load(sys.stdin):
    found = []
    for crop in (None, (), (None, 0.0), (1000, 0.0), (1000, None), (1000, 0.97)):
        try:
            if crop is None:
                samples, rate = audio_length(f"{folder}/{name}")
                assert samples > 0 and 1000 <= rate <= 1_000_000, (name, samples, rate)
                found.append("")
                continue
            audio = read_audio(f"{folder}/{name}", 16000, *crop)
            assert audio.dtype == np.float32 and audio.ndim == 1 and len(audio), (name, crop)
            assert np.isfinite(audio).all() and np.abs(audio).max() <= 2000, (name, crop)
            assert crop[:1] != (1000,) or len(audio) <= 1000, (name, crop)
            found.append("")
        except BadAudio as e:
            assert str(e) and "\\n" not in str(e) and len(str(e)) < 200, (name, str(e))
            found.append(str(e))
    answers[name] = found
assert used() - before < most_mib, used() - before
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """(folder of NUM_FILES files, name -> whether it is known to be readable or not, or None)."""
    folder = tmp_path_factory.mktemp("fuzz")
    here = pathlib.Path.cwd()
    os.chdir(tmp_path_factory.mktemp("work"))
    try:
        contents = encodings()
    finally:
        os.chdir(here)
    expected = special(folder)
    for (file_format, subtype), content in contents.items():
        name = f"whole_{file_format}_{subtype}"
        (folder / name).write_bytes(content)
        expected[name] = True
    rng, kinds = np.random.default_rng(15), list(contents)
    for i in range(NUM_FILES - len(expected)):
        # Of a kind with many subtypes the more; of the compressed ones, where most can go wrong,
        # one in three.
        compressed = [kind for kind in kinds if kind[0] in ("MP3", "OGG", "FLAC", "CAF")]
        among = compressed if i % 3 == 0 else kinds
        kind = among[int(rng.integers(len(among)))]
        mutation = MUTATIONS[i % len(MUTATIONS)]
        name = f"{mutation}_{i}_{kind[0]}_{kind[1]}"
        (folder / name).write_bytes(mutated(contents[kind], list(contents.values()), mutation, rng))
        expected[name] = None
    assert len(expected) == NUM_FILES
    return folder, expected


def run(*command, told=""):
    """The output of a process that must end well, soon, and without a word on the terminal."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        input=told,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return done.stdout


def test_every_file_gives_samples_or_one_line(sounds):
    folder, expected = sounds
    # More than one line: what a decoder prints would stand before it.
    (line,) = run("-c", READ, folder, MOST_MIB, told=json.dumps(list(expected))).splitlines()
    answers = json.loads(line)
    assert set(answers) == set(expected)
    for name, readable in expected.items():
        if readable is not None:
            assert readable == (not any(answers[name])), (name, answers[name])
        if name.startswith("cut") and name.split("_")[2] in ("WAV", "W64", "RF64", "OGG", "FLAC"):
            assert answers[name][1], name
    damaged = [answers[name] for name in expected if expected[name] is None]
    refused = sum(map(any, damaged))
    assert len(damaged) / 4 < refused < len(damaged)


def test_the_manifest_command_lists_every_file_on_one_side(sounds):
    folder, expected = sounds
    output = run("-m", "conformer_jax.manifest", folder, "--folds=3")
    assert "links       1 to folders that are listed already: up" in output
    listed = []
    for name in ("manifest.csv", "manifest_unreadable.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            listed += [record["path"] for record in csv.DictReader(file)]
    assert len(listed) == len(set(listed))
    # Pipes and sockets are no files; a folder is gone through.
    assert set(listed) == set(expected) - {"pipe.wav", "socket.wav", "folder.wav", "missing.wav"}


def test_prepare_stores_or_names_every_file(sounds, tmp_path):
    folder, expected = sounds
    made = tmp_path / "sounds"  # where every file is called a sound
    made.mkdir()
    expected = {f"{name.removesuffix('.wav')}.wav": known for name, known in expected.items()}
    for path in folder.iterdir():
        if path.name.startswith("manifest") or path.name == "up":
            continue
        place = made / f"{path.name.removesuffix('.wav')}.wav"
        if path.is_symlink() or not path.is_file():
            place.symlink_to(path)
        else:
            os.link(path, place)
    flags = [
        "--encoding=pcm16",
        "--engine=processes",
        "--workers=1",
        "--shard_clips=200",
        f"--output={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "conformer_jax.prepare", "any", f"--source=folder:{made}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * LONGEST_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert "Traceback" not in said
    found = prepared.open_folder(tmp_path / "out")
    ids = []
    for split, index in found.index.items():
        source = prepared.PreparedSource(found, {split: np.arange(len(index.content))}, 16000)
        ids += [source.example_id(i) for i in range(len(source))]
        for i in range(len(source)):
            audio = source.read(i, 16000, 0.5)
            assert len(audio)
            assert np.isfinite(audio).all()
    with (found.folder / engine.LEFT_OUT).open(encoding="utf-8", newline="") as file:
        left_out = [row["id"] for row in csv.DictReader(file)]
    assert len(ids) == len(set(ids))
    assert set(ids).isdisjoint(left_out)
    no_files = {"folder.wav", "missing.wav"}
    written = {name.replace("\n", " ") for name in set(expected) - no_files}
    assert {name.replace("\n", " ") for name in ids + left_out} == written
    for name, readable in expected.items():
        if readable is not None and name not in no_files:
            assert (name in ids) == readable, name
