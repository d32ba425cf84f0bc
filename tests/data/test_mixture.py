"""Several corpora in one run: which clips a batch has, and from where."""

import collections
import dataclasses

import numpy as np
import pytest
import soundfile

from configs import finetune, pretrain
from conformer_jax import manifest, prepare
from conformer_jax.command import run
from conformer_jax.data import (
    content,
    holdout,
    host_loader,
    input_pipeline,
    mixture,
    sampling,
    sources,
)
from conformer_jax.data.audio import BadAudioReport, DataError
from conformer_jax.data.labels import labels_of
from conformer_jax.data.manifest import read_manifest
from conformer_jax.errors import UserError
from conformer_jax.reporting import runs, training
from conformer_jax.training import loop, opening, saved_files

RATE = 16000
SIZES, SHARES = (97, 40, 400), (0.55, 0.15, 0.3)
MEMBERS = [
    np.arange(start, start + n) for start, n in zip(np.cumsum([0, *SIZES]), SIZES, strict=False)
]
BATCH, STEPS = 26, 400


def corpus_of(indices):
    return np.searchsorted(np.cumsum(SIZES), indices, side="right")


@pytest.fixture(scope="module")
def batches():
    """[steps, rows]: which examples."""
    return np.stack(
        [sampling.mixed_batch(7, step, BATCH, MEMBERS, SHARES)[0] for step in range(STEPS)]
    )


def test_every_batch_has_its_shares_and_no_example_twice(batches):
    counts = np.stack([np.bincount(corpus_of(batch), minlength=3) for batch in batches])
    wanted = BATCH * np.array(SHARES)
    assert (counts >= np.floor(wanted)).all()
    assert (counts <= np.ceil(wanted)).all()
    # Rows after the point are a draw of each step: four deviations of the mean of 400 of them.
    deviation = np.sqrt((wanted % 1) * (1 - wanted % 1) / STEPS)
    assert (abs(counts.mean(0) - wanted) < 4 * deviation + 1e-9).all()
    assert all(len(set(batch)) == BATCH for batch in batches.tolist())


def test_a_corpus_is_gone_through_in_passes(batches):
    for number, (n, share) in enumerate(zip(SIZES, SHARES, strict=True)):
        heard = collections.Counter(batches[corpus_of(batches) == number].tolist())
        per_example = BATCH * share * STEPS / n
        assert len(heard) == n
        # Drawn by chance the rarest of 400 would be heard 4 times in place of 8, of 40 24 of 39.
        assert min(heard.values()) >= 0.75 * per_example - 1
        assert max(heard.values()) <= 1.25 * per_example + 1
    few = batches[:2][corpus_of(batches[:2]) == 0]
    assert len(set(few.tolist())) == len(few)  # of one pass


def test_a_step_follows_from_seed_and_step_alone(batches):
    again, where = sampling.mixed_batch(7, 123, BATCH, MEMBERS, SHARES)
    assert np.array_equal(again, batches[123])
    assert not np.array_equal(again, sampling.mixed_batch(8, 123, BATCH, MEMBERS, SHARES)[0])
    assert ((where >= 0) & (where < 1)).all()
    # Hosts take slices of rows: every corpus is in the first half as in the second.
    half = np.bincount(corpus_of(batches[:, : BATCH // 2].ravel()), minlength=3) / STEPS
    np.testing.assert_allclose(half, BATCH / 2 * np.array(SHARES), rtol=0.1)


def test_whole_shares_are_whole_in_every_batch():
    members = [np.arange(30), np.arange(30, 100)]
    for step in range(50):
        found = sampling.mixed_batch(0, step, 100, members, (0.3, 0.7))[0]
        assert sorted(found.tolist()) == list(range(100))
    with pytest.raises(DataError, match=r"0\.4 of a batch of 100 are up to 40 clips of a corpus"):
        sampling.mixed_batch(0, 0, 100, members, (0.4, 0.6))


def test_balanced_within_each_corpus():
    labels = labels_of([(0,)] * 30 + [(1,)] * 10 + [(0,)] * 5 + [(1,)] * 45 + [()] * 10)
    members, shares = [np.arange(40), np.arange(40, 100)], (0.2, 0.8)
    balance = lambda members, negatives=False: np.diff(
        sampling.mixed_balance(labels, members, shares, 2, 0.0, negatives=negatives), prepend=0.0
    )
    weights = balance(members)
    of_class = [weights[:30], weights[30:40], weights[40:45], weights[45:90], weights[90:]]
    np.testing.assert_allclose([part.sum() for part in of_class], [0.1, 0.1, 0.4, 0.4, 0])
    assert all(np.allclose(part, part[0]) for part in of_class)
    assert balance(members, negatives=True)[90:].sum() == pytest.approx(0.8 / 3)
    with pytest.raises(DataError, match="corpus 2 has no clip with a label"):
        balance([np.arange(90), np.arange(90, 100)])


@pytest.mark.parametrize("entry", ["a.csv", "a.csv=", "=0.3", "a.csv=1", "a.csv=0", "a.csv=nan"])
def test_what_is_no_share_is_named(entry):
    with pytest.raises(DataError, match=r"is no PATH=SHARE"):
        mixture.parts((entry,))
    with pytest.raises(DataError, match=r"shares of 1\.1 in all leave nothing"):
        mixture.parts(("a.csv=0.5", "b=c.csv=0.6"))
    assert mixture.parts("b=c.csv=0.6")[0][:2] == ("b=c.csv", 0.6)
    assert mixture.shares(("a.csv=0.25", "b.csv=0.25")) == (0.5, 0.25, 0.25)
    assert mixture.shares(("",)) == mixture.shares(()) == ()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """'first' (classes a, b; with folds) and 'second' (b, c; with a copy of one of the first), as
    manifests; 'second' prepared, too."""
    folder = tmp_path_factory.mktemp("corpora")
    draw = np.random.default_rng(0)
    for name, classes in (("first", "ab"), ("second", "bc")):
        for i in range(40):
            path = folder / name / classes[i % 2] / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * draw.standard_normal(2000 + 40 * i), RATE, "PCM_16")
    (folder / "second" / "b" / "copy.wav").write_bytes((folder / "first/b/1.wav").read_bytes())
    for name in ("first", "second"):
        assert manifest.main([str(folder / name), "--folds=4"]) == 0
    flags = ["--engine=processes", "--workers=1"]
    source = f"manifest:{folder}/second/manifest.csv"
    assert prepare.main(["any", f"--source={source}", f"--output={folder}/prepared", *flags]) == 0
    return folder


def mixed(config, corpora, *added, **data):
    config.data.update(clip_s=0.15, manifest=f"{corpora}/first/manifest.csv", **data)
    config.data.mixture = tuple(f"{corpora}/{one}" for one in added)
    return config


def ids(source):
    return [source.example_id(i) for i in range(len(source))]


def test_what_is_added_is_trained_on_alone(corpora):
    config = mixed(finetune.get_config("smoke"), corpora, "second/manifest.csv=0.25")
    spec = sources.source_spec(config)
    found = sources.open_sources(spec)
    first, second = (
        sources.open_sources(
            dataclasses.replace(spec, mixture=(), manifest=f"{corpora}/{name}/manifest.csv")
        )
        for name in ("first", "second")
    )
    assert ids(found.held_out) == ids(first.held_out)
    added = [f"{corpora}/second/{name}" for name in ids(second.train)]
    assert ids(found.train) == ids(first.train) + added
    assert found.train.label_names == ("a", "b", "c")
    assert found.train.corpora().tolist() == [0] * len(first.train) + [1] * len(second.train)
    by_name = dict(zip(ids(found.train), map(found.train.labels, range(99)), strict=False))
    assert by_name[added[0]] == ({"b": 1, "c": 2}[ids(second.train)[0][0]],)
    assert sources.open_sources(spec, ("c", "b", "x", "a")).train.labels(0) in ((3,), (1,))
    with pytest.raises(DataError, match=r"mixture: label 'c' is unknown to the checkpoint"):
        sources.open_sources(spec, ("a", "b"))


def test_what_an_added_corpus_holds_out_nobody_hears(corpora, tmp_path, caplog):
    """Not under another name either; its folds are no advice for the first corpus."""
    config = mixed(pretrain.get_config("smoke"), corpora, "second/manifest.csv=0.5")
    spec = sources.source_spec(config)
    second = dataclasses.replace(spec, mixture=(), manifest=f"{corpora}/second/manifest.csv")
    held_out = corpora / "second" / ids(sources.open_sources(second).held_out)[0]
    (tmp_path / "copy.wav").write_bytes(held_out.read_bytes())
    for name in ("first/a/0.wav", "first/b/3.wav"):
        (tmp_path / name.replace("/", "_")).write_bytes((corpora / name).read_bytes())
    assert manifest.main([str(tmp_path), "--folds=3"]) == 0
    folds = {row.name: row.fold for row in read_manifest(tmp_path / "manifest.csv")}
    config.data.manifest = f"{tmp_path}/manifest.csv"
    config.data.eval_folds = (folds["first_a_0.wav"],)
    holdout.say_there_are_folds.cache_clear()  # once a process
    caplog.set_level("INFO")
    caplog.clear()
    found = sources.open_sources(sources.source_spec(config))
    heard = set(found.train.contents().tolist())
    assert content.of_file(held_out) not in heard
    assert content.of_file(tmp_path / "first_b_3.wav") in heard
    assert "eval_folds" not in caplog.text


def test_the_first_corpus_judges(corpora):
    config = mixed(finetune.get_config("smoke"), corpora, "second/manifest.csv=0.25")
    config.data.validation_share = 0.2
    found = sources.open_sources(sources.source_spec(config))
    carved = opening.carve(config, found.train)
    assert set(carved.validation.corpora().tolist()) == {0}
    # One of them is in the second corpus, too.
    assert len(carved.train) + len(carved.validation) == len(found.train) - 1
    assert not np.isin(carved.train.contents(), carved.validation.contents()).any()
    assert set(carved.train.corpora().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.labels_per_class": 1}, "labels_per_class and .* choose clips of one corpus"),
        ({"task": "linear_probe"}, "a probe hears every clip once"),
        ({"data.batch_size": 128}, "of a batch of 128 are up to 103 clips of a corpus"),
    ],
)
def test_what_a_mixture_cannot_is_said_before_compiling(
    corpora, tmp_path, changes, words, monkeypatch
):
    config = mixed(finetune.get_config("smoke"), corpora, "second/manifest.csv=0.2")
    config.update(init_from="", compare_with_scratch=False)
    config.update_from_flattened_dict(changes)
    compiled = []
    monkeypatch.setattr(loop._Run, "_compile", lambda *args: compiled.append(args))
    with pytest.raises(UserError, match=words):
        run.run(config, tmp_path / "run")
    assert not compiled


@pytest.mark.parametrize("second", ["second/manifest.csv", "prepared"])
def test_a_copy_of_a_held_out_clip_is_left_out(corpora, second):
    rows = read_manifest(f"{corpora}/first/manifest.csv")
    fold = next(row.fold for row in rows if row.name == "b/1.wav")
    config = mixed(pretrain.get_config("smoke"), corpora, f"{second}=0.5", eval_folds=(fold,))
    found = sources.open_sources(sources.source_spec(config))
    assert "b/1.wav" in ids(found.held_out)
    assert len(found.train) > 60
    assert not [name for name in ids(found.train) if name.endswith("copy.wav")]
    config.data.eval_folds = ("2" if fold == "1" else "1",)
    found = sources.open_sources(sources.source_spec(config))
    assert [name for name in ids(found.train) if name.endswith("copy.wav")]


def test_other_parts_of_a_held_out_recording_are_left_out(tmp_path):
    """Whichever corpus holds it out, under whatever name: by content no two parts are the same."""
    draw = np.random.default_rng(0)
    sounds = {name: draw.bytes(300) for name in "abcd"}  # nothing decodes them
    corpora = {
        "first": ["a.wav,0,1,1", "b.wav,0,1,2", "c.wav,0,1,2"],
        "second": ["copy_a.wav,1,2,", "copy_b.wav,1,2,", "d.wav,1,2,"],
    }
    for folder, rows in corpora.items():
        (tmp_path / folder).mkdir()
        for row in rows:
            name = row.partition(",")[0]
            (tmp_path / folder / name).write_bytes(sounds[name[-5]])
        lines = ["path,start,end,fold", *rows]
        (tmp_path / folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    names = lambda source: [name.rpartition("/")[2].partition(".wav")[0] for name in ids(source)]
    config = mixed(pretrain.get_config("smoke"), tmp_path, "second/manifest.csv=0.5")
    spec = sources.source_spec(config)
    second = dataclasses.replace(spec, mixture=(), manifest=f"{tmp_path}/second/manifest.csv")
    alone = sources.open_sources(second)
    assert (names(alone.train), names(alone.held_out)) == (["copy_a", "d"], ["copy_b"])
    found = sources.open_sources(dataclasses.replace(spec, eval_folds=("1",)))
    assert (names(found.train), names(found.held_out)) == (["c", "d"], ["a"])


def test_both_loaders_and_all_hosts_read_the_same(corpora):
    """The first a manifest, the second read at once."""
    config = mixed(pretrain.get_config("smoke"), corpora, "prepared=0.25", batch_size=8)
    spec = host_loader.loader_spec(config)
    train = sources.open_sources(sources.source_spec(config)).train
    report = BadAudioReport(None, 0.5)

    def batch_of(loader, host=0, num_hosts=1):
        batches = loader.train_batches(train, spec, 5, report, host, num_hosts)
        batch = next(batches)
        batches.close()
        return batch

    whole = batch_of(host_loader)
    assert np.bincount(train.corpora()[whole["index"]]).tolist() == [6, 2]
    for row, index in enumerate(whole["index"]):
        alone = train.read(int(index), spec.num_samples, None)
        assert whole["num_samples"][row] == len(alone) > 0
    halves = [batch_of(host_loader, host, 2) for host in range(2)]
    for name, values in whole.items():
        assert np.array_equal(values, batch_of(input_pipeline)[name]), name
        assert np.array_equal(values, np.concatenate([half[name] for half in halves])), name


@pytest.mark.parametrize("loader", [host_loader, input_pipeline])
def test_a_step_that_cannot_be_planned_ends_both_loaders_alike(corpora, loader):
    config = mixed(pretrain.get_config("smoke"), corpora, "second/manifest.csv=0.5", batch_size=90)
    train = sources.open_sources(sources.source_spec(config)).train
    spec = host_loader.loader_spec(config)
    batches = loader.train_batches(train, spec, 0, BadAudioReport(None, 0.5))
    with pytest.raises(DataError, match="are up to 45 clips of a corpus that has") as caught:
        next(batches)
    # No frame of TensorFlow, which would keep its iterator to the end of the process.
    assert caught.value.__context__ is None


def test_a_mixture_of_nothing_is_refused(corpora, tmp_path):
    config = mixed(pretrain.get_config("smoke"), corpora, "second/manifest.csv=0.5")
    config.data.manifest = ""
    with pytest.raises(DataError, match=r"mixture adds to config\.data\.manifest"):
        sources.open_sources(sources.source_spec(config))
    config = mixed(pretrain.get_config("smoke"), corpora, "nothing.csv=0.5")
    with pytest.raises(UserError, match=r"nothing\.csv"):
        run.run(config, tmp_path / "run")


def test_a_run_says_what_it_was_made_of(corpora, tmp_path):
    config = mixed(pretrain.get_config("smoke"), corpora, "prepared=0.25")
    config.train.update(num_steps=2, eval_every=2)
    assert "Curves" in run.run(config, tmp_path / "run")
    meta = saved_files.newest_meta(tmp_path / "run" / "checkpoints")
    assert meta["corpus"].endswith("(0.25 of every batch)")
    text = str(training.facts(runs.read_run("run", tmp_path / "run")))
    assert f"0.25 of every batch from {corpora}/prepared" in text
    assert "To cite" in text


def test_all_examples_at_once_are_what_each_is(corpora):
    """Of a mixture of a manifest and a prepared corpus, and of what is kept of it."""
    config = mixed(finetune.get_config("smoke"), corpora, "prepared=0.25")
    train = sources.open_sources(sources.source_spec(config)).train
    for source in (train, sources.Subset(train, [70, 3, 5, 41] * 10), sources.Subset(train, [44])):
        every = range(len(source))
        assert source.ids() == [source.example_id(i) for i in every]
        assert source.contents().tolist() == [source.content(i) for i in every]
        assert source.wholes().tolist() == [source.whole(i) for i in every]
        found = source.all_labels()
        edges = zip(found.starts[:-1], found.starts[1:], strict=True)
        assert [tuple(found.numbers[a:b]) for a, b in edges] == [source.labels(i) for i in every]
        assert len(source.corpora()) == len(source)
