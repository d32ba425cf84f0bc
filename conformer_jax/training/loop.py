"""The loop, the same for pre-training and fine-tuning; it knows neither model.

Order, once at the start:
  1. claim the workdir          it must hold no other config's run
  2. open the sources           measure or look up the feature statistics
  3. parameters                 the workdir's own checkpoint; else config.init_from (encoder only,
                                every name accounted for); else scratch; the head from a probe
                                where config.classifier.init = 'probe', the codebook from
                                clusters where config.quantizer.init = 'clusters'
Then, from the step that was restored, until the last:
  what is due (decision.py)? evaluate? save? [stop at the last] next batch, step, record?
Where there is a validation split (selection.py), that is what is evaluated, and what improves is
saved; the last step then takes the parameters of the best, evaluates them on the held-out set and
saves them as its own. With config.classifier.refit the head is then fitted anew, before that.
On SIGTERM or Ctrl-C the loop saves where it is, whatever is due, and raises Preempted
(preemption.py).
"""

import concurrent.futures
import dataclasses
import logging
from typing import Any, NamedTuple

import jax

from conformer_jax import fields
from conformer_jax.data import host_loader, mixture
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions
from conformer_jax.steps import metrics
from conformer_jax.training import (
    checkpoint,
    clips,
    decision,
    diagnostics,
    distributed,
    initial,
    monitor,
    opening,
    preemption,
    program,
    saved_files,
    selection,
    statistics,
    window,
)
from conformer_jax.training import evaluate as evaluating


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
    with opening.alone(config, workdir):
        return _train_and_evaluate(config, workdir, prepared)


def _train_and_evaluate(config, workdir, prepared):
    config, workdir, report, data = opening.open_run(config, workdir)
    eval_source, label_names = data.held_out, data.label_names
    carved = opening.carve(config, data.train)
    train_source, validation = carved
    drawn = selection.drawn(config.data, carved)
    clips.check_draw(data.known, drawn)
    compiled = program.build(config, len(label_names), prepared=prepared)
    opening.say_sizes(config, train_source, eval_source)
    heard = clips.judge(config, data.known, data.train, eval_source)
    distributed.on_first(lambda: clips.write(workdir, data.known, data.train, drawn))
    known = opening.known_classes(config, train_source, eval_source)
    new = compiled is not prepared
    if new:
        logging.info("compiling, which takes about half a minute on two cores")
    run = _Run(config, workdir, compiled, label_names, heard, known)
    try:
        run.start(report, data, train_source, validation, new=new)
        held_out = run.again(eval_source) if run.begun.finished else _loop(run)
        run.checkpoints.wait()
        if run.watch.heard:  # too late to stop anything but what comes after this run
            raise run.watch.preempted(config.train.num_steps)
    finally:
        run.close()
    trained = run.log.last("train")
    return Result(trained, held_out, config, compiled, len(train_source))


def _loop(run) -> dict[str, Any]:
    """Steps until the last; returns the last evaluation of the held-out clips."""
    state, step, fresh = run.begun.state, run.begun.step, run.begun.fresh
    config = run.config
    while True:
        due = decision.before_step(step, config.train, config.checkpoint, fresh=fresh)
        with run.window.paused():
            judged = None if run.watch.due() else run.judge(state, step, due)
            if judged is None:
                run.save_in_haste(state)
                raise run.watch.preempted(step)
            due, state = judged.due, judged.state
            if judged.held_out is not None:
                run.write(step, judged.held_out)
            if due.save:
                run.save(judged)
        if due.last:
            return judged.held_out.record
        batch = run.compiled.put_batch(next(run.batches))
        state, pairs = run.compiled.train_step(state, batch, run.step_key)
        run.window.add(pairs)
        step, fresh = step + 1, True
        validates = run.judge.validates
        if decision.record_due(step, config.train, config.checkpoint, validates=validates):
            run.record(state, step)
        run.log.advance(step)


class _Run:
    """What the loop works with: each part has a file of its own, this one puts them together."""

    def __init__(self, config, workdir, compiled, label_names, heard, known):
        keep_best = max(config.checkpoint.keep_best, 1 if config.data.validation_share else 0)
        self.config, self.compiled = config, compiled
        self.checkpoints = checkpoint.Checkpoints(
            workdir, keep_last=config.checkpoint.keep_last, keep_best=keep_best
        )
        self.watch = preemption.Watch()
        self.log, self.batches = None, None  # from `start` on
        self._workdir, self._first = workdir, jax.process_index() == 0
        self._heard, self._known = heard, known
        self._meta = {
            "config": config.to_dict(),
            "label_names": list(label_names),
            "clips": clips.FILE,
        }
        if cited := mixture.cite(config.data):
            self._meta["corpus"] = cited

    def start(self, report, data, train_source, validation, *, new) -> None:
        """Finds the state to go on from, and opens what is read and written from there.
        new: whether no earlier run has called the program."""
        config, compiled = self.config, self.compiled
        spec = program.batch_spec(config)
        place = report, jax.process_index(), jax.process_count()
        host_loader.name_of(config.data.loader)  # what is not installed is said before compiling
        loader = lambda: host_loader.pick(config.data.loader)
        eval_batches = lambda source: loader().eval_batches(source, spec, *place)
        init_key, self.step_key, eval_key = initial.run_keys(config)
        every_clip = lambda: (eval_batches(train_source), len(train_source))
        self.begun = initial.start(
            config,
            compiled,
            self.checkpoints,
            every_clip,
            lambda: statistics.clip_batches(config, train_source, report),
            init_key,
        )
        step = self.begun.step
        if not self.begun.finished:  # what the clips make impossible is said before compiling
            host_loader.train_plan(train_source, spec, *place[1:])(step)
            if spec.distinct:
                host_loader.check_held_out(data.held_out)
        if new and not self.begun.finished:
            self._compile(host_loader.empty_batch(train_source, spec, jax.process_count()))
        if step:
            logging.info("going on from step %d of %s", step, self._workdir)
        self.log = opening.open_log(
            config,
            self._workdir,
            step,
            keep_eval=self.begun.evaluated,
            expected=self.begun.records,
        )
        if self._first:
            predictions.drop_other(self._predictions, self.log.last("eval").get("step"))
        self.evaluate = evaluating.Evaluator(
            compiled,
            eval_batches,
            self.watch,
            eval_key,
            config=config,
            known=self._known,
            monitor=self._monitor(data.labelled, spec, loader),
        )
        self.judge = evaluating.Judge(
            config,
            self.evaluate,
            data.held_out,
            validation,
            log=self.log,
            checkpoints=self.checkpoints,
            abstract_state=compiled.abstract_state,
            finish=lambda state: self._end(state, every_clip),
        )
        self.batches = loader().train_batches(train_source, spec, step, *place)
        self.window = window.Window(
            compiled.abstract_state.model, spec, fields.heard_s(config), self.begun.sums
        )

    def _monitor(self, labelled, spec, loader):
        """Of the labelled clips beside pre-training; None where there are none."""
        if labelled is None:
            return None
        spec = dataclasses.replace(spec, distinct=False, multi_label=False)
        place = jax.process_index(), jax.process_count()
        batches = lambda source, report: loader().eval_batches(source, spec, report, *place)
        return monitor.Monitor(self.config, self.compiled, labelled, batches)

    def _compile(self, rows):
        """The training step, before it is called: XLA compiles it, or reads what it has compiled
        before, without Python, which imports TensorFlow in that time. rows: this process's."""
        size, place = self.config.data.batch_size, self.compiled.batch_sharding
        batch = {
            name: jax.ShapeDtypeStruct((size, *part.shape[1:]), part.dtype, sharding=place)
            for name, part in rows.items()
        }
        lowered = self.compiled.train_step.lower(self.begun.state, batch, self.step_key)
        with concurrent.futures.ThreadPoolExecutor(1, "import") as pool:
            pool.submit(host_loader.pick, self.config.data.loader)
            lowered.compile()

    def _end(self, state, every_clip):
        """The state of a run that ends with this one; None where SIGTERM came on the way."""
        if self.config.task == "finetune" and self.config.classifier.refit:
            return initial.refit_head(self.config, self.compiled, state, every_clip, self.watch.due)
        return state

    def again(self, eval_source) -> dict[str, Any]:
        """The last evaluation of a finished run: as logged, or where that is lost made again."""
        if logged := distributed.on_first(lambda: self.log.last("eval")):
            return logged
        step = self.begun.step
        held_out = None if self.watch.due() else self.evaluate(self.begun.state, eval_source)
        if held_out is None:
            raise self.watch.preempted(step)
        self.write(step, held_out)
        return held_out.record

    def write(self, step: int, held_out: evaluating.Evaluation) -> None:
        """Logs an evaluation of the held-out clips, with what was said of each."""
        held_out.record.update(self._heard)
        told = diagnostics.best_so_far(self.log.all("eval"), step, held_out.record)
        held_out.record.update(told)
        for problem in diagnostics.overtrained(held_out.record):
            self.log.warn(problem)
        self.log.write(step, "eval", held_out.record)
        if held_out.found is not None and self._first:
            predictions.save(self._predictions, *held_out.found)

    def save(self, judged: evaluating.Judged) -> None:
        """Starts saving a state that was evaluated."""
        end: dict[str, Any] = {"records": self.log.digest()}
        if judged.due.last:
            end["finished"] = True
        if judged.best_step is not None:
            end["best_step"] = judged.best_step
        if judged.thresholds is not None:
            end["thresholds"] = judged.thresholds
        self.checkpoints.save(judged.state, self._meta | end, judged.rank)

    def save_in_haste(self, state) -> None:
        """Saves a state on SIGTERM, not evaluated, with the sums of the open window."""
        left = {
            "preempted": {"window": metrics.to_json(self.window.sums)},
            "records": self.log.digest(unevaluated=int(state.step)),
        }
        self.checkpoints.save(state, self._meta | left, saved_files.UNRANKED)
        self.checkpoints.wait()

    def record(self, state, step: int) -> None:
        """Closes the window that ends with `step` and logs it."""
        record = diagnostics.readable(self.window.close(step - self.log.step))
        record["learning_rate"] = float(self.compiled.schedule(step - 1))
        self.log.write(step, "train", record)
        _check_health(self.config, state, record, step, self.log)

    def close(self) -> None:
        """Closes what is open, whatever has happened."""
        self.watch.close()
        for part in (self.batches, self.log, self.checkpoints):
            if part is not None:
                part.close()

    @property
    def _predictions(self):
        return self._workdir / "predictions.npz"


def _check_health(config, state, record, step, log):
    """Warns of collapse and of skipped steps; stops when nothing is finite any more."""
    skipped = int(state.skipped)
    if skipped >= config.train.max_nonfinite_steps:
        raise UserError(
            f"loss or gradients have not been finite for {skipped} steps (now step {step}); the "
            f"parameters are those before it: lower --config.optimizer.learning_rate, "
            f"or look for broken audio, and start in another --workdir"
        )
    guess = diagnostics.guess_of(config)
    if guess is not None:
        for problem in diagnostics.watched(guess, record, step / config.train.num_steps):
            log.warn(problem)
