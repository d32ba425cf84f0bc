"""Frozen encoders: linear probe, nearest neighbours, and a head that starts from the probe."""

import json

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import conformer_jax
from configs import finetune as finetune_config
from conformer_jax.command import run
from conformer_jax.data import buckets, heard
from conformer_jax.data.host_loader import stack
from conformer_jax.data.sources import open_sources, source_spec
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions, probe
from conformer_jax.training import encoder_file, frozen, loop, program
from conformer_jax.training.clips import of_encoder


def blobs(classes=4, each=30, width=6, seed=0):
    """Embeddings [n, E] of overlapping classes, on scales that differ by 1e4; labels [n]."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(classes, width))[labels] + rng.normal(size=(len(labels), width))
    x = x * np.logspace(-2, 2, width) + 5.0
    return x.astype(np.float32), labels


def standard(x):
    return (x - x.mean(0)) / x.std(0)


def test_the_linear_probe_is_logistic_regression():
    x, labels = blobs()
    one_hot, l2 = np.eye(4)[labels], 0.05
    kernel, bias = probe.fit_linear(x, one_hot, multi_label=False, l2=l2, max_iterations=200)
    oracle = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-6, max_iter=500)
    oracle.fit(standard(x.astype(np.float64)), labels)
    logits = x @ kernel + bias
    ours = np.exp(logits - logits.max(1, keepdims=True))
    expected = oracle.predict_proba(standard(x.astype(np.float64)))
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), expected, atol=2e-3)


def test_several_labels_are_one_regression_a_class():
    x, labels = blobs()
    many = np.stack([labels < 2, labels % 2 == 0], axis=1).astype(np.float32)
    kernel, bias = probe.fit_linear(x, many, multi_label=True, l2=0.05, max_iterations=200)
    for c in range(2):
        oracle = LogisticRegression(C=1 / (0.05 * len(x)), tol=1e-6, max_iter=500)
        oracle.fit(standard(x.astype(np.float64)), many[:, c])
        expected = oracle.predict_proba(standard(x.astype(np.float64)))[:, 1]
        ours = 1 / (1 + np.exp(-(x @ kernel[:, c] + bias[c])))
        np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_a_constant_feature_gets_no_weight_and_does_no_harm():
    x, labels = blobs()
    fixed = np.concatenate([x, np.full((len(x), 1), 3.0, np.float32)], axis=1)
    options = {"multi_label": False, "l2": 0.05, "max_iterations": 200}
    kernel, _ = probe.fit_linear(fixed, np.eye(4)[labels], **options)
    assert np.isfinite(kernel).all()
    assert not kernel[-1].any()
    without, _ = probe.fit_linear(x, np.eye(4)[labels], **options)
    np.testing.assert_allclose(kernel[:-1], without, rtol=1e-3, atol=1e-4)


def test_embeddings_that_are_not_finite_are_refused():
    x, labels = blobs()
    x[3, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        probe.fit_linear(x, np.eye(4)[labels], multi_label=False, l2=0.1, max_iterations=5)


def neighbours(x, labels, **options):
    return probe.find_neighbours(x, labels, multi_label=False, **options)


def test_neighbours_vote_as_in_scikit_learn():
    x, labels = blobs(each=20)
    new, _ = blobs(each=10, seed=3)
    scores = neighbours(x, np.eye(4)[labels], neighbors=7, temperature=0.1).votes(new)
    mean, deviation = x.mean(0), x.std(0)
    vote = lambda distance: np.exp((1 - distance) / 0.1)
    oracle = KNeighborsClassifier(7, weights=vote, metric="cosine", algorithm="brute")
    oracle.fit((x - mean) / deviation, labels)
    np.testing.assert_allclose(scores, oracle.predict_proba((new - mean) / deviation), atol=1e-5)


def test_neighbours_of_many_clips_are_found_in_parts(monkeypatch):
    x, labels = blobs(each=20)
    options = {"neighbors": 5, "temperature": 0.1}
    found = neighbours(x, np.eye(4)[labels], **options)
    whole = found.votes(x)
    monkeypatch.setattr(probe, "_ROWS", 7)
    np.testing.assert_allclose(found.votes(x), whole, atol=1e-6)


def test_more_neighbours_than_clips_are_all_clips():
    found = neighbours(np.eye(3), np.eye(2)[[0, 1, 1]], neighbors=20, temperature=1e6)
    scores = found.votes(np.eye(3))
    np.testing.assert_allclose(scores, [[1 / 3, 2 / 3]] * 3, atol=1e-4)


@pytest.fixture(scope="module")
def config():
    config = finetune_config.get_config("smoke")
    config.update(init_from="", compare_with_scratch=False)
    config.data.update(loader="threads", clip_s=0.5, eval_batch_size=8)
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.classifier.update(pooling="statistics", layers="all")
    config.train.num_steps = 0
    return config


@pytest.fixture(scope="module")
def probed(config, tmp_path_factory):
    """(workdir, Result) of the linear probe of a random encoder."""
    config = config.copy_and_resolve_references()
    config.task = "linear_probe"
    workdir = tmp_path_factory.mktemp("probe")
    return workdir, frozen.evaluate(config, workdir)


def test_the_probe_leaves_a_record_and_predictions(probed):
    workdir, result = probed
    assert result.train["accuracy"] > 0.9  # 32 clips, more features than clips
    record = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["split"] == "eval"
    assert record["mAP"] == pytest.approx(result.held_out["mAP"])
    found = predictions.load(workdir / "predictions.npz")
    assert len(found.ids) == 10
    assert (found.logits.argmax(1) == found.labels.argmax(1)).mean() == record["accuracy"]


def test_the_saved_probe_says_what_the_run_said(config, probed):
    workdir, result = probed
    found = predictions.load(workdir / "predictions.npz")
    saved = conformer_jax.load(workdir)
    assert saved.label_names == tuple(found.label_names)
    assert saved.window_s == 0.5
    source = open_sources(source_spec(result.config)).held_out
    for i in range(3):
        audio = source.read(i, 8000, None)
        logits = found.logits[list(found.ids).index(source.example_id(i))]
        expected = saved.probabilities(logits[None])
        np.testing.assert_allclose(saved.tag(audio, 16000).probabilities, expected, atol=1e-2)


def test_the_record_counts_held_out_clips_that_the_encoder_has_heard(config, probed, tmp_path):
    """An encoder file whose pre-training had three of the ten, and one from elsewhere."""
    compiled = probed[1].program
    state = compiled.init(jax.random.key(0))
    meta = {"config": config.to_dict(), "step": 1, "versions": {}}
    held_out = open_sources(source_spec(config)).held_out
    clips = [held_out.content(i) for i in (1, 4, 9)] + [5]
    file = tmp_path / "e.safetensors"
    encoder_file.save(file, state.params["encoder"], meta, heard.of_contents(clips))
    config = config.copy_and_resolve_references()
    config.update(task="linear_probe", init_from=str(file))
    text = run.run(config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (record["heard"], record["heard_of"]) == (3.0, 10.0)
    assert "The encoder has heard 3 of the 10 held-out clips in its pre-training" in text
    train = open_sources(source_spec(config)).train
    both = [*clips, *(train.content(i) for i in range(len(train)))]
    found = of_encoder(tmp_path / "run")  # for its card
    assert found.has(both).all()
    assert len(found.clips) == len(set(both))
    config.data.refuse_heard = True
    with pytest.raises(UserError, match="has heard 3 of the 10 held-out clips, such as synthetic"):
        frozen.evaluate(config, tmp_path / "refused", compiled)


def test_a_head_from_the_probe_begins_where_the_probe_ends(config, probed, tmp_path):
    config = config.copy_and_resolve_references()
    config.classifier.init = "probe"
    result = loop.train_and_evaluate(config, tmp_path)  # no step: the start is evaluated
    begun, ended = (predictions.load(d / "predictions.npz") for d in (tmp_path, probed[0]))
    np.testing.assert_allclose(begun.logits, ended.logits, atol=1e-4)
    assert result.held_out["accuracy"] == probed[1].held_out["accuracy"]


def test_a_head_from_the_probe_of_crops_hears_them_likewise(config, probed, tmp_path):
    config = config.copy_and_resolve_references()
    config.classifier.update(crop_s=0.2, crops=2)
    ended = frozen.evaluate(config, tmp_path / "probe")
    config.update(task="finetune")
    config.classifier.init = "probe"
    loop.train_and_evaluate(config, tmp_path / "tuned")
    begun, ended, whole = (
        predictions.load(d / "predictions.npz").logits
        for d in (tmp_path / "tuned", tmp_path / "probe", probed[0])
    )
    np.testing.assert_allclose(begun, ended, atol=1e-4)
    assert np.abs(ended - whole).max() > 0.01


def test_neighbours_share_the_probe_s_program(config, probed, tmp_path):
    config = config.copy_and_resolve_references()
    config.task = "knn"
    result = frozen.evaluate(config, tmp_path, probed[1].program)
    assert result.program is probed[1].program
    assert result.train == {}  # every training clip is its own nearest neighbour
    logits = predictions.load(tmp_path / "predictions.npz").logits
    np.testing.assert_allclose(np.exp(logits).sum(1), 1.0, atol=1e-4)  # the shares of the votes


def test_another_task_in_the_same_folder_is_refused(config, probed):
    config = config.copy_and_resolve_references()
    config.task = "knn"
    before = (probed[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="results of another task"):
        frozen.evaluate(config, probed[0], probed[1].program)
    assert (probed[0] / "metrics.jsonl").read_bytes() == before


def test_a_clip_alone_and_padded_to_its_bucket_is_the_same_clip(config, probed):
    """Sounds of all lengths up to clip_s: in batches of full length, and of four lengths."""
    rng, compiled = np.random.default_rng(0), probed[1].program
    state = compiled.init(jax.random.key(0))
    samples = np.linspace(200, 8000, 19).astype(np.int32)
    rows = []
    for i, count in enumerate(samples):
        audio = np.zeros(8000, np.int16)
        audio[:count] = rng.integers(-9000, 9000, count)
        rows.append({"audio": audio, "num_samples": count, "index": np.int32(i)})
    rows = [
        {**row, "labels": np.int32(i % 20), "valid": np.float32(1)} for i, row in enumerate(rows)
    ]
    rows[4]["valid"] = np.float32(0)  # could not be read
    empty = {name: np.zeros_like(value) for name, value in rows[0].items()}
    batches = [stack((rows + [empty] * 5)[i : i + 8]) for i in (0, 8, 16)]
    lengths = buckets.bucket_lengths(640, 8000)
    assert lengths == [5120, 8000]
    lengths = [1280, 2560, *lengths]
    short = list(buckets.regroup(batches, lengths))
    assert {batch["audio"].shape for batch in short} == {(8, n) for n in lengths}
    whole, parts = (probe.embed(compiled, state, some, 19) for some in (batches, short))
    np.testing.assert_allclose(parts["embedding"], whole["embedding"], rtol=1e-5, atol=1e-5)
    assert parts["valid"].tolist() == [float(i != 4) for i in range(19)]
    np.testing.assert_array_equal(
        parts["labels"].argmax(1), [0 if i == 4 else i for i in range(19)]
    )


@pytest.mark.parametrize("variant", ["esc50", "esc50_long"])
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "knn"])
def test_the_esc50_configs_build_for_every_task(task, variant):
    config = finetune_config.get_config(variant)
    config.task = task
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    assert program.build(config, 50).embed_step is not None


def test_a_crop_longer_than_the_clip_is_refused():
    config = finetune_config.get_config("esc50_long")
    config.data.clip_s = 1.0
    with pytest.raises(UserError, match=r"crop_s = 2.0 is more than config.data.clip_s = 1.0"):
        program.build(config, 50)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probe.neighbors", 0),
        ("probe.temperature", 0.0),
        ("probe.l2", -1.0),
        ("classifier.init", "probes"),
        ("classifier.pooling", "linear_softmax"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_before_any_work(config, field, value):
    config = config.copy_and_resolve_references()
    config.task = "knn"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=field.replace(".", r"\.")):
        program.build(config, 20)


def test_a_program_is_shared_where_it_is_the_same(config):
    built = program.build(config, 20)
    other = config.copy_and_resolve_references()
    other.update(seed=5, name="other", init_from="somewhere")
    other.data.eval_folds = ("1",)
    assert program.build(other, 20, prepared=built) is built
    coloured = other.copy_and_resolve_references()
    coloured.augment.views = 0.5
    frozen = program.build(coloured, 20)
    coloured.task = "finetune"  # which augments, and a probe does not
    tuned = program.build(coloured, 20, prepared=frozen)
    assert tuned.abstract_state.options.view_share == 0.5
    assert program.build(other, 21, prepared=built) is not built
    other.features.mean = (-4.5,) * 64
    assert program.build(other, 20, prepared=built) is not built


def test_linear_softmax_pools_no_embedding(config):
    config = config.copy_and_resolve_references()
    config.classifier.pooling = "linear_softmax"
    built = program.build(config, 3)  # of fine-tuning
    batch = {
        "audio": jax.ShapeDtypeStruct((8, 8000), np.int16),
        "num_samples": jax.ShapeDtypeStruct((8,), np.int32),
        "labels": jax.ShapeDtypeStruct((8,), np.int32),
        "valid": jax.ShapeDtypeStruct((8,), np.float32),
    }
    with pytest.raises(ValueError, match="linear_softmax"):
        built.embed_step.lower(built.abstract_state, batch)
