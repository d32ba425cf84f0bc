"""What a clip is, whatever it is called."""

import os

import numpy as np
import pytest

from conformer_jax.data import content
from conformer_jax.data.manifest import Row


def write(path, size, seed=0):
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return str(path)


def row(path):
    return Row(str(path), (), "", path.name)


@pytest.mark.parametrize("size", [0, 10, 65_536, 65_537, 1_000_000])
def test_a_digest_moves_with_the_file_and_changes_with_its_bytes(tmp_path, size):
    first = content.of_file(write(tmp_path / "a.wav", size))
    assert first == content.of_file(write(tmp_path / "b.flac", size))
    assert first != content.of_file(write(tmp_path / "a.wav", size + 1))
    if size:
        assert first != content.of_file(write(tmp_path / "a.wav", size, seed=1))
        for place in (0, size // 2 if size <= 65_536 else size // 7, size - 1):
            changed = bytearray(np.random.default_rng(0).bytes(size))
            changed[place] ^= 1
            (tmp_path / "b.flac").write_bytes(changed)
            assert first != content.of_file(tmp_path / "b.flac"), place


def test_a_large_file_is_not_read_whole(tmp_path):
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    assert content.of_file(tmp_path / "large.wav") is not None


def test_what_cannot_be_read_goes_by_its_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    rows = [row(tmp_path / name) for name in ("pipe.wav", "none.wav", "a\0b.wav")]
    found = content.of_rows([*rows, row(tmp_path)], tmp_path / "m.csv")
    assert [r.content for r in found] == [content.of_name(r.name) for r in [*rows, row(tmp_path)]]
    assert content.of_name("a\\b.wav") == content.of_name("a/b.wav")


def test_digests_of_many_files_are_kept_beside_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_WORTH_KEEPING", 3)
    rows = [row(tmp_path / f"{i}.wav") for i in range(3)]
    for i, r in enumerate(rows):
        write(tmp_path / r.name, 100, seed=i)
    first = content.of_rows(rows, tmp_path / "m.csv")
    assert len({r.content for r in first}) == 3
    assert (tmp_path / "m.csv.digests.npz").exists()
    read = []
    of_file = content.of_file
    monkeypatch.setattr(content, "of_file", lambda path: read.append(path) or of_file(path))
    assert content.of_rows(rows, tmp_path / "m.csv") == first
    assert read == []
    write(tmp_path / "1.wav", 101, seed=1)  # replaced
    again = content.of_rows(rows, tmp_path / "m.csv")
    assert read == [rows[1].path]
    assert [a == b for a, b in zip(first, again, strict=True)] == [True, False, True]
    (tmp_path / "m.csv.digests.npz").write_bytes(b"PK damaged")
    assert content.of_rows(rows, tmp_path / "m.csv") == again
    assert [path.name for path in tmp_path.glob("*.tmp")] == []
