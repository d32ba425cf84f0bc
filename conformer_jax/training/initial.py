"""Where a run begins: its own checkpoint, another run's encoder, or scratch."""

import logging
from typing import Any, NamedTuple

import jax

from conformer_jax.evaluation import probe
from conformer_jax.steps import metrics, pretrain
from conformer_jax.training import checkpoint, codebook


class Start(NamedTuple):
    """The state to go on from, and how the process before had left it."""

    state: Any
    restored: bool  # from the workdir's own checkpoint
    finished: bool  # that checkpoint is the run's end
    fresh: bool  # its step is not evaluated yet: it was saved in haste, on SIGTERM
    sums: Any  # of the training metrics of the window that was open then, or None
    records: str | None = None  # progress.Log.digest of that time

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    @property
    def evaluated(self) -> bool:
        """Whether the step's evaluation, where the log has one, is this run's."""
        return self.restored and not self.fresh


def start(
    config, compiled, checkpoints: checkpoint.Checkpoints, every_clip, some_clips, key
) -> Start:
    """Restores the newest checkpoint, or makes the first state.

    Args:
      config: of the run.
      compiled: its Program.
      checkpoints: of its workdir.
      every_clip: () -> batches of all training clips and their number, for a head that starts as
        a linear probe.
      some_clips: () -> batches of a sample of them and its number, for a codebook from clusters.
      key: of the parameters from scratch.

    Raises:
      UserError: a checkpoint that cannot be read, or is of another architecture.
    """
    state, meta = checkpoints.restore(compiled.abstract_state)
    if state is None:
        state = _from_scratch(config, compiled, every_clip, some_clips, key)
        return Start(state, restored=False, finished=False, fresh=False, sums=None)
    left = meta.get("preempted")
    # Checkpoints of before `finished` was written say it by what they are.
    ended = "best_step" in meta or int(state.step) >= config.train.num_steps
    return Start(
        state,
        restored=True,
        finished=left is None and meta.get("finished", ended),
        # Where nothing is done nothing is evaluated, as in a run that was not stopped.
        fresh=left is not None and int(state.step) > 0,
        sums=metrics.from_json(left["window"]) if left else None,
        records=meta.get("records"),
    )


def encoder_of(config, state):
    """The state with the encoder of config.init_from, as it is where that is ''.

    Raises:
      UserError: config.init_from cannot be read, or is of another architecture.
    """
    if not config.init_from:
        return state
    params, from_step = checkpoint.load_encoder(config.init_from, state.params)
    logging.info("encoder taken from %s: step %d of its last run", config.init_from, from_step)
    return state.with_params(params)


def refit_head(config, compiled, state, every_clip, stop):
    """The state that a run ends with where config.classifier.refit: its averaged parameters, and
    for a head the linear probe of what they make of every training clip.

    While an encoder learns its embeddings move and their deviations change, and a head that is
    trained beside them in small steps, on clips that are cut and mixed, is worth less than one that
    is fitted to what they have become (docs/results.md).

    stop: () -> whether to stop, asked on the way; then there is none, but None.
    """
    state = state.with_params(state.eval_params)
    logging.info("fitting the head anew")
    return _probed(config, compiled, state, every_clip, stop)


def _probed(config, compiled, state, every_clip, stop=None):
    known = probe.embed(compiled, state, *every_clip(), stop)
    if known is None or (stop is not None and stop()):
        return None
    several = config.classifier.multi_label
    return probe.start_head(state, known, config.probe, multi_label=several)


def run_keys(config) -> jax.Array:
    """Keys of a run: of its first parameters, of its steps, of its evaluations."""
    return jax.random.split(jax.random.key(config.seed), 3)


def _from_scratch(config, compiled, every_clip, some_clips, key):
    state = encoder_of(config, compiled.init(key))
    if config.task == "finetune" and config.classifier.init == "probe":
        state = _probed(config, compiled, state, every_clip)
        logging.info("head started from a linear probe of the frozen encoder")
    if _has_codebook(config) and config.quantizer.init == "clusters":
        state = codebook.from_clips(config, state, some_clips)
    return state


def _has_codebook(config):
    return pretrain.tells(config, "tokens") and config.target == "gumbel"
