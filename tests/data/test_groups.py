"""What lies in one fold: groups, and parts of a file and links to it."""

import os

import pytest

from conformer_jax.data.clips import Clip, Sound
from conformer_jax.data.groups import units_of


@pytest.mark.parametrize(
    ("rows", "units"),
    [
        # Parts of night.wav, and of best.wav, which is a link to it: (file, start, end, group).
        ("n 0 3 -, n 3 6 -, b 1 2 -, other 0 3 -", "0001"),
        ("n 0 3 x, n 3 6 -, n 6 9 -", "000"),
        ("n 0 3 x, n 3 6 y, n 6 9 -, n 9 12 -, b 9 12 -", "01222"),
        ("n 0 3 x, n 3 6 y, n 6 9 z, b 0 3 y", "0010"),
        # A part without a group is of no fold but that of the parts that share time with it.
        ("n 0 3 x, n 3 6 y, n 6 9 z, b 4 5 -, other 1 2 z", "01212"),
        ("n 0 3 x, n 3 6 y, n 6 9 z, b 1 2 -, b 4 5 -", "00100"),
        ("n 0 3 x, n 3 6 y, n 6 9 z, b 3 6 -, b 2.5 3 -", "00100"),
        ("n 0 3 x, n 3 6 y, n 6 9 z, n 0 0.5 -, b 9 10 -", "01200"),
        ("n 0 3 x, n 3 6 y, b 0 None -", "000"),
    ],
)
def test_parts_that_lie_in_one_fold(tmp_path, rows, units):
    (tmp_path / "n.wav").touch()
    (tmp_path / "b.wav").symlink_to("n.wav")
    clips, groups = [], []
    for row in rows.split(", "):
        name, start, end, group = row.split()
        sound = Sound(f"{name}.wav", (), 12.0)
        clips.append(Clip(sound, (), float(start), None if end == "None" else float(end)))
        groups.append(None if group == "-" else group)
    found = units_of(tmp_path / "m.csv", clips, groups)
    number = {unit: str(i) for i, unit in enumerate(dict.fromkeys(found))}
    assert "".join(number[unit] for unit in found) == units
    os.unlink(tmp_path / "b.wav")
    os.link(tmp_path / "n.wav", tmp_path / "b.wav")
    assert units_of(tmp_path / "m.csv", clips, groups) == found
