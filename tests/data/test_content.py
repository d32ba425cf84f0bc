"""What a clip is, whatever it is called."""

import os

import numpy as np
import pytest

from conformer_jax.data import content
from conformer_jax.data.manifest import Row
from conformer_jax.data.source import ManifestSource


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


def test_groups_that_are_linked_are_held_out_no_more_often_than_others():
    """The lower of two numbers would lie in the lowest quarter of all in 7 of 16 cases."""
    rows = [Row("", (), "", "", content=i // 2, group=f"g{i}") for i in range(2000)]
    numbers = content.of_groups(rows, [r.content for r in rows])
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == 1000
    assert np.mean(np.array(numbers) / 2.0**64 < 0.25) == pytest.approx(0.25, abs=0.05)


def test_groups_in_a_chain_are_gone_through_once():
    """A session that goes on in the next one's recording, a thousand times."""
    seen = []

    class Seen(list):
        def __iter__(self):
            seen.append(self)
            return super().__iter__()

    rows = [Row("", (), "", "", content=(i + 1) // 2, group=f"g{i // 2}") for i in range(2000)]
    assert len(set(content.of_groups(rows, Seen(row.content for row in rows)))) == 1
    assert len(seen) == 2


def test_names_of_groups_are_no_paths():
    rows = [Row("", (), "", "", group=group) for group in ("a\\b", "a/b", "a\\b", "")]
    first, other, again, none = content.of_groups(rows, [1, 2, 3, 4])
    assert first == again != other == content.of_name("group a/b")
    assert none == 4


def test_clips_of_a_manifest_belong_together_by_group_and_by_recording():
    rows = [
        Row("", (), "", "", content=i, whole=whole, group=group)
        for i, (whole, group) in enumerate(
            [(10, "x"), (11, "x"), (12, "y"), (12, ""), (13, ""), (13, "")]
        )
    ]
    found = ManifestSource(rows, 16000).groups()
    assert found.dtype == np.uint64
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[4] == found[5] == 13
    assert len(set(found.tolist())) == 3
