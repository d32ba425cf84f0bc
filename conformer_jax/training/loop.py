"""The loop, the same for pre-training and fine-tuning; it knows neither model.

Order, once at the start:
  1. claim the workdir          it must hold no other config's run
  2. open the sources           measure or look up the feature statistics
  3. parameters                 the workdir's own checkpoint; else config.init_from (encoder only,
                                every name accounted for); else scratch; the head from a probe
                                where config.classifier.init = 'probe'
Then, from the step that was restored, until the last:
  evaluate? save? [stop at num_steps] next batch, step, log?
Where there is a validation split (selection.py), that is what is evaluated, and what improves is
saved; the last step then takes the parameters of the best, evaluates them on the held-out set and
saves them as its own.
On SIGTERM or Ctrl-C the loop saves where it is, whatever is due, and raises Preempted
(preemption.py).
"""

import contextlib
import logging
import pathlib
import time
from typing import Any, NamedTuple

import jax

from conformer_jax.data import host_loader
from conformer_jax.data.manifest import check_exists
from conformer_jax.data.sources import BadAudioReport, open_sources
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions, probe
from conformer_jax.models import flops
from conformer_jax.steps import metrics
from conformer_jax.training import (
    checkpoint,
    diagnostics,
    distributed,
    lock,
    preemption,
    program,
    progress,
    selection,
    sharding,
    statistics,
)
from conformer_jax.training import workdir as workdirs

_FEW_CLIPS = 10  # held out; fewer make no figure
_UNRANKED = -1e30  # of a checkpoint without an evaluation: worse than any


class Result(NamedTuple):
    """Of a finished run: its last records, its config with the feature statistics, its program,
    the clips that it trained on."""

    train: dict[str, Any]
    held_out: dict[str, Any]
    config: Any
    program: program.Program
    num_clips: int


def train_and_evaluate(config, workdir, prepared: program.Program | None = None) -> Result:
    """Trains to config.train.num_steps, evaluating and saving on the way; resumes by itself.

    Args:
      config: the full config (configs/base.py); not changed.
      workdir: folder of the run.
      prepared: the Program of an earlier run, to share its compilations where it is the same.

    Returns:
      the Result.

    Raises:
      UserError: anything that the user can mend.
      Preempted: SIGTERM or Ctrl-C came; the state is saved.
    """
    with alone(config, workdir):
        return _train_and_evaluate(config, workdir, prepared)


def _train_and_evaluate(config, workdir, prepared):
    config = config.copy_and_resolve_references()
    workdir, report, (train_source, eval_source, label_names) = open_run(config, workdir)
    train_source, validation = selection.carve(config, train_source)
    compiled = program.build(config, len(label_names), prepared=prepared)
    loader, place = host_loader.pick(config.data.loader), compiled.batch_sharding
    host, num_hosts = jax.process_index(), jax.process_count()
    say_sizes(config, train_source, eval_source)
    if compiled is not prepared:
        logging.info("compiling, which takes about half a minute on two cores")
    init_key, root_key, eval_key = jax.random.split(jax.random.key(config.seed), 3)

    keep_best = max(config.checkpoint.keep_best, 0 if validation is None else 1)
    checkpoints = checkpoint.Checkpoints(
        workdir, keep_last=config.checkpoint.keep_last, keep_best=keep_best
    )
    state, restored = checkpoints.restore(compiled.abstract_state)
    if state is None:
        state = compiled.init(init_key)
        if config.init_from:
            params, from_step = checkpoint.load_encoder(config.init_from, state.params)
            state = state.with_params(params)
            logging.info("encoder taken from %s, step %d", config.init_from, from_step)
        if config.task == "finetune" and config.classifier.init == "probe":
            every_clip = loader.eval_batches(train_source, config, report, host, num_hosts)
            state = probe.start_head(config, state, probe.embed(compiled, state, every_clip))
            logging.info("head started from a linear probe of the frozen encoder")
    start_step = int(state.step)
    if start_step:
        logging.info("going on from step %d of %s", start_step, workdir)

    def evaluate(state, source):
        """Metrics and predictions (None in pre-training) of the whole source; None where SIGTERM
        came on the way."""
        total, outputs = None, []
        batches = loader.eval_batches(source, config, report, host, num_hosts)
        for i, batch in enumerate(batches):
            if watch.due():
                batches.close()
                return None
            batch = sharding.put_batch(batch, place)
            result = compiled.eval_step(state, batch, jax.random.fold_in(eval_key, i))
            pairs, out = result if isinstance(result, tuple) else (result, None)
            total = metrics.add(total, pairs)
            if out is not None:
                outputs.append(jax.device_get(out))
        record = _readable(metrics.means(total))
        if not outputs:
            return record, None
        found = predictions.collect(outputs, source, int(state.step))
        return record | whole_set(found, config.classifier.multi_label), found

    def best_state(step):
        """The newest state with the parameters of another step, or of its own."""
        if step == int(state.step):
            return state
        logging.info("taking the parameters of step %d, the best on validation", step)
        checkpoints.wait()
        best, _ = checkpoints.restore(compiled.abstract_state, step)
        return best.replace(step=state.step)

    num_steps, train_record, held_out = config.train.num_steps, {}, {}
    meta = {"config": config.to_dict(), "label_names": list(label_names)}
    batches = loader.train_batches(train_source, config, start_step, report, host, num_hosts)
    # A save that SIGTERM asked for: the sums of its open window; its step is not evaluated yet.
    preempted = (restored or {}).get("preempted")
    finished = "best_step" in (restored or {})  # perhaps before num_steps
    fresh = preempted is not None  # whether the step has not been evaluated and saved
    keep_eval = restored is not None and not fresh  # without a checkpoint it is another task's
    log = progress.Log(
        config,
        workdir,
        start_step,
        keep_eval=keep_eval,
        active=host == 0,
        expected=(restored or {}).get("records"),
    )
    watch = preemption.Watch()
    try:
        if host == 0:
            predictions.drop_other(workdir / "predictions.npz", log.last("eval").get("step"))
        window = metrics.from_json(preempted["window"]) if preempted else None
        clock = time.perf_counter()
        compiling = True  # the first window holds the compilation and tells no speed
        for step in range(start_step, num_steps + 1):
            last = step == num_steps or finished
            if (
                last
                and not fresh
                and (done_before := distributed.on_first(lambda: log.last("eval")))
            ):
                held_out = done_before
                break
            paused = time.perf_counter()
            stop = watch.due()
            save = last or (fresh and _due(step, config.checkpoint.every_steps))
            if not stop and (save or (fresh and _due(step, config.train.eval_every))):
                result = evaluate(state, eval_source if validation is None else validation)
                if result is not None and validation is not None:
                    log.write(step, "validation", result[0])
                    standing = selection.judge(config, log.all("validation"))
                    last, save = last or standing.over, save or standing.improved or standing.over
                    if last:
                        best = best_state(standing.best_step)
                        result = evaluate(best, eval_source)
                        if result is not None:
                            state, meta["best_step"] = best, standing.best_step
                            result[0]["best_step"] = standing.best_step
                stop = result is None
                if not stop and (last or validation is None):
                    held_out, found = result
                    log.write(step, "eval", held_out)
                    if found is not None and host == 0:
                        predictions.save(workdir / "predictions.npz", *found)
            if stop:
                checkpoints.save(
                    state,
                    meta
                    | {"preempted": {"window": metrics.to_json(window)}, "records": log.digest()},
                    _UNRANKED,
                )
                checkpoints.wait()
                raise watch.preempted(step)
            if save:
                checkpoints.save(
                    state,
                    meta | {"records": log.digest()},
                    _rank(held_out) if validation is None else standing.rank,
                )
            clock += time.perf_counter() - paused
            if last:
                break
            fresh = True
            batch = sharding.put_batch(next(batches), place)
            state, pairs = compiled.train_step(state, batch, root_key)
            jax.block_until_ready(window)  # of the step before: no more than two are under way
            window = metrics.add(window, pairs)
            done = step + 1
            # Saving closes a window, so that a resumed run logs the same windows.
            due = _due(done, config.train.log_every) or _due(done, config.checkpoint.every_steps)
            due = due or (validation is not None and _due(done, config.train.eval_every))
            if due or done in (1, num_steps):
                train_record = _readable(metrics.means(window))
                now = time.perf_counter()
                if not compiling:
                    train_record |= _speed(config, done - log.step, now - clock)
                train_record["learning_rate"] = float(compiled.schedule(step))
                window, clock, compiling = None, now, False
                log.write(done, "train", train_record)
                _check_health(config, state, train_record, done, log)
            log.advance(done)
        checkpoints.wait()
        if watch.heard:  # too late to stop anything but what comes after this run
            raise watch.preempted(num_steps)
    finally:
        watch.close()
        batches.close()
        log.close()
        checkpoints.close()
    return Result(train_record or log.last("train"), held_out, config, compiled, len(train_source))


def _due(step, every):
    return every > 0 and step % every == 0


@contextlib.contextmanager
def alone(config, workdir):
    """Holds the workdir for a run (lock.py) whose config makes sense."""
    # Before the workdir: what is mistyped is no other config's run.
    program.check(config)
    if config.data.manifest:
        check_exists(config.data.manifest)
    workdirs.check_path(workdir)
    with lock.alone(workdir):
        yield


def open_run(config, workdir):
    """Claims the workdir and opens the sources, as every task begins.

    Returns:
      the workdir as a path, the report of unreadable audio, and what `prepare_data` returns.

    Raises:
      UserError: anything that the user can mend.
    """
    distributed.on_first(lambda: workdirs.claim(workdir, config))
    workdir, host = pathlib.Path(workdir), jax.process_index()
    if not (workdir / "config.json").exists():
        raise UserError(
            f"process {host} does not see what process 0 wrote to --workdir={workdir}: it must "
            f"lie where all processes see it"
        )
    bad_audio = "bad_audio.csv" if host == 0 else f"bad_audio_process_{host}.csv"
    report = BadAudioReport(workdir / bad_audio, config.data.max_bad_share)
    return workdir, report, prepare_data(config, workdir, report)


def say_sizes(config, train_source, eval_source):
    """Logs how many clips there are, and that few held-out ones make no figure."""
    own = config.data.manifest or config.data.tfds_name
    logging.info(
        "%d clips to train on, %d held out%s",
        *(len(train_source), len(eval_source), "" if own else ", of the synthetic corpus"),
    )
    if len(eval_source) < _FEW_CLIPS:
        logging.warning(
            "WARNING so few clips held out tell little: hold out more (data.eval_share, "
            "data.eval_folds), or cross-validate"
        )


def prepare_data(config, workdir, report):
    """Opens the sources and fills config.features.mean and .deviation in.

    Labels keep the order of the workdir's checkpoint, and feature statistics are those of the
    checkpoint (the workdir's own, or the one of config.init_from), where there is one.

    Returns:
      training source, held-out source, label names.
    """
    own = distributed.on_first(lambda: checkpoint.read_meta(workdir))
    names = own["label_names"] if own and config.task != "pretrain" else None
    train_source, eval_source = open_sources(config, names)
    origin = own
    if origin is None and config.init_from:
        origin = distributed.on_first(lambda: checkpoint.read_meta(config.init_from))
        if origin is None:
            raise UserError(
                f"config.init_from = {config.init_from!r} holds no checkpoint: pre-train first "
                f"(python -m conformer_jax.main --config=configs/pretrain.py, same variant), "
                f"or give --config.init_from='' to train from scratch"
            )
        _check_same_encoder(origin["config"], config)
    if not config.features.mean:
        if origin is not None:
            saved = origin["config"]["features"]
            stats = tuple(saved["mean"]), tuple(saved["deviation"])
        else:
            stats = distributed.on_first(
                lambda: statistics.feature_statistics(config, train_source, report, workdir)
            )
        with config.unlocked():
            config.features.mean, config.features.deviation = map(tuple, stats)
    return train_source, eval_source, train_source.label_names


def _check_same_encoder(saved, config):
    """Raises UserError where the checkpoint's encoder or features are not this config's."""
    wanted = config.to_dict()
    fields = []
    for section, free in (
        ("conformer", {"dropout", "dtype", "remat", "scan_blocks"}),
        ("features", {"mean", "deviation"}),
    ):
        old = {k: v for k, v in saved[section].items() if k not in free}
        new = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in wanted[section].items()
            if k not in free
        }
        fields += workdirs.differing_fields(old, new, f"{section}.")
    if fields:
        raise UserError(
            f"config.init_from = {config.init_from!r} is a checkpoint of another architecture "
            f"({'; '.join(fields[:4])}{' ...' if len(fields) > 4 else ''}): take the variant of "
            f"configs/finetune.py that belongs to it"
        )


def _readable(means):
    """Scalars for the log: codebook counts become perplexities."""
    use = means.pop("code_use", None)
    return means if use is None else means | diagnostics.code_metrics(use)


def whole_set(found, multi_label):
    try:
        return metrics.whole_set(found.logits, found.labels, multi_label=multi_label)
    except ValueError as error:
        raise UserError(f"evaluation failed: {error}") from error


def _rank(held_out):
    """What keep-best ranks by, higher is better: the loss alone ranks pre-training."""
    return held_out.get("mAP", -held_out.get("contrastive_loss", 0.0))


def _speed(config, steps, seconds):
    clips = config.data.batch_size * steps / max(seconds, 1e-9)
    speed = {"clips_per_s": clips, "audio_hours_per_s": clips * config.data.clip_s / 3600}
    peak = flops.peak_flops()
    if peak:
        speed["mfu"] = flops.train_step_flops(config) * steps / seconds / peak
    return speed


def _check_health(config, state, record, step, log):
    """Warns of collapse and of skipped steps; stops when nothing is finite any more."""
    skipped = int(state.skipped)
    if skipped >= config.train.max_nonfinite_steps:
        raise UserError(
            f"loss or gradients have not been finite for {skipped} steps (now step {step}); the "
            f"parameters are those before it: lower --config.optimizer.learning_rate, "
            f"or look for broken audio, and start in another --workdir"
        )
    if config.task == "pretrain" and step > 0.2 * config.train.num_steps:
        watched = ("target_deviation", "code_perplexity", "finite")
        for problem in diagnostics.problems(config, record, watched):
            log.warn(problem)
