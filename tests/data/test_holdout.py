"""Which rows are held out."""

import collections
import random

import pytest

from conformer_jax.data.audio import DataError
from conformer_jax.data.content import of_groups, of_name, of_rows
from conformer_jax.data.holdout import Split, fold_names, say_labels_not_held_out, split_rows
from conformer_jax.data.manifest import Row, read_manifest


def error_of(function, *args):
    with pytest.raises(DataError) as info:
        function(*args)
    assert "\n" not in str(info.value)
    return str(info.value)


def rows_of(n, folds=0):
    names = [f"f{i}.wav" for i in range(n)]
    return [
        Row("/" + name, (), str(i % folds + 1) if folds else "", name)
        for i, name in enumerate(names)
    ]


def test_folds_are_compared_as_strings():
    rows = rows_of(20, folds=5)
    train, held_out = split_rows(rows, "m.csv", (), (5,), 0.05)
    assert {r.fold for r in train} == {"1", "2", "3", "4"}
    assert {r.fold for r in held_out} == {"5"}
    train, held_out = split_rows(rows, "m.csv", ("1", 2), ("3",), 0.05)
    assert ({r.fold for r in train}, {r.fold for r in held_out}) == ({"1", "2"}, {"3"})


def test_a_number_or_a_word_alone_is_one_fold():
    assert fold_names(1) == fold_names("1") == fold_names((1,)) == ("1",)
    assert fold_names("dev") == fold_names(["dev"]) == ("dev",)
    assert fold_names(()) == fold_names("") == ()


@pytest.mark.parametrize(
    ("fold", "typed"),
    [("1", "=1 holds"), ("dev-2", "=dev-2 holds"), ("a b", "='(\"a b\",)' holds")],
)
def test_the_hint_is_what_can_be_typed(fold, typed, caplog):
    rows = [row._replace(fold=fold) for row in rows_of(9)]
    with caplog.at_level("INFO"):
        split_rows(rows, "m.csv", (), (), 0.1)
    assert "--config.data.eval_folds" + typed in caplog.text


def test_train_folds_alone_hold_out_a_share_of_them():
    rows = rows_of(100, folds=5)
    train, held_out = split_rows(rows, "m.csv", ("1", "2"), (), 0.1)
    assert {r.fold for r in train + held_out} == {"1", "2"}
    assert len(train + held_out) == 40
    everything = split_rows(rows, "m.csv", (), (), 0.1).held_out
    assert held_out == [row for row in everything if row.fold in ("1", "2")]


def test_unknown_folds():
    words = error_of(split_rows, rows_of(9, folds=3), "m.csv", (), ("7",), 0.1)
    assert words == "config.data.eval_folds: m.csv has no fold '7' (folds: 1, 2, 3)"
    words = error_of(split_rows, rows_of(9), "m.csv", ("1",), (), 0.1)
    assert "config.data.train_folds" in words
    assert "no filled `fold` column" in words
    assert "python -m conformer_jax.manifest DIR --folds=5" in words
    assert "takes every file" in error_of(split_rows, rows_of(3, folds=1), "m.csv", (), ("1",), 0.1)


def clips(n, labels=(("a",), ("b",)), folder=""):
    """Rows of n clips whose contents are spread as digests are."""
    return [
        Row(f"/{folder}{i}.wav", labels[i % len(labels)], "", f"{folder}{i}.wav", of_name(str(i)))
        for i in range(n)
    ]


def contents(rows):
    return {row.content for row in rows}


def test_a_clip_lies_on_the_same_side_in_every_manifest():
    rows = clips(400)
    train, held_out = split_rows(rows, "m.csv", (), (), 0.1)
    assert not contents(train) & contents(held_out)
    assert len(train) + len(held_out) == 400
    assert len(held_out) == pytest.approx(40, abs=15)
    others = {
        "in another order": random.Random(0).sample(rows, 400),
        "under other names": clips(400, folder="elsewhere/"),
        "without labels": clips(400, labels=((),)),
        "a label a file": [row._replace(labels=(row.name,)) for row in rows],
        "one label among unlabelled": clips(400, labels=(("a",), (), (), ())),
    }
    for what, other in others.items():
        assert contents(split_rows(other, "m.csv", (), (), 0.1).held_out) == contents(held_out), (
            what
        )
    part = split_rows(rows[::2], "m.csv", (), (), 0.1)
    assert contents(part.held_out) == contents(held_out) & contents(rows[::2])
    assert contents(held_out) < contents(split_rows(rows, "m.csv", (), (), 0.2).held_out)


def test_copies_lie_together():
    rows = clips(50) + clips(50, folder="copy/")
    train, held_out = split_rows(rows, "m.csv", (), (), 0.1)
    assert not contents(train) & contents(held_out)
    alone = min(clips(3), key=lambda row: row.content)
    few = split_rows(clips(3) + clips(3, folder="copy/"), "m.csv", (), (), 0.0001)
    assert [row.content for row in few.held_out] == [alone.content] * 2


def test_rows_of_one_group_lie_on_one_side(tmp_path, caplog):
    caplog.set_level("INFO")
    for i in range(60):
        (tmp_path / f"{i}.wav").write_bytes(bytes([i]))
    lines = [f"{i}.wav,{i // 4 if i >= 20 else ''}" for i in range(60)]
    (tmp_path / "m.csv").write_text("\n".join(["path,group", *lines]))
    rows = of_rows(read_manifest(tmp_path / "m.csv"), tmp_path / "m.csv")
    train, held_out = split_rows(rows, tmp_path / "m.csv", (), (), 0.3)
    assert held_out
    assert not {row.group for row in train} & {row.group for row in held_out} - {""}
    assert "m.csv: the clips of each of 10 groups lie on one side" in caplog.text
    # Those without a group, each by itself, as if there were none.
    alone = [row for row in held_out if not row.group]
    assert alone
    assert alone == split_rows(rows[:20], "m.csv", (), (), 0.3).held_out
    one = [row._replace(group="all") for row in rows]
    without = split_rows([row._replace(group="") for row in rows], "m.csv", (), (), 0.3).held_out
    assert [row.name for row in split_rows(one, "m.csv", (), (), 0.3).held_out] == [
        row.name for row in without
    ]
    assert "are of one group" in caplog.text
    # Half of the parts are of the file that is held out, not of a group.
    files = [row._replace(whole=rows[i % 2].whole, group="all") for i, row in enumerate(rows)]
    assert len(split_rows(files, "m.csv", (), (), 0.1).held_out) == 30
    assert "so that groups stay whole" not in caplog.text
    halves = [row._replace(group="ab"[i % 2]) for i, row in enumerate(rows)]
    assert len(split_rows(halves, "m.csv", (), (), 0.1).held_out) == 30
    assert "WARNING 30 of the 60 clips of m.csv are held out, so that groups" in caplog.text
    # Whichever rows are listed.
    some = split_rows(rows[::3], "m.csv", (), (), 0.3).held_out
    assert {row.group for row in some} - {""} == {row.group for row in held_out} - {""}
    # Groups that a copy links, through a third one, and a copy without a group.
    linked = [rows[20], rows[24]._replace(content=rows[20].content, whole=rows[20].whole)]
    linked += [rows[25]._replace(group="7"), rows[0]._replace(whole=rows[20].whole)]
    assert (
        len(set(of_groups([*linked, *rows[28:32]], [r.whole for r in linked + rows[28:32]]))) == 2
    )


def grouped(group, n, *, first=0):
    names = [f"{group}_{i}.wav" for i in range(first, first + n)]
    return [Row("/" + n, (), "", n, of_name(n), whole=of_name(n), group=group) for n in names]


def gone_on(rows, more, share, manifest):
    """The split of a run that was begun with `rows` and goes on with `more`."""
    first = split_rows(rows, f"{manifest} before", (), (), share)
    sides = {row.content: row in first.held_out for row in rows}
    return split_rows(more, manifest, (), (), share, sides)


def groups(rows):
    return {row.group for row in rows}


def test_new_rows_lie_with_their_group_while_a_run_goes_on(caplog):
    caplog.set_level("INFO")
    names = sorted((f"site{i}" for i in range(40)), key=lambda name: of_name(f"group {name}"))
    lowest, *few = [name for name in names if of_name(f"group {name}") > 0.01 * 2**64][:5]
    # Of few groups the nearest was held out, and one that has come since is nearer.
    rows = [row for name in few for row in grouped(name, 3)]
    new = [*grouped(lowest, 3), *grouped(few[0], 3, first=3), *grouped(few[1], 3, first=3)]
    split = gone_on(rows, rows + new, 0.01, "nearer.csv")
    assert groups(split.held_out) == {lowest, few[0]}
    assert groups(split.train) == {*few[1:]}
    assert "nearer.csv: the clips of each of 5 groups lie on one side" in caplog.text
    assert "WARNING 9 of the 21 clips of nearer.csv are held out, so that groups" in caplog.text
    # Groups that a copy links: each stays where it was, but for the copy; also where all are.
    for share, kept in ((0.01, rows), (0.01, [row for row in rows if row.group in few[:2]])):
        link = kept[0]._replace(name="link.wav", group=few[1])
        split = gone_on(kept, [*kept, link, *new[3:]], share, f"linked {len(kept)}.csv")
        assert few[0] not in groups(split.train)
        assert len([row for row in split.held_out if row.group == few[0]]) == 6
        assert [row.name for row in split.held_out if row.group == few[1]] == ["link.wav"]
        assert f"groups of linked {len(kept)}.csv, such as '{few[1]}', are trained" in caplog.text
        assert f"linked {len(kept)}.csv: the clips of each" not in caplog.text
    assert "is ignored" not in caplog.text
    # Linked by parts of a file from the start, so that groups were ignored: as at the start.
    parts = [row._replace(content=of_name(row.name + "#1")) for row in rows]
    parts[3] = parts[3]._replace(whole=parts[0].whole)
    alone = [row for row in parts if row.group in few[:2]]
    more = [*alone, *grouped(few[0], 9, first=3), *grouped(few[1], 9, first=3)]
    caplog.clear()
    split = gone_on(alone, more, 0.3, "alone.csv")
    assert "of alone.csv are of one group, or linked by what they share" in caplog.text
    assert "are trained on and held out" not in caplog.text
    assert len([row for row in split.held_out if row not in alone]) > 1
    # A new group that shares a file with a known one.
    link = rows[0]._replace(name="link.wav", group="new")
    split = gone_on(rows, [*rows, link, *grouped("new", 3)], 0.01, "joined.csv")
    assert groups(split.held_out) == {few[0], "new"}


def test_groups_that_are_told_while_a_run_goes_on(caplog):
    caplog.set_level("INFO")
    rows = [row for i in range(20) for row in grouped(f"g{i}", 5)]
    before = [row._replace(group="") for row in rows]
    new = [row for i in range(20) for row in grouped(f"g{i}", 5, first=5)]
    split = gone_on(before, rows + new, 0.2, "told.csv")
    was = contents(split_rows(before, "m.csv", (), (), 0.2).held_out)
    assert contents(split.held_out) & contents(rows) == was
    torn = {row.group for row in rows if row.content in was}
    assert 0 < len(torn) < 20
    assert contents(split.held_out) == was  # new ones of groups that are trained on, too
    told = f"WARNING clips of {len(torn)} of the 20 groups of told.csv, such as '{min(torn)}', are"
    assert told in caplog.text
    assert "told.csv: the clips of each" not in caplog.text
    # One group alone goes for none, as in a run that begins.
    one = [row._replace(group="all") for row in rows + new]
    split = gone_on(one[:100], one, 0.2, "one.csv")
    assert split.held_out == split_rows(one, "m.csv", (), (), 0.2).held_out
    assert "all clips of one.csv are of one group" in caplog.text


def parts(file, *numbers, group=""):
    names = [f"{file}.wav#t={i}" for i in numbers]
    return [Row("/" + n, (), "", n, of_name(n), whole=of_name(file), group=group) for n in names]


def test_new_parts_lie_with_their_file_while_a_run_goes_on(caplog):
    lowest, *files = sorted((str(i) for i in range(5)), key=of_name)
    rows = [row for file in files for row in parts(file, 0, 1)]
    new = [*parts(lowest, 0, 1), *parts(files[0], 2), *parts(files[1], 2)]
    held_out = gone_on(rows, rows + new, 0.0, "parts.csv").held_out
    assert {row.whole for row in held_out} == {of_name(lowest), of_name(files[0])}
    assert len(held_out) == 5
    # Also where groups are told since, of files on both sides.
    told = [row for i, file in enumerate(files) for row in parts(file, 0, 1, 2, group=f"g{i // 2}")]
    split = gone_on(rows, [*told, *parts("none", 0, group="g0")], 0.0, "torn.csv")
    assert {row.whole for row in split.held_out} == {of_name(files[0])}
    assert len(split.held_out) == 3
    assert "of torn.csv, such as 'g0', are trained on and held out" in caplog.text
    # A new part of a known file links its new group.
    nearest = min((f"h{i}" for i in range(9)), key=lambda name: of_name(f"group {name}"))
    link = [*parts(files[0], 2, group="new"), *parts("other", 0, group="new")]
    new = [*link, *parts("none", 0, group=nearest)]
    held_out = gone_on(rows, rows + new, 0.0, "linking.csv").held_out
    assert groups(held_out) >= {"new"}
    assert not {row.name for row in link} - {row.name for row in held_out}


def test_the_only_group_that_is_left_is_ignored_while_a_run_goes_on(caplog):
    rows = [*grouped("a", 6), *grouped("b", 6)]
    held_out = split_rows(rows, "both.csv", (), (), 0.3).held_out
    left = [*held_out, *grouped(held_out[0].group, 20, first=6)]
    split = split_rows(left, "left.csv", (), (), 0.3, {r.content: r in held_out for r in rows})
    assert len(held_out) == 6 < len(split.held_out) < 20
    assert "all clips of left.csv are of one group" in caplog.text


def test_rows_of_folds_that_are_on_both_sides_stay_there():
    rows = [row._replace(fold=str(i % 3)) for i, row in enumerate(clips(9))]
    first = split_rows(rows, "m.csv", ("0", "1"), ("1", "2"), 0.1)
    sides = {row.content: row.fold == "2" for row in rows if row.fold != "1"}
    assert split_rows(rows, "m.csv", ("0", "1"), ("1", "2"), 0.1, sides) == first
    assert (len(first.train), len(first.held_out)) == (6, 6)


@pytest.mark.parametrize("row", [0, 2])
def test_rows_that_come_into_a_fold_on_both_sides_stay_on_their_own(row, caplog):
    rows = [row._replace(fold=str(i % 3)) for i, row in enumerate(clips(9))]
    folds = ("0", "1"), ("1", "2")
    first = split_rows(rows, "m.csv", *folds, 0.1)
    sides = {row.content: row.fold == "2" for row in rows if row.fold != "1"}
    split_rows(rows, "m.csv", *folds, 0.1, sides)
    assert "of other folds" not in caplog.text
    rows[row] = rows[row]._replace(fold="1")
    split = split_rows(rows, "m.csv", *folds, 0.1, sides)
    assert list(map(contents, split)) == list(map(contents, first))
    assert f"WARNING 1 clips, such as {row}.wav, are of other folds than" in caplog.text


def test_labels_of_which_none_is_held_out_are_told(caplog):
    say_labels_not_held_out(Split(clips(4) + clips(1, labels=(("owl",),)), clips(1)))
    assert (
        "no held-out clip has the label 'b': nothing says how well it is told; raise --config"
        in caplog.text
    )


def test_at_least_one_file_is_held_out_and_one_is_left():
    for share, sizes in ((0.0, (1, 1)), (0.9999, (1, 1))):
        train, held_out = split_rows(clips(2), "m.csv", (), (), share)
        assert (len(train), len(held_out)) == sizes
    same = [row._replace(content=2**63) for row in clips(3)]
    train, held_out = split_rows(same, "m.csv", (), (), 0.05)
    assert (len(train), len(held_out)) == (2, 1)
    assert split_rows(same[::-1], "m.csv", (), (), 0.05).held_out == held_out  # in any order
    for n, share in ((1, 0.05), (10, 1.0)):
        assert "config.data.eval_share" in error_of(split_rows, rows_of(n), "m.csv", (), (), share)


def test_a_run_that_goes_on_keeps_its_sides():
    rows = clips(30)
    wrong = {row.content: i < 20 for i, row in enumerate(rows)}
    train, held_out = split_rows(rows + clips(90)[30:], "m.csv", (), (), 0.1, wrong)
    assert contents(rows[:20]) <= contents(held_out)
    assert contents(rows[20:]) <= contents(train)
    fresh = split_rows(clips(90), "m.csv", (), (), 0.1).held_out
    assert contents(held_out) - contents(rows) == contents(fresh) - contents(rows)
    refolded = [row._replace(fold="1" if i < 5 else "2") for i, row in enumerate(rows)]
    assert contents(split_rows(refolded, "m.csv", (), ("1",), 0.1, wrong).held_out) == contents(
        rows[:20]
    )
    # What the folds leave out stays out, whatever the run knows of it.
    some = [row._replace(fold=str(i % 3)) for i, row in enumerate(rows)]
    train, held_out = split_rows(some, "m.csv", ("1",), ("2",), 0.1, wrong)
    assert held_out == [row for row in some[:20] if row.fold != "0"]
    assert train == [row for row in some[20:] if row.fold != "0"]


def test_runs_of_before_are_split_by_name():
    """Of every label with two files one is held out, by the hashes of their paths."""
    labels = ["cat"] * 40 + ["dog"] * 12 + ["owl"] * 2 + ["wren"]
    rows = [row._replace(labels=(name,)) for row, name in zip(rows_of(55), labels, strict=True)]
    held_out = split_rows(rows, "m.csv", (), (), 0.1, by_name=True)[1]
    count = collections.Counter(row.labels[0] for row in held_out)
    assert count == {"cat": 4, "dog": 1, "owl": 1}
    assert [row.name for row in held_out if row.labels != ("cat",)] == ["f47.wav", "f53.wav"]
    named = [row._replace(content=of_name(f"x{row.name}")) for row in rows]
    again = split_rows(named, "m.csv", (), (), 0.1, by_name=True)[1]
    assert [row.name for row in again] == [row.name for row in held_out]
    singles = [row._replace(labels=(row.name,)) for row in rows]
    assert len(split_rows(singles, "m.csv", (), (), 0.1, by_name=True)[1]) == 6
