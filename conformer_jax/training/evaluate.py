"""Evaluation inside a run: what the held-out clips and the validation split say of a state."""

import logging
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.evaluation import embedding_health, predictions, thresholds
from conformer_jax.steps import metrics, pretrain
from conformer_jax.training import decision, diagnostics, distributed, saved_files, selection


class Evaluation(NamedTuple):
    """Of a whole source."""

    record: dict[str, Any]
    found: predictions.Predictions | None  # None of pre-training


class Evaluator:
    """Evaluates states of one run; all its processes together.

    Args:
      compiled: the Program.
      batches_of: source -> this process's evaluation batches, a generator.
      watch: preemption.Watch.
      key: masks, distractors and views of pre-training follow from it.
      config: of the run.
      known: as of `whole_set`.
      monitor: monitor.Monitor, whose figures are added; or None.
    """

    def __init__(self, compiled, batches_of, watch, key, *, config, known=None, monitor=None):
        self._compiled, self._batches_of = compiled, batches_of
        self._watch, self._key = watch, key
        self._config, self._known, self._monitor = config, known, monitor

    def __call__(self, state, source) -> Evaluation | None:
        """Metrics and predictions of the whole source; None where SIGTERM came on the way."""
        found = self._of_source(state, source)
        if found is None or self._monitor is None:
            return found
        told = self._monitor(state, self._watch.due)
        return None if told is None else found._replace(record=found.record | told)

    def _of_source(self, state, source):
        total, outputs = None, []
        batches = self._batches_of(source)
        for batch in batches:
            if self._watch.due():
                batches.close()
                return None
            batch = self._compiled.put_batch(batch)
            result = self._compiled.eval_step(state, batch, self._key)
            pairs, out = result if isinstance(result, tuple) else (result, None)
            total = metrics.add(total, pairs)
            if out is not None:
                outputs.append(jax.device_get(out))
        record = diagnostics.readable(metrics.means(total))
        if not outputs:
            return Evaluation(record, None)
        if self._compiled.whole_set is not None:
            return Evaluation(record | self._of_embeddings(state, outputs), None)
        found = predictions.collect(outputs, source, int(state.step))
        multi_label = self._config.classifier.multi_label
        return Evaluation(record | whole_set(found, multi_label, self._known), found)

    def _of_embeddings(self, state, outputs):
        found = {name: np.concatenate([out[name] for out in outputs]) for name in outputs[0]}
        # One clip that is not finite would reach all others through the head's batch norm.
        finite = np.isfinite(found["pooled"]).all((1, 2))
        found["pooled"] = np.where(finite[:, None, None], found["pooled"], 0)
        found["counts"] = found["counts"] * finite
        found = jax.device_get(self._compiled.whole_set(state, found))
        config = self._config
        return embedding_health.figures(
            found, temperature=config.clip.temperature, batch_size=config.data.batch_size
        )


def whole_set(found, multi_label: bool, known=None) -> dict[str, float]:
    """The figures of Predictions; a UserError where they have none.

    Args:
      found: Predictions.
      multi_label: config.classifier.multi_label.
      known: bool [C], which classes training had; where clips have others, the figures once more
        without these classes and the clips that have no other label, named '<figure>_known'.
    """
    parts = {"": (found.logits, found.labels)}
    if known is not None and found.labels[:, ~known].any():
        rows = found.labels[:, known].any(1) | (found.labels == 0).all(1)
        of_known = found.logits[rows][:, known], found.labels[rows][:, known]
        if of_known[1].any():
            parts["_known"] = of_known
    try:
        return {
            name + end: value
            for end, part in parts.items()
            for name, value in metrics.whole_set(*part, multi_label=multi_label).items()
        }
    except ValueError as error:
        raise UserError(f"evaluation failed: {error}") from error


class Judged(NamedTuple):
    """What an evaluation has led to; of a moment at which none was due, what was there before."""

    due: decision.Due  # which validation may have changed
    state: Any  # at the end of a run with a validation split: of its best step
    held_out: Evaluation | None
    rank: float  # of a checkpoint saved here, higher is better
    best_step: int | None = None
    thresholds: list[float] | None = None  # [C], where several labels may hold


class Judge:
    """Decides what follows from evaluations: which are made, and which parameters a run ends with.

    Args:
      config: of the run.
      evaluate: Evaluator.
      eval_source, validation: Sources; validation None where there is no split.
      log: progress.Log.
      checkpoints: of the run, for the parameters of its best step.
      abstract_state: what they restore to.
      finish: (state) -> the state that a run ends with, of that of its last or best step; None
        where SIGTERM came on the way.
    """

    def __init__(
        self, config, evaluate, eval_source, validation, *, log, checkpoints, abstract_state, finish
    ):
        self._config, self._evaluate, self._log = config, evaluate, log
        self._eval_source, self._validation = eval_source, validation
        self._checkpoints, self._abstract_state = checkpoints, abstract_state
        self._finish = finish

    @property
    def validates(self) -> bool:
        """Whether there is a validation split."""
        return self._validation is not None

    def __call__(self, state, step: int, due: decision.Due) -> Judged | None:
        """Evaluates what is due, and logs it; None where SIGTERM came on the way."""
        if not due.evaluate:
            return Judged(due, state, None, 0.0)
        if self.validates:
            return self._by_validation(state, step, due)
        if due.last:
            state = self._finish(state)
        held_out = state and self._evaluate(state, self._eval_source)
        if held_out is None:
            return None
        return Judged(due, state, held_out, rank(self._config, held_out.record))

    def _by_validation(self, state, step, due):
        validated = self._evaluate(state, self._validation)
        if validated is None:
            return None
        self._log.write(step, "validation", validated.record)
        # Of several processes the first one's records count: it alone is sure to have a log.
        records = distributed.on_first(lambda: self._log.all("validation"))
        metric = selection.judged_by(self._config.classifier.multi_label)
        standing = selection.judge(records, metric, self._config.train.early_stopping)
        due = decision.after_validation(due, standing)
        if not due.last:
            return Judged(due, state, None, standing.rank)
        best, best_step = self._best_state(state, step, selection.ranking(records, metric))
        several = self._config.classifier.multi_label  # with one, the likeliest label counts
        end = self._finish(best)
        if several and end and (step != best_step or end is not best):
            validated = self._evaluate(end, self._validation)
        held_out = end and validated and self._evaluate(end, self._eval_source)
        if held_out is None:
            return None
        held_out.record["best_step"] = best_step
        chosen = _thresholds(validated.found) if several else None
        return Judged(due, end, held_out, standing.rank, best_step, chosen)

    def _best_state(self, state, step, ranking):
        """The state with the parameters of its best step, and that step; where its checkpoint
        cannot be read, of the next best that can."""
        if step == ranking[0]:
            return state, step
        self._checkpoints.wait()
        there = {*self._checkpoints.steps(), step}
        for best_step in [ranking[0], *(s for s in ranking[1:] if s in there)]:
            if step == best_step:  # of this run, in memory
                break
            try:
                best, _ = self._checkpoints.restore(self._abstract_state, best_step)
            except UserError as error:
                logging.warning("WARNING the checkpoint of step %d is lost: %s", best_step, error)
                continue
            logging.info("taking the parameters of step %d, the best on validation", best_step)
            return best.replace(step=state.step), best_step
        logging.warning("WARNING taking step %d instead of %d", step, ranking[0])
        return state, step


def _thresholds(found):
    return thresholds.choose(1 / (1 + np.exp(-found.logits)), found.labels)


def rank(config, record) -> float:
    """What keep-best ranks a checkpoint by, higher is better; saved_files.UNRANKED where the record
    of its evaluation has no such figure, or one that is not finite.

    That is mAP; of pre-training what `losses_of` of its objective names.
    """
    if config.task != "pretrain":
        found = record.get("mAP", math.nan)
    else:
        found = 0.0
        for name, weight in pretrain.losses_of(config).items():
            found -= weight * record.get(name, math.nan)
    return found if math.isfinite(found) else saved_files.UNRANKED
