"""The loop: resume, evaluation, checkpoints that fail, runs that diverge."""

import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax.command import run
from conformer_jax.data.audio import BadAudio
from conformer_jax.data.sources import open_sources, source_spec
from conformer_jax.data.synthetic import CLASS_NAMES, SyntheticSource
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions
from conformer_jax.steps import metrics
from conformer_jax.training import (
    checkpoint,
    clips,
    frozen,
    loop,
    opening,
    preemption,
    program,
    selection,
    window,
)

TIMES = {"clips_per_s", "audio_hours_per_s", "mfu"}


def smoke(task, **train_fields):
    """The smoke config, with feature statistics given so that nothing is measured."""
    module = {"pretrain": pretrain_config, "finetune": finetune_config}[task]
    config = module.get_config("smoke")
    config.init_from = ""
    config.compare_with_scratch = False
    config.data.loader = "threads"
    config.data.clip_s = 0.5
    config.features.update(mean=(-4.0,) * 64, deviation=(3.0,) * 64)
    config.train.update(**train_fields)
    return config


class Compilations(logging.Handler):
    """Names of the functions that JAX compiled."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        found = re.match(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage())
        self.names += found.groups() if found else ()


@pytest.fixture(scope="module")
def compilations():
    """By task, what the run of `finished` compiled and when its first step began."""
    return {}


@pytest.fixture(scope="module", params=["pretrain", "finetune"])
def finished(request, tmp_path_factory, compilations):
    """(config, workdir, Result) of an uninterrupted run of 12 steps, saved at 6 and 12."""
    config = smoke(request.param)
    config.optimizer.ema_decay = 0.9 if request.param == "finetune" else 0.0
    workdir = tmp_path_factory.mktemp(request.param)
    jax_logger, compiled = logging.getLogger("jax"), Compilations()
    compilations[request.param] = compiled.names
    jax_logger.addHandler(compiled)
    opened = window.Window

    def open_window(*args):
        compiled.names.append("first step")
        return opened(*args)

    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "Window", open_window)
        result = loop.train_and_evaluate(config, workdir)
    jax_logger.removeHandler(compiled)
    return config, workdir, result


def test_the_step_that_is_compiled_beside_an_import_is_compiled_once(finished, compilations):
    step = f"{finished[0].task}_step"
    order = [n for n in compilations[finished[0].task] if n in (step, "first step")]
    assert order == [step, "first step"]


@pytest.fixture
def copy(finished, tmp_path):
    """The same run in a folder of its own, to be broken."""
    config, workdir, result = finished
    shutil.copytree(workdir, tmp_path / "run")
    return config, tmp_path / "run", result.program


def final_state(workdir, prepared):
    checkpoints = checkpoint.Checkpoints(workdir)
    try:
        return checkpoints.restore(prepared.abstract_state)[0]
    finally:
        checkpoints.close()


def records(workdir):
    """metrics.jsonl without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_predictions_of_the_last_evaluation(workdir):
    """predictions.npz gives the figures that were logged last, and belongs to that step."""
    logged = [record for record in records(workdir) if record["split"] == "eval"][-1]
    if "mAP" not in logged:  # pre-training
        assert not (workdir / "predictions.npz").exists()
        return
    found = predictions.load(workdir / "predictions.npz")
    figures = metrics.whole_set(found.logits, found.labels, multi_label=False)
    assert (found.step, figures) == (logged["step"], {name: logged[name] for name in figures})
    assert found.label_names.tolist() == list(CLASS_NAMES)
    assert found.ids.tolist() == [f"synthetic/eval/{i:06d}" for i in range(10)]


def assert_same(left, right):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Interrupted(Exception):
    pass


def watched(prepared, steps, stop_before=None):
    """The program, noting in `steps` each step it executes, and failing before one of them."""

    def train_step(state, batch, key):
        step = int(state.step)
        if step == stop_before:
            raise Interrupted
        steps.append(step)
        return prepared.train_step(state, batch, key)

    return dataclasses.replace(prepared, train_step=train_step)


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_bits(finished, tmp_path):
    config, workdir, result = finished
    first, second = [], []
    with pytest.raises(Interrupted):
        loop.train_and_evaluate(config, tmp_path, watched(result.program, first, stop_before=9))
    loop.train_and_evaluate(config, tmp_path, watched(result.program, second))
    assert first == list(range(9))
    assert second == list(range(6, 12))  # saved at 6: restored, not begun again
    assert_same(final_state(workdir, result.program), final_state(tmp_path, result.program))
    assert records(workdir) == records(tmp_path)


@pytest.mark.parametrize(
    "moment", ["between two records", "in an evaluation", "after the last step"]
)
def test_sigterm_saves_at_once_and_the_run_goes_on_to_the_same_bits(finished, tmp_path, moment):
    config, _, result = finished
    config = config.copy_and_resolve_references()
    config.train.log_every = 4
    reference = tmp_path / "reference"
    loop.train_and_evaluate(config, reference, result.program)
    terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)
    stop_at = {"between two records": 5, "in an evaluation": 6, "after the last step": 12}[moment]

    def train_step(state, batch, key):
        if int(state.step) + 1 == stop_at and moment != "in an evaluation":
            terminate()
        return result.program.train_step(state, batch, key)

    def eval_step(state, batch, key):
        if moment == "in an evaluation" and int(state.step) == stop_at:
            terminate()
        return result.program.eval_step(state, batch, key)

    stopping = dataclasses.replace(result.program, train_step=train_step, eval_step=eval_step)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(preemption.Preempted, match=f"stopped at step {stop_at}"):
        loop.train_and_evaluate(config, tmp_path / "run", stopping)
    assert signal.getsignal(signal.SIGTERM) is before
    assert int(final_state(tmp_path / "run", result.program).step) == stop_at
    if moment == "after the last step":  # evaluated at 6; of 12 there is no evaluation yet
        assert_predictions_of_the_last_evaluation(tmp_path / "run")
    steps = []
    loop.train_and_evaluate(config, tmp_path / "run", watched(result.program, steps))
    assert steps == list(range(stop_at, 12))
    assert_same(
        final_state(reference, result.program), final_state(tmp_path / "run", result.program)
    )
    assert records(reference) == records(tmp_path / "run")
    # What was saved in haste was replaced by a save like any other.
    ranks = lambda folder: {
        path.parent.parent.name: path.read_text()
        for path in folder.glob("checkpoints/*/metrics/metrics")
    }
    assert ranks(tmp_path / "run")["12"] == ranks(reference)["12"]
    never = dataclasses.replace(result.program, train_step=None, eval_step=None)
    loop.train_and_evaluate(config, tmp_path / "run", never)  # finished: nothing is done again


@pytest.mark.parametrize("finished", ["pretrain"], indirect=True)
def test_a_run_stopped_before_its_first_step_evaluates_nothing_there(finished, tmp_path):
    """As of several processes, which hear SIGTERM from the start."""
    config, workdir, result = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption.Watch, "due", lambda self: True)
        with pytest.raises(preemption.Preempted, match="stopped at step 0"):
            loop.train_and_evaluate(config, tmp_path, result.program)
    loop.train_and_evaluate(config, tmp_path, result.program)
    assert records(tmp_path) == records(workdir)


@pytest.fixture
def meaning():
    """Sets what SIGINT means during a test: pytest itself may have been told to ignore it."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def test_ctrl_c_saves_and_a_second_one_interrupts(capfd, meaning):
    send = functools.partial(os.kill, os.getpid())
    meaning(signal.default_int_handler)
    watch = preemption.Watch()
    assert not watch.due()
    with pytest.raises(KeyboardInterrupt):  # nothing to save yet
        send(signal.SIGINT)
    assert not watch.due()
    send(signal.SIGINT)
    assert watch.due()
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert str(watch.preempted(7)) == "stopped at step 7 by Ctrl-C"
    assert watch.preempted(7).by_user
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    watch.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_sigterm_does_not_wait_for_a_third(meaning):
    send = functools.partial(os.kill, os.getpid())
    meaning(signal.default_int_handler)
    watch = preemption.Watch()
    watch.due(), watch.due()
    send(signal.SIGTERM)
    send(signal.SIGINT)
    assert not watch.preempted(7).by_user
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    watch.close()


def test_an_ignored_ctrl_c_stays_ignored(meaning):
    meaning(signal.SIG_IGN)  # as of a job in the background
    watch = preemption.Watch()
    watch.due(), watch.due()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    watch.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("task", "finetun"), ("data.batch_size", 0), ("optimizer.learning_rate", -1.0)],
)
def test_what_no_step_can_have_is_refused_before_data_is_opened(field, value, tmp_path):
    config = pretrain_config.get_config("smoke")
    config.data.manifest = "nowhere.csv"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field}"), opening.alone(config, tmp_path):
        pass


def test_a_finished_run_is_not_trained_again(copy):
    config, workdir, prepared = copy
    before, steps = records(workdir), []
    result = loop.train_and_evaluate(config, workdir, watched(prepared, steps))
    assert steps == []
    assert records(workdir) == before
    assert result.held_out["loss"] == before[-1]["loss"]


def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(copy, finished, caplog):
    config, workdir, prepared = copy
    for part in (workdir / "checkpoints" / "12" / "params" / "ocdbt.process_0" / "d").iterdir():
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    for part in (workdir / "checkpoints" / "12" / "params" / "d").iterdir():
        part.write_bytes(b"\0" * part.stat().st_size)
    steps, there = [], []

    def train_step(state, batch, key):
        steps.append(int(state.step))
        there.append((workdir / "predictions.npz").exists())
        return prepared.train_step(state, batch, key)

    with caplog.at_level(logging.WARNING):
        loop.train_and_evaluate(
            config, workdir, dataclasses.replace(prepared, train_step=train_step)
        )
    assert steps == list(range(6, 12))
    assert not any(there)  # those of step 12, whose record is gone, too
    assert_predictions_of_the_last_evaluation(workdir)
    assert "checkpoint of step 12 cannot be read" in caplog.text
    assert (workdir / "unreadable_checkpoint_12").is_dir()  # nothing is thrown away
    assert_same(final_state(workdir, prepared), final_state(finished[1], prepared))


def test_no_readable_checkpoint_is_said_in_one_line(copy):
    config, workdir, prepared = copy
    for item in (workdir / "checkpoints").glob("*/meta/metadata"):
        item.write_text("{")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read .*--workdir"):
        loop.train_and_evaluate(config, workdir, prepared)


def test_everything_a_user_needs_is_in_the_workdir(finished):
    config, workdir, _ = finished
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert list((workdir / "tensorboard").glob("events*"))
    assert json.loads((workdir / "config.json").read_text())["name"] == config.name
    meta = checkpoint.read_meta(workdir)
    assert meta["config"]["features"]["mean"] == [-4.0] * 64
    assert meta["label_names"] == (list(CLASS_NAMES) if config.task == "finetune" else [])
    assert meta["versions"]["jax"] == jax.__version__
    names = {name for record in records(workdir) for name in record}
    expected = {"loss", "gradient_norm", "learning_rate", "finite"}
    if config.task == "pretrain":
        expected |= {"contrastive_accuracy", "chance_accuracy", "target_deviation"}
        expected |= {"similarity_positive", "similarity_negative"}
    else:
        expected |= {"accuracy", "mAP", "chance_accuracy", "chance_mAP"}
    assert expected <= names
    assert_predictions_of_the_last_evaluation(workdir)
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert set().union(*logged) >= TIMES


def evaluated_again(config, workdir, prepared, folder, eval_batch_size):
    """The held-out record of a finished run whose log is lost."""
    config = config.copy_and_resolve_references()
    config.data.eval_batch_size = eval_batch_size
    shutil.copytree(workdir / "checkpoints", folder / "checkpoints")
    return loop.train_and_evaluate(config, folder, prepared).held_out


def test_the_held_out_record_does_not_depend_on_the_batch(finished, tmp_path):
    """10 held-out clips in batches of 4 and of 8: the same masks, and padding weighs nothing."""
    config, workdir, result = finished
    found = evaluated_again(config, workdir, result.program, tmp_path, 8)
    assert found.keys() == result.held_out.keys()
    for name in found.keys() - {"target_deviation"}:  # which is a batch's own
        assert found[name] == pytest.approx(result.held_out[name], abs=1e-6), name


@pytest.mark.parametrize("finished", ["finetune"], indirect=True)
def test_every_held_out_clip_has_its_prediction(finished, tmp_path):
    config, workdir, result = finished
    evaluated_again(config, workdir, result.program, tmp_path, 8)
    assert_predictions_of_the_last_evaluation(tmp_path)
    ours, theirs = (predictions.load(folder / "predictions.npz") for folder in (tmp_path, workdir))
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)


@pytest.mark.parametrize("finished", ["finetune"], indirect=True)
def test_a_clip_that_cannot_be_read_has_no_prediction(finished, tmp_path, monkeypatch):
    config, workdir, result = finished
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    read = SyntheticSource.read

    def read_but_one(self, i, num_samples, position):
        if i == 3:
            raise BadAudio("broken")
        return read(self, i, num_samples, position)

    monkeypatch.setattr(SyntheticSource, "read", read_but_one)
    loop.train_and_evaluate(config, tmp_path, result.program)
    ours, theirs = (predictions.load(folder / "predictions.npz") for folder in (tmp_path, workdir))
    kept = np.arange(10) != 3
    np.testing.assert_array_equal(ours.ids, theirs.ids[kept])
    np.testing.assert_array_equal(ours.labels, theirs.labels[kept])
    np.testing.assert_allclose(ours.logits, theirs.logits[kept], atol=1e-5)


def test_a_workdir_of_another_config_is_refused(copy):
    config, workdir, prepared = copy
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = 0.5
    config.train.log_every = 3  # may change
    config.conformer.scan_blocks = True  # this, too
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.001 -> 0\.5|-> 0\.5") as e:
        loop.train_and_evaluate(config, workdir, prepared)
    assert "another --workdir" in str(e.value)
    assert "log_every" not in str(e.value)
    assert "scan_blocks" not in str(e.value)


def test_a_run_that_failed_before_its_first_save_does_not_claim_the_workdir(finished, tmp_path):
    config, _, result = finished
    with pytest.raises(Interrupted):
        loop.train_and_evaluate(config, tmp_path, watched(result.program, [], stop_before=2))
    other = config.copy_and_resolve_references()
    other.seed = 5
    with pytest.raises(Interrupted):
        loop.train_and_evaluate(other, tmp_path, watched(result.program, [], stop_before=2))
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["seed"] == 5


def test_one_bad_step_is_skipped_and_a_diverged_run_stops_with_its_checkpoint(finished, tmp_path):
    config, _, result = finished
    config = config.copy_and_resolve_references()
    config.train.max_nonfinite_steps = 3

    def poison(state, batch, key):
        if int(state.step) == 7:  # after the save of step 6
            state = state.replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
        return result.program.train_step(state, batch, key)

    with pytest.raises(UserError, match=r"have not been finite for \d+ steps.*learning_rate"):
        loop.train_and_evaluate(
            config, tmp_path, dataclasses.replace(result.program, train_step=poison)
        )
    assert int(final_state(tmp_path, result.program).step) == 6


def test_no_room_for_a_checkpoint_keeps_the_earlier_one(finished, tmp_path, monkeypatch):
    config, _, result = finished
    usage = shutil.disk_usage(tmp_path)
    calls = []

    def disk_usage(path):
        calls.append(path)
        return usage._replace(free=1000 if len(calls) > 1 else usage.free)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", disk_usage)
    with pytest.raises(UserError, match=r"no room for a checkpoint .* goes on from step 6") as e:
        loop.train_and_evaluate(config, tmp_path, result.program)
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    steps = []
    loop.train_and_evaluate(config, tmp_path, watched(result.program, steps))
    assert steps == list(range(6, 12))


# Accuracy of the validation after each step: of equally good ones the first is the best.
VALIDATION = {2: 0, 4: 1, 6: 0, 8: 1, 10: 0, 12: 1}


@pytest.fixture
def validating(finished):
    """The fine-tuning of `finished` with a validation split, and how many batches that has."""
    config, _, result = finished
    config = config.copy_and_resolve_references()
    config.data.validation_share = 0.25
    config.train.update(eval_every=2, early_stopping=2, log_every=5)
    config.checkpoint.update(every_steps=6, keep_last=1, keep_best=0)
    validation = selection.carve(
        config.data,
        open_sources(source_spec(config)).train,
        task=config.task,
        patience=config.train.early_stopping,
        seed=config.seed,
    ).validation
    num_batches = -(-len(validation) // config.data.eval_batch_size)

    def program_of(steps=None, stop_before=None, held_out=lambda state: None):
        """The program of `watched`, whose validations go as VALIDATION says; `held_out` is called
        with the state of each batch of the held-out clips, on which the outputs are real."""
        trained = watched(result.program, [] if steps is None else steps, stop_before).train_step
        left = [num_batches]  # of the evaluation; the validation comes first

        def train_step(state, batch, key):
            left[0] = num_batches
            return trained(state, batch, key)

        def eval_step(state, batch, key):
            pairs, out = result.program.eval_step(state, batch, key)
            left[0] -= 1
            if left[0] < 0:
                held_out(state)
            else:
                out |= {"logits": 1.0 * (out["labels"] == VALIDATION[int(state.step)])}
            return pairs, out

        return dataclasses.replace(result.program, train_step=train_step, eval_step=eval_step)

    return config, program_of


def evaluations(workdir):
    return [(r["step"], r["split"]) for r in records(workdir) if r["split"] != "train"]


finetuned = pytest.mark.parametrize("finished", ["finetune"], indirect=True)


@finetuned
def test_a_run_ends_with_what_was_best_on_validation(validating, tmp_path):
    config, program_of = validating
    steps, evaluated = [], []
    held_out = lambda state: evaluated.append(jax.device_get(state.ema))
    result = loop.train_and_evaluate(config, tmp_path, program_of(steps, held_out=held_out))
    assert steps == list(range(8))  # stopped early
    assert evaluations(tmp_path) == [(n, "validation") for n in (2, 4, 6, 8)] + [(8, "eval")]
    assert result.held_out["best_step"] == records(tmp_path)[-1]["best_step"] == 4
    best, final = (
        [
            checkpoint.read_item(tmp_path / "checkpoints" / step / item)
            for item in ("params", "training")
        ]
        for step in ("4", "8")
    )
    assert_same(best[0], final[0])
    assert_same(best[1]["ema"], final[1]["ema"])
    assert_same(best[1]["ema"], evaluated[0])
    assert (int(best[1]["step"]), int(final[1]["step"])) == (4, 8)
    assert not (tmp_path / "checkpoints" / "6").exists()
    never = dataclasses.replace(program_of(), train_step=None, eval_step=None)
    again = loop.train_and_evaluate(config, tmp_path, never)  # finished: nothing is done again
    assert again.held_out["loss"] == result.held_out["loss"]
    record = clips.read(tmp_path)
    swapped = clips.Drawn(record.drawn.validated, record.drawn.trained)
    clips._write(tmp_path / clips.FILE, record._replace(drawn=swapped))
    with pytest.raises(UserError, match=r"so that config\.data\.validation_share, .* draw others"):
        loop.train_and_evaluate(config, tmp_path, never)
    clips._write(tmp_path / clips.FILE, record)
    config.train.eval_every = 3
    with pytest.raises(UserError, match=r"train\.eval_every: 2 -> 3"):
        loop.train_and_evaluate(config, tmp_path, never)


@finetuned
def test_a_head_is_fitted_anew_to_the_parameters_that_a_run_ends_with(finished, tmp_path):
    config, plain, result = finished
    config = config.copy_and_resolve_references()
    config.classifier.refit = True
    tuned, stopped, probed = (tmp_path / name for name in ("tuned", "stopped", "probed"))
    loop.train_and_evaluate(config, tuned, result.program)
    before, ended = (final_state(folder, result.program) for folder in (plain, tuned))
    assert_same(ended.params["encoder"], before.ema["encoder"])  # the average, which is evaluated
    assert_same(ended.params, ended.ema)
    with pytest.raises(Interrupted):
        loop.train_and_evaluate(config, stopped, watched(result.program, [], 7))
    embedded = []

    def embed_step(state, batch):
        embedded.append(batch)
        os.kill(os.getpid(), signal.SIGTERM)
        return result.program.embed_step(state, batch)

    terminated = dataclasses.replace(result.program, embed_step=embed_step)
    with pytest.raises(preemption.Preempted, match="stopped at step 12"):
        loop.train_and_evaluate(config, stopped, terminated)
    assert len(embedded) == 1  # the grace period is short: the other clips are not waited for
    loop.train_and_evaluate(config, stopped, result.program)
    assert_same(ended, final_state(stopped, result.program))
    config.update(task="linear_probe", init_from=str(tuned))
    frozen.evaluate(config, probed, result.program)
    said = [
        predictions.load(folder / "predictions.npz").logits for folder in (tuned, probed, plain)
    ]
    np.testing.assert_allclose(said[0], said[1], atol=1e-4)
    assert np.abs(said[0] - said[2]).max() > 0.01


@finetuned
def test_a_head_is_fitted_anew_to_what_was_best_on_validation(validating, tmp_path):
    config, program_of = validating
    config.classifier.refit = True
    evaluated = []
    held_out = lambda state: evaluated.append(jax.device_get(state.ema))
    loop.train_and_evaluate(config, tmp_path, program_of(held_out=held_out))
    best, final = (
        checkpoint.read_item(tmp_path / "checkpoints" / step / item)
        for step, item in (("4", "training"), ("8", "params"))
    )
    assert_same(best["ema"]["encoder"], final["encoder"])
    assert_same(final, evaluated[0])
    assert np.abs(best["ema"]["head"]["kernel"] - final["head"]["kernel"]).max() > 0.01


@finetuned
def test_without_patience_the_best_is_looked_for_to_the_last_step(validating, tmp_path):
    config, program_of = validating
    config.train.early_stopping = 0
    result = loop.train_and_evaluate(config, tmp_path, program_of())
    assert result.held_out["best_step"] == 4
    assert evaluations(tmp_path)[-2:] == [(12, "validation"), (12, "eval")]


@finetuned
def test_a_validating_run_that_was_stopped_ends_in_the_same_bits(validating, tmp_path, caplog):
    config, program_of = validating
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    loop.train_and_evaluate(config, whole, program_of())
    terminate = lambda state: os.kill(os.getpid(), signal.SIGTERM)
    steps = []
    for stop_before in (5, 7):  # saved at 4, which improved, and at 6 by the clock
        with pytest.raises(Interrupted):
            loop.train_and_evaluate(config, stopped, program_of(steps, stop_before))
    with pytest.raises(preemption.Preempted, match="stopped at step 8"):
        loop.train_and_evaluate(config, stopped, program_of(steps, held_out=terminate))
    loop.train_and_evaluate(config, stopped, program_of(steps))
    assert steps == [0, 1, 2, 3, 4, 4, 5, 6, 6, 7]
    assert_same(final_state(whole, program_of()), final_state(stopped, program_of()))
    assert records(whole) == records(stopped)
    assert "lost, cut or damaged" not in caplog.text  # the validation was made again


@pytest.mark.parametrize("finished", ["pretrain"], indirect=True)
def test_fine_tuning_starts_from_the_encoder_and_reports_the_control(finished, tmp_path):
    _, workdir, result = finished
    tuned = smoke("finetune", num_steps=2)
    tuned.init_from, tuned.compare_with_scratch = str(workdir), True
    tuned.features.update(mean=(), deviation=())
    tuned.conformer.update(remat="full", scan_blocks=True)  # not of the architecture
    encoder, steps = [], []
    built = program.build

    def build(config, num_classes, prepared=None):
        assert config.features.mean == (-4.0,) * 64  # the checkpoint's statistics
        if prepared is not None:
            return built(config, num_classes, prepared=prepared)
        prepared = built(config, num_classes)

        def train_step(state, batch, key):
            if int(state.step) == 0:
                encoder.append(jax.device_get(state.params["encoder"]))
            steps.append(int(state.step))
            return prepared.train_step(state, batch, key)

        train_step.lower = prepared.train_step.lower
        return dataclasses.replace(prepared, train_step=train_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build", build)
        text = run.run(tuned, tmp_path)
    assert steps == [0, 1, 0, 1]  # the same budget for both
    trained = final_state(workdir, result.program).params["encoder"]
    assert_same(encoder[0], trained)
    kernel = trained["block_0"]["attention"]["qkv"]["kernel"]
    assert not np.array_equal(encoder[1]["block_0"]["attention"]["qkv"]["kernel"], kernel)
    rows = [line.split("  ")[0] for line in text.splitlines()[:4]]
    assert rows[1:] == ["pre-trained, fine-tuned", "from scratch, same budget", "chance"]


@pytest.mark.parametrize("finished", ["pretrain"], indirect=True)
def test_a_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    _, workdir, _ = finished
    tuned = smoke("finetune")
    tuned.init_from = str(workdir)
    tuned.conformer.kernel_sizes = (5, 5)
    with pytest.raises(UserError, match=r"another architecture .*conformer\.kernel_sizes"):
        loop.train_and_evaluate(tuned, tmp_path)


def test_a_missing_pretraining_run_is_named_with_the_command_to_type(tmp_path):
    tuned = smoke("finetune")
    tuned.init_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"nothing' holds no checkpoint: name .*pretrained:tiny"):
        loop.train_and_evaluate(tuned, tmp_path / "run")
