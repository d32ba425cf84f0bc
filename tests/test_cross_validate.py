"""K folds: who is held out when, what is shared, what is reported."""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
from scipy import stats

from configs import finetune as finetune_config
from conformer_jax import cross_validate, prepare
from conformer_jax.command import run
from conformer_jax.data.sources import source_spec
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions
from conformer_jax.training import checkpoint, clips, frozen, loop


def manifest(folder, folds=("a", "b", "c")):
    """Two clips of each of two classes in every fold; one class hums, one hisses."""
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "fold"])
        for fold in folds:
            for i in range(4):
                hum = 0.3 * np.sin(np.arange(4000) * 0.1 * (1 + i))
                audio = hum if i % 2 else 0.1 * rng.normal(size=4000)
                soundfile.write(folder / f"{fold}{i}.wav", audio, 16000)
                writer.writerow([f"{fold}{i}.wav", ("hiss", "hum")[i % 2], fold])
    return str(folder / "manifest.csv")


def smoke(path):
    config = finetune_config.get_config("smoke")
    config.update(init_from="", compare_with_scratch=False)
    config.data.update(manifest=path, loader="threads", clip_s=0.25, batch_size=4)
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.classifier.pooling = "statistics"
    config.train.update(num_steps=2, eval_every=0)
    config.checkpoint.every_steps = 0
    return config


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """(config, workdir, summary, Programs of the folds)."""
    folder = tmp_path_factory.mktemp("folds")
    config, programs, real = smoke(manifest(folder)), [], run.with_control

    def watched(*args):
        rows, compiled = real(*args)
        programs.append(compiled)
        return rows, compiled

    patch = pytest.MonkeyPatch()
    patch.setattr(run, "with_control", watched)
    summary = cross_validate.cross_validate(config, folder / "cv")
    patch.undo()
    return config, folder / "cv", summary, programs


def test_every_clip_is_held_out_once(validated):
    found = [
        predictions.load(validated[1] / f"fold_{fold}" / "predictions.npz").ids.tolist()
        for fold in "abc"
    ]
    assert found == [[f"{fold}{i}.wav" for i in range(4)] for fold in "abc"]


def test_the_folds_share_one_program(validated):
    programs = validated[3]
    assert len(programs) == 3
    assert all(program is programs[0] for program in programs)
    # One for the state that init gives and one for what a step gives, at most.
    assert programs[0].train_step._cache_size() <= 2


def test_the_summary_is_on_disk(validated):
    _, workdir, summary, _ = validated
    assert json.loads((workdir / "folds.json").read_text()) == summary
    assert summary["name"] == "from scratch, fine-tuned"
    assert summary["control"] is None
    assert sorted(summary["folds"]) == ["a", "b", "c"]
    assert summary["name"] in cross_validate.table(summary)


def test_finished_folds_are_not_run_again(validated, monkeypatch):
    config, workdir, summary, _ = validated

    def never(*args):
        raise AssertionError("trained again")

    finished = dataclasses.replace(validated[3][0], train_step=never)
    monkeypatch.setattr(loop.program, "build", lambda *args, **kwargs: finished)
    assert cross_validate.cross_validate(config, workdir) == summary


def test_folds_dealt_anew_are_not_mixed_with_those_that_are_done(validated):
    config, workdir, _, _ = validated
    path = pathlib.Path(config.data.manifest)
    before = path.read_text()
    path.write_text(before.replace("a0.wav,hiss,a", "a0.wav,hiss,b"))
    try:
        with pytest.raises(
            UserError, match=r"1 clips, such as a0.wav, have other folds .* another --work"
        ):
            cross_validate.cross_validate(config, workdir)
    finally:
        path.write_text(before)


def test_a_copy_that_is_not_used_is_no_other_fold(validated):
    config, workdir, _, _ = validated
    path = pathlib.Path(config.data.manifest)
    before = path.read_text()
    shutil.copy(path.parent / "a0.wav", path.parent / "copy.wav")
    path.write_text(before + "copy.wav,,b\n")
    try:
        cross_validate._same_folds(workdir, ["a", "b", "c"], config)
    finally:
        path.write_text(before)


def test_folds_dealt_anew_of_a_prepared_corpus_too(tmp_path, monkeypatch, capsys):
    path = pathlib.Path(manifest(tmp_path))
    shutil.copy(path.parent / "a0.wav", path.parent / "copy.wav")
    path.write_text(path.read_text() + "copy.wav,,b\n")  # a copy that is not used
    output = tmp_path / "out"
    flags = ["any", f"--source=manifest:{path}", f"--output={output}", "--engine=processes"]
    assert prepare.main([*flags, "--workers=1"]) == 0
    config = smoke("")
    config.data.prepared = str(output)
    # As if fold a had been begun.
    one, begun = config.copy_and_resolve_references(), tmp_path / "cv" / "fold_a"
    one.data.update(train_folds=("b", "c"), eval_folds=("a",))
    begun.mkdir(parents=True)
    split, known = clips.open_all(source_spec(one), None, begun, None, "")
    clips.write(begun, known, split.train)
    meta = lambda folder: {"step": 1} if folder.name == "fold_a" else None
    monkeypatch.setattr(checkpoint, "read_meta", meta)
    row = ("from scratch", {"accuracy": 0.5})
    monkeypatch.setattr(run, "with_control", lambda *args: ([row], None))
    cross_validate.cross_validate(config, tmp_path / "cv")
    shutil.rmtree(output)
    path.write_text(path.read_text().replace("a0.wav,hiss,a", "a0.wav,hiss,b"))
    assert prepare.main([*flags, "--workers=1"]) == 0
    with pytest.raises(UserError, match=r"1 clips, such as a0.wav, have other folds in .*out than"):
        cross_validate.cross_validate(config, tmp_path / "cv")
    assert "WARNING" not in capsys.readouterr().err
    (begun / clips.FILE).unlink()  # it does not say
    cross_validate.cross_validate(config, tmp_path / "cv")
    said = "fold_a/clips.npz is missing or damaged, so whether clips have changed"
    assert said in capsys.readouterr().err  # the command above has set up logging anew


@pytest.fixture(scope="module")
def probed(validated, tmp_path_factory):
    """(config, workdir, summary, names of the clips that were embedded) of a probe of all folds."""
    config = validated[0].copy_and_resolve_references()
    config.task = "linear_probe"
    heard, workdir = [], tmp_path_factory.mktemp("probed") / "cv"
    return config, workdir, probe_folds(config, workdir, heard), heard


def probe_folds(config, workdir, heard):
    real = frozen.clips_by_length

    def watched(config, source, report):
        heard.extend(source.example_id(i) for i in range(len(source)))
        return real(config, source, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "clips_by_length", watched)
        return cross_validate.cross_validate(config, workdir)


def test_a_probe_hears_every_clip_once(probed):
    assert sorted(probed[3]) == [f"{fold}{i}.wav" for fold in "abc" for i in range(4)]


def test_a_fold_alone_gives_the_same_figures(probed, tmp_path):
    config = probed[0].copy_and_resolve_references()
    config.data.update(train_folds=("a", "c"), eval_folds=("b",))
    found = frozen.evaluate(config, tmp_path)
    assert found.held_out["mAP"] == pytest.approx(probed[2]["folds"]["b"]["mAP"])
    own, of_fold = (
        predictions.load(d / "predictions.npz") for d in (tmp_path, probed[1] / "fold_b")
    )
    np.testing.assert_allclose(own.logits, of_fold.logits, atol=1e-4)
    assert own.ids.tolist() == of_fold.ids.tolist()


def test_finished_probes_are_kept_over_an_interruption(probed, tmp_path):
    config, workdir, summary, _ = probed
    copy, heard = tmp_path / "cv", []
    shutil.copytree(workdir, copy)
    assert probe_folds(config, copy, heard) == summary
    assert heard == []
    (copy / "fold_b" / "predictions.npz").unlink()  # as if this fold had been interrupted
    assert probe_folds(config, copy, heard) == summary
    assert len(heard) == 12
    (copy / "fold_a" / "model.safetensors").unlink()
    done = copy / "fold_c" / "probe.json"
    done.write_text(done.read_text().replace('"accuracy": ', '"accuracy": 1'))
    assert probe_folds(config, copy, heard := []) == summary
    assert len(heard) == 12
    assert (copy / "fold_a" / "model.safetensors").exists()
    other = config.copy_and_resolve_references()
    other.probe.l2 = 10.0
    probe_folds(other, copy, heard := [])
    assert len(heard) == 12


def test_folds_that_are_done_are_on_disk_while_others_are_missing(probed, tmp_path, monkeypatch):
    real = run.with_control

    def interrupted(config, workdir, *args):
        if workdir.name == "fold_b":
            raise KeyboardInterrupt
        return real(config, workdir, *args)

    monkeypatch.setattr(run, "with_control", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate.cross_validate(probed[0], tmp_path / "cv")
    found = json.loads((tmp_path / "cv" / "folds.json").read_text())
    assert found["missing"] == ["b", "c"]
    assert list(found["folds"]) == ["a"]
    assert found["deviation"] == found["interval95"] == {}


def test_a_bad_clip_spoils_no_other_fold(probed, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    path = manifest(folder)
    (folder / "b1.wav").write_bytes(b"no sound")
    config = probed[0].copy_and_resolve_references()
    config.data.update(manifest=path, max_bad_share=0.5)
    summary = cross_validate.cross_validate(config, tmp_path / "cv")
    assert summary["missing"] == []
    lists = [tmp_path / "cv" / f"fold_{fold}" / "bad_audio.csv" for fold in "abc"]
    assert ["b1.wav" in file.read_text() for file in lists] == [True] * 3
    # What is finished keeps its list; what is done again begins another.
    (tmp_path / "cv" / "fold_b" / "predictions.npz").unlink()
    lists[1].write_text("path,reason\nmended.wav,was empty\n")
    cross_validate.cross_validate(config, tmp_path / "cv")
    assert ["b1.wav" in file.read_text() for file in lists] == [True] * 3
    assert "mended" not in lists[1].read_text()


def test_mean_deviation_and_interval():
    values = [0.71, 0.75, 0.69, 0.8, 0.73]
    found = cross_validate.summarise({str(i): {"accuracy": v} for i, v in enumerate(values)})
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert found["deviation"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found["interval95"]["accuracy"] == pytest.approx(expected)


def test_an_interval_ends_where_the_figure_does():
    figures = {str(i): {"accuracy": a, "d_prime": 9 * a} for i, a in enumerate((1.0, 1.0, 0.9))}
    found = cross_validate.summarise(figures)["interval95"]
    assert found["accuracy"][1] == 1.0
    assert found["d_prime"][1] > 9.0


def test_what_cannot_be_validated_is_said(tmp_path):
    config = smoke(manifest(tmp_path, folds=("1",)))
    with pytest.raises(UserError, match=r"1 fold\(s\).*--folds=5"):
        cross_validate.cross_validate(config, tmp_path / "cv")
    config.data.manifest = ""
    with pytest.raises(UserError, match=r"needs --config\.data\.manifest"):
        cross_validate.cross_validate(config, tmp_path / "cv")
    config.task = "pretrain"
    config.data.manifest = "x.csv"
    with pytest.raises(UserError, match="no folds"):
        cross_validate.cross_validate(config, tmp_path / "cv")


def test_probes_are_validated_like_fine_tuning(validated, monkeypatch, tmp_path):
    config = validated[0].copy_and_resolve_references()
    config.task = "knn"
    record = {"accuracy": 0.5, "mAP": 0.6, "chance_accuracy": 0.5, "chance_mAP": 0.5}
    seen = []

    def fake(config, workdir, prepared, embeddings):
        seen.append((config.data.eval_folds, config.data.train_folds, workdir.name))
        return loop.Result({}, record, config, None, 8)

    monkeypatch.setattr(frozen, "evaluate", fake)
    tmp_path.joinpath("cv").mkdir()
    config.update(init_from="runs/mine", compare_with_scratch=True)
    summary = cross_validate.cross_validate(config, tmp_path / "cv")
    assert seen[2:4] == [(("b",), ("a", "c"), "fold_b"), (("b",), ("a", "c"), "scratch")]
    assert "pre-trained" in summary["name"]
    assert "nearest neighbors" in summary["control"]["name"]


def faked(monkeypatch, record):
    """Stands in for the folds: all have this record; returns [(held out, trained on)] of each."""
    seen = []

    def fake(config, workdir, prepared, embeddings):
        seen.append((config.data.eval_folds, config.data.train_folds))
        return loop.Result({}, {"accuracy": 0.5, "mAP": 0.6, **record}, config, None, 8)

    monkeypatch.setattr(frozen, "evaluate", fake)
    return seen


@pytest.mark.parametrize("found", [{"heard": 1, "heard_of": 4}, {"copies": 2}, {}])
def test_what_flatters_is_counted_over_the_folds(found, validated, monkeypatch, tmp_path):
    faked(monkeypatch, {name: float(value) for name, value in found.items()})
    config = validated[0].copy_and_resolve_references()
    config.task = "knn"
    (tmp_path / "cv").mkdir()
    summary = cross_validate.cross_validate(config, tmp_path / "cv")
    counts = {name: summary[name] for name in ("heard", "heard_of", "copies") if name in summary}
    assert counts == {name: 3 * value for name, value in found.items()}
    assert json.loads((tmp_path / "cv" / "folds.json").read_text()) == summary
    table = cross_validate.table(summary)
    assert ("has heard 3 of the 12 held-out clips" in table) == ("heard" in found)
    assert ("6 held-out clips are copies of what is trained on" in table) == ("copies" in found)


def test_negatives_in_a_fold_of_their_own_are_trained_on(validated, monkeypatch, tmp_path, caplog):
    seen = faked(monkeypatch, {})
    rows = ["a.wav,hum,1", "b.wav,hiss,2", "c.wav,,2", "d.wav,,3", "e.wav,,"]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,fold", *rows]))
    config = validated[0].copy_and_resolve_references()
    config.task = "knn"
    config.data.manifest = str(tmp_path / "m.csv")
    (tmp_path / "cv").mkdir()
    cross_validate.cross_validate(config, tmp_path / "cv")
    assert seen == [(("1",), ("2",)), (("2",), ("1",))]  # one label each: no answer is none
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    seen.clear()
    config.classifier.multi_label = True
    cross_validate.cross_validate(config, tmp_path / "cv")
    assert seen == [(("1",), ("2", "3")), (("2",), ("1", "3"))]
    assert "no clip has a label in fold 3: always trained on" in caplog.text
    assert "1 clip(s) without a fold are left out" in caplog.text


def test_of_a_prepared_corpus_too_folds_without_a_label_are_trained_on(monkeypatch):
    config = finetune_config.get_config("smoke")
    config.data.prepared = "somewhere"
    found = [("1", True), ("2", True), ("2", False), ("3", False), ("", False)]
    monkeypatch.setattr(cross_validate.prepared, "open_folder", lambda folder: folder)
    monkeypatch.setattr(cross_validate.prepared, "folds", lambda opened: found)
    config.classifier.multi_label = True
    assert cross_validate._folds_of(config) == (["1", "2"], ["3"])
    config.classifier.multi_label = False
    assert cross_validate._folds_of(config) == (["1", "2"], [])
