"""A run on a prepared corpus: which clips it hears, and the same batches as from the files."""

import dataclasses

import numpy as np
import pytest
import soundfile

from configs import base, finetune
from conformer_jax import manifest, prepare
from conformer_jax.data import (
    holdout,
    host_loader,
    input_pipeline,
    prepared,
    prepared_split,
    sources,
)
from conformer_jax.data.audio import BadAudioReport, to_pcm16
from conformer_jax.reporting import runs, training

RATE = 16000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 clips of two classes in three folds, as a manifest and prepared."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    for i in range(60):
        path = folder / "in" / "ab"[i % 2] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * draw.standard_normal(2000 + 40 * i), RATE)
    assert manifest.main([str(folder / "in"), "--folds=3"]) == 0
    source = f"manifest:{folder / 'in' / 'manifest.csv'}"
    flags = ["--engine=processes", "--workers=1", "--shard_clips=25"]
    assert prepare.main(["any", f"--source={source}", f"--output={folder / 'out'}", *flags]) == 0
    return folder


def config_of(corpus, given, **data):
    config = finetune.get_config("smoke")
    config.data.update(batch_size=8, clip_s=0.15, **data)
    where = {"manifest": "in/manifest.csv", "prepared": "out"}[given]
    config.data[given] = str(corpus / where)
    return config


def opened(config):
    return sources.open_sources(sources.source_spec(config))


def ids(source):
    return [source.example_id(i) for i in range(len(source))]


@pytest.mark.parametrize("data", [{}, {"eval_folds": ("2",)}, {"train_folds": ("1",)}])
def test_batches_are_those_of_the_manifest(corpus, data):
    both = {}
    for given in ("manifest", "prepared"):
        config = config_of(corpus, given, **data)
        found = opened(config)
        batches = host_loader.train_batches(
            found.train, host_loader.loader_spec(config), 3, BadAudioReport(None, 0.05)
        )
        both[given] = (ids(found.train), ids(found.held_out), next(batches))
        batches.close()
    (train, held_out, batch), (same_train, same_held_out, same_batch) = both.values()
    assert (train, held_out) == (same_train, same_held_out)
    assert len(held_out) > 0
    for name, values in batch.items():
        assert np.array_equal(values, same_batch[name]), name


@pytest.mark.parametrize(("loader", "encoding"), [(host_loader, "flac"), (input_pipeline, "pcm16")])
def test_a_batch_is_read_at_once_to_the_same_bytes(corpus, tmp_path, loader, encoding, monkeypatch):
    source = f"manifest:{corpus / 'in' / 'manifest.csv'}"
    flags = [f"--encoding={encoding}", "--engine=processes", "--workers=1", "--shard_clips=25"]
    assert prepare.main(["any", f"--source={source}", f"--output={tmp_path}", *flags]) == 0
    config = config_of(corpus, "manifest")
    one = opened(config)
    config.data.manifest = ""
    config.data.prepared = str(tmp_path)
    config.data.workers = 2
    found = opened(config)
    assert found.train.at_once
    assert not one.train.at_once
    spec = host_loader.loader_spec(config)
    report = BadAudioReport(None, 0.5)

    def first_two(source):
        batches = loader.train_batches(source, spec, 3, report)
        two = [next(batches) for _ in range(2)]
        batches.close()
        return two

    wanted = first_two(one.train)
    plan = host_loader.eval_plan(found.held_out, spec, 0, 1)
    last = list(plan.plan(plan.count - 1))  # filled with rows that are not valid, from the middle
    assert not last[2].all()
    rows = [
        host_loader.example_batch(side.held_out, *last, spec.num_samples, False, report)
        for side in (found, one)
    ]
    np.testing.assert_array_equal(rows[0]["audio"], rows[1]["audio"])
    np.testing.assert_array_equal(rows[0]["valid"], rows[1]["valid"])
    if loader is host_loader:  # several parts of a batch, and several groups of a part
        spec = dataclasses.replace(spec, workers=5, prefetch=1)
        monkeypatch.setattr(prepared, "_AT_ONCE", 20_000)

    def never(*_):
        raise AssertionError("read one by one")

    monkeypatch.setattr(prepared.PreparedSource, "read", never)
    for batch, same in zip(first_two(found.train), wanted, strict=True):
        assert batch.keys() == same.keys()
        for name, values in batch.items():
            assert values.dtype == same[name].dtype
            np.testing.assert_array_equal(values, same[name], err_msg=name)
    monkeypatch.undo()
    # Of another rate, and with a damaged record among them, which alone is passed over.
    source = prepared.PreparedSource(
        prepared.open_folder(tmp_path), {"train": np.arange(60)}, 2 * RATE
    )
    wanted = [source.read(i, 800, 0.5) for i in range(4)]

    class Damaged:
        def __init__(self, records):
            self.records = records

        def __getitem__(self, record):
            if record == 2:
                raise RuntimeError("a checksum is wrong")
            return self.records[record]

        def __getitems__(self, records):
            return [self[record] for record in records]

    for reader in source._reader:
        reader._records = Damaged(reader._records)
    batch = host_loader.example_batch(
        source, np.arange(4), [0.5] * 4, np.ones(4, bool), 800, False, report
    )
    assert batch["valid"].tolist() == [1, 1, 0, 1]
    for i in (0, 1, 3):
        np.testing.assert_array_equal(batch["audio"][i], to_pcm16(wanted[i]))


def test_rows_of_several_splits_keep_their_positions(corpus, monkeypatch):
    found = prepared.open_folder(corpus / "out")
    twice = {
        name: getattr(found, name) | {"again": getattr(found, name)["train"]}
        for name in ("files", "records", "index")
    }
    source = prepared.PreparedSource(
        found._replace(**twice), {"train": np.arange(0, 60, 2), "again": np.arange(1, 60, 2)}, RATE
    )
    draw = np.random.default_rng(0)
    indices, positions = draw.permutation(60), draw.uniform(size=60).tolist()
    monkeypatch.setattr(prepared, "_AT_ONCE", 20_000)
    audio = source.read_pcm(indices, 1000, positions)
    for one, i, position in zip(audio, indices, positions, strict=True):
        np.testing.assert_array_equal(one, to_pcm16(source.read(i, 1000, position)))


def index_of(split_sizes):
    """An Opened of nothing but its index: split -> (contents, folds)."""
    index = {}
    for split, (contents, folds) in split_sizes.items():
        records = [
            prepared.Record(f"{split}{i}", c, i, 1, RATE, [0], fold, "", 0.0)
            for i, (c, fold) in enumerate(zip(contents, folds, strict=True))
        ]
        index[split] = prepared.make_index(records)
    return prepared.Opened("x", {}, {}, {}, index)


@pytest.mark.parametrize(
    ("train_folds", "eval_folds", "trained", "held_out"),
    [
        ((), (), ["train"], ["validation"]),
        ((), ("test",), ["train"], ["test"]),
        (("train", "validation"), ("test",), ["train", "validation"], ["test"]),
        (("train", "validation"), (), ["train", "validation"], ["test"]),
    ],
)
def test_splits_by_which_papers_judge_are_not_trained_on(
    train_folds, eval_folds, trained, held_out
):
    opened = index_of({s: ([1, 2], ["", ""]) for s in ("train", "validation", "test")})
    parts = prepared_split.choose(opened, train_folds, eval_folds, 0.05, labelled_only=False)
    for part, wanted in zip(parts, (trained, held_out), strict=True):
        assert [split for split, chosen in part.items() if len(chosen)] == wanted


def test_what_is_held_out_by_default_is_in_no_fold_that_is_trained_on():
    opened = index_of({s: ([1, 2], ["1", "2"]) for s in ("train", "validation")})
    train, held_out = prepared_split.choose(opened, ("1",), (), 0.05, labelled_only=False)
    assert {s: part.tolist() for s, part in train.items()} == {"train": [0], "validation": []}
    assert held_out["validation"].tolist() == [0, 1]
    opened = index_of({"train": ([1], ["2"]), "validation": ([2], ["1"])})
    with pytest.raises(sources.DataError, match=r"train_folds: x has no clip left to train on"):
        prepared_split.choose(opened, ("1",), (), 0.05, labelled_only=False)


def test_clips_of_one_recording_have_one_file(monkeypatch):
    monkeypatch.setattr(prepared, "_Shards", lambda *shards: None)
    records = [
        prepared.Record(str(i), 10 + i, i, 1, RATE, [0], "", recording, 0.0)
        for i, recording in enumerate(("r", "r", "s", ""))
    ]
    opened = prepared.Opened(
        "x", {"stored": {"encoding": "pcm16"}}, {"t": []}, {"t": []},
        {"t": prepared.make_index(records)},
    )  # fmt: skip
    source = prepared.PreparedSource(opened, {"t": np.arange(4)}, RATE)
    whole = [source.whole(i) for i in range(4)]
    assert whole[0] == whole[1] != whole[2]
    assert whole[3] == source.content(3) == 13


def test_a_share_is_held_out_by_content_and_neither_side_is_empty():
    few = index_of({"train": ([2**63, 2**62, 2**63 + 5], ["", "", ""])})
    train, held_out = prepared_split.choose(few, (), (), 0.01, labelled_only=False)
    assert (train["train"].tolist(), held_out["train"].tolist()) == ([0, 2], [1])
    train, held_out = prepared_split.choose(few, (), (), 0.99, labelled_only=False)
    assert (train["train"].tolist(), held_out["train"].tolist()) == ([2], [0, 1])


def test_mistakes_in_one_line(corpus):
    for data, words in (
        ({"eval_folds": ("9",)}, "config.data.eval_folds: "),
        ({"manifest": "x.csv"}, "config.data.manifest and config.data.prepared are both set"),
        ({"prepared": "nowhere"}, "config.data.prepared: there is no folder nowhere"),
    ):
        config = config_of(corpus, "prepared")
        config.data.update(data)
        with pytest.raises(sources.DataError, match=words):
            opened(config)


def test_labels_keep_the_order_of_a_checkpoint(corpus):
    spec = sources.source_spec(config_of(corpus, "prepared"))
    found = sources.open_sources(spec, ("z", "b", "a"))
    names = {found.train.label_names[c] for c in found.train.labels(0)}
    assert names == {found.train.example_id(0).split("/")[0]}


def test_many_clips_open_without_looking_at_each(tmp_path):
    """The index alone, made up: 100 bytes a clip."""
    count = 200_000
    starts = np.arange(count + 1, dtype=np.int64)
    fixed = np.frombuffer(b"x" * count, np.uint8)
    each = np.frombuffer(b"".join(b"%08d" % i for i in range(count)), np.uint8)
    draw = np.random.default_rng(0)
    index = prepared.Index(
        draw.integers(0, 2**63, count).astype(np.uint64), starts[:-1].astype(np.uint64),
        np.full(count, 160000), np.full(count, RATE, np.int32), np.zeros(count, np.int32),
        np.array([""]), np.zeros(count, np.int32), starts, fixed, starts, each, 8 * starts,
    )  # fmt: skip
    np.savez(tmp_path / "clips-train.npz", **index._asdict())
    (tmp_path / "summary.json").write_text('{"shards": {"train": []}, "classes": ["a"]}')
    found = prepared.open_folder(tmp_path)
    train, held_out = prepared_split.choose(found, (), (), 0.05, labelled_only=True)
    assert len(train["train"]) + len(held_out["train"]) == count
    assert abs(len(held_out["train"]) / count - 0.1) < 0.004  # 63 of 64 bits: twice the share
    assert sum(part.nbytes for part in found.index["train"]) < 100 * count


def test_it_is_said_that_there_are_folds(corpus, caplog):
    caplog.set_level("INFO")
    for named, said in (("1", False), ("", True)):
        holdout.say_there_are_folds.cache_clear()
        opened(config_of(corpus, "prepared", eval_folds=(named,) if named else ()))
        assert ("has folds (1, 2, 3): --config.data.eval_folds=1 holds one" in caplog.text) is said


def test_a_corpus_is_cited_by_its_name(corpus):
    summary = prepared.open_folder(str(corpus / "out")).summary
    assert prepared.citation(summary).startswith("any: 60 train clips")
    assert prepared.citation(summary | {"name": "bats"}).startswith("bats: 60 train clips")
    named = summary | {"name": "bats", "corpus": "esc50"}
    assert prepared.citation(named).startswith("bats (esc50): 60 train clips")


def test_the_report_says_which_clips_a_run_used(corpus, monkeypatch):
    config = config_of(corpus, "prepared")
    for where, said in ((config.data.prepared, True), (str(corpus / "gone"), False)):
        config.data.prepared = where
        run = runs.Run("x", corpus, config, [], None, [], [])
        assert ("any: 60 train clips (ids sha256" in training.facts(run)) is said
    # What was trained on, though the corpus may have been prepared again, or be gone.
    monkeypatch.setattr(training.saved_files, "newest_meta", lambda path: {"corpus": "as it was"})
    assert "as it was" in training.facts(run)


def test_the_default_is_no_prepared_corpus():
    assert base.get_config().data.prepared == ""


def test_a_share_keeps_what_is_of_one_source_together():
    draw = np.random.default_rng(0)
    contents = [int(draw.integers(2**64, dtype=np.uint64)) for _ in range(400)]
    contents[7] = contents[390]  # a copy in another source: these two lie together, then
    records = [
        prepared.Record(f"{i}", c, i, 1, RATE, [0], "", f"speaker:{i // 5}", 0.0)
        for i, c in enumerate(contents)
    ]
    halves = {"a": prepared.make_index(records[:198]), "b": prepared.make_index(records[198:])}
    found = prepared.Opened("x", {}, {}, {}, halves)
    train, held_out = prepared_split.choose(found, (), (), 0.2, labelled_only=False)
    sides = [
        {i // 5 for i in (*part["a"].tolist(), *(part["b"] + 198).tolist())}
        for part in (train, held_out)
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(range(80))
    assert (1 in sides[1]) == (78 in sides[1])
    assert 8 <= len(sides[1]) <= 24  # of 80
