"""Checkpoints by Orbax: asynchronous, self-contained, and read strictly by name.

Each checkpoint holds the items `params`, `training` (step, optimizer, average) and `meta`: the
full config, label names in order, feature statistics inside the config, package versions, and a
digest of every array and of itself (digest.py), which are checked whenever it is read.
"""

import contextlib
import importlib.metadata
import logging
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from conformer_jax.errors import DiskFull, UserError, is_disk_full
from conformer_jax.training import digest, encoder_file, saved_files

_PACKAGES = ("conformer_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
_ITEMS = ("params", "training")  # arrays
_FREE_SPACE_FACTOR = 1.1  # Orbax writes a few files beside the arrays


class _Manager(ocp.CheckpointManager):
    """Leaves SIGTERM to preemption.Watch: Orbax would ask JAX's coordination service itself, by the
    training step, and overwrite the number that `due` of all processes have agreed on."""

    def reached_preemption(self, step):
        del step
        return False


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints/<step>`.

    Args:
      workdir: folder of the run.
      keep_last, keep_best: how many of the newest and of the best are kept.
    """

    def __init__(self, workdir, *, keep_last: int = 2, keep_best: int = 1):
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory} is no folder: move it, or choose another --workdir")
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            best_fn=_metric,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(max(keep_last, 1)),
                    policies.BestN(get_metric_fn=_metric, n=keep_best),
                ]
            ),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        if jax.process_index() == 0:
            saved_files.mend_metrics(self.directory)
        _all_agree(True)  # not before they are mended
        self._manager = _Manager(self.directory, options=options)

    def save(self, state, meta: dict, metric: float) -> None:
        """Starts writing the state in the background.

        A step that is there already is left, unless it was saved because of SIGTERM, before its
        evaluation (meta["preempted"]), and this save is not.

        Args:
          state: TrainState.
          meta: JSON; package versions are added.
          metric: ranks the checkpoint, higher is better.

        Raises:
          UserError: no room, or an earlier save has failed.
        """
        # The save before this one has to end first in any case. What it replaced goes now: were it
        # there when the run is killed, a step that is no longer kept could come back.
        self.wait()
        step, tree = int(state.step), _as_tree(state)
        replaces = step in self._manager.all_steps()
        if replaces:
            with contextlib.suppress(OSError, ValueError):  # damaged: written again
                if "preempted" not in self._meta(step)[0] or "preempted" in meta:
                    return
        self._check_space(tree)
        if replaces:  # kept until this one is whole
            self._move_aside(step, saved_files.replaced(self.directory, step))
        versions = {name: _version(name) for name in _PACKAGES}
        sealed = digest.seal({**meta, "metric": float(metric), "versions": versions}, tree)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(tree["params"]),
                    training=ocp.args.StandardSave(tree["training"]),
                    meta=ocp.args.JsonSave(sealed),
                ),
                metrics={"metric": float(metric)},
            )
        except Exception as error:
            raise self._write_error(step, error) from error

    def restore(self, state, step: int | None = None):
        """Restores the newest checkpoint that can be read, or the one of a step.

        Where one cannot be read the one before is tried; once that works, the unreadable one is
        moved aside with a warning, so that it cannot stand in the way of the next save.

        Args:
          state: TrainState of arrays or shapes with shardings; says what is expected and where.

        Returns:
          (state, meta), or (None, None) where there is no checkpoint.

        Raises:
          UserError: the checkpoint has other parameters than `state`, named; or none is readable.
        """
        saved_files.drop_late_reads()
        reasons = {}
        steps = self._manager.all_steps() if step is None else [step]
        for step in sorted(steps, reverse=True):
            problem = None
            try:
                meta, digests = self._meta(step)
                expected = _as_tree(state)
                saved_files.check_names(
                    self._shapes(step, "params"), expected["params"], self.directory
                )
                tree = self._read(
                    step,
                    params=ocp.args.StandardRestore(expected["params"]),
                    training=ocp.args.StandardRestore(expected["training"]),
                )
            except UserError:
                raise
            except Exception as error:
                problem = _first_line(error)
            # All or none: digests of arrays that lie on several processes need each of them.
            if fine := _all_agree(problem is None):
                problem = digest.problem({name: tree[name] for name in _ITEMS}, digests)
                fine = _all_agree(problem is None)
            if not fine:
                reasons[step] = problem or "another process cannot read it"
                continue
            if digests is None:
                logging.info("the checkpoint of step %d is from before digests: not checked", step)
            for broken in reasons:
                logging.warning(
                    "checkpoint of step %d cannot be read (%s): moved to %s; going on from step %d",
                    broken,
                    reasons[broken],
                    self._set_aside(broken),
                    step,
                )
            return _from_tree(state, tree), meta
        if reasons:
            told = "; ".join(f"step {step}: {reason}" for step, reason in reasons.items())
            raise UserError(
                f"no checkpoint in {self.directory} can be read ({told}): nothing was touched; "
                f"start again with another --workdir"
            )
        return None, None

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._write_error(None, error) from error
        if jax.process_index() == 0:
            saved_files.settle_replaced(self.directory)

    def close(self) -> None:
        """Stops the background threads; call `wait` first to be sure of the last save."""
        with contextlib.suppress(Exception):  # `wait` has said it, or an error that came first
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def _read(self, step, **items):
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _meta(self, step):
        return saved_files.read_meta(self.directory / str(step))

    def _shapes(self, step, item):
        return _metadata(self.directory / str(step) / item)

    def _set_aside(self, step):
        aside = self.directory.parent / f"unreadable_checkpoint_{step}"
        self._move_aside(step, aside)
        return aside

    def _move_aside(self, step, aside):
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
        _all_agree(True)  # not before it is moved
        self._manager.reload()

    def _check_space(self, tree):
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) * _FREE_SPACE_FACTOR
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise DiskFull(
                f"no room for a checkpoint in {self.directory}: {needed / 1e6:.0f} MB needed, "
                f"{free / 1e6:.0f} MB free; {self._resume_hint()}"
            )

    def _write_error(self, step, error):
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # the next process tries again
                saved_files.settle_replaced(self.directory)
            self._manager.reload()
        full = is_disk_full(error)
        reason = "no space left" if full else _first_line(error)
        which = f" of step {step}" if step is not None else ""
        return (DiskFull if full else UserError)(
            f"cannot write the checkpoint{which} to {self.directory}: {reason}; "
            f"{self._resume_hint()}"
        )

    def _resume_hint(self):
        steps = self.steps()
        where = f"goes on from step {steps[-1]}" if steps else "starts from step 0"
        return f"free some space and run the same command again: it {where}"


def read_meta(workdir) -> dict | None:
    """`meta` of the newest readable checkpoint of a run, None where the run has none; or of a file
    that training/encoder_file.py knows."""
    if file := encoder_file.find(workdir):
        return encoder_file.load(file)[0]
    return saved_files.newest_meta(pathlib.Path(workdir) / "checkpoints")


def load_encoder(origin, params):
    """The encoder's parameters of another run's newest readable checkpoint, or of a file.

    Where that run kept an average of its parameters, the average is taken.

    Args:
      origin: config.init_from: the workdir of the other run, or what encoder_file.py knows.
      params: tree with a subtree `encoder` that says which names and shapes are wanted.

    Returns:
      (params with the subtree replaced, step of the checkpoint).

    Raises:
      UserError: no readable checkpoint there, or one of another architecture: every name that
        is missing, left over or of another shape is accounted for.
    """
    saved, meta = read_encoder(origin)
    saved_files.check_names(saved, params["encoder"], origin)
    encoder = jax.tree.map(
        # From the host: several processes cannot move arrays between their devices.
        lambda old, new: jax.device_put(np.asarray(new), getattr(old, "sharding", None)),
        params["encoder"],
        saved,
    )
    return {**params, "encoder": encoder}, meta["step"]


def read_encoder(origin) -> tuple[dict, dict]:
    """The encoder's tree of config.init_from, and its meta with the `step`.

    Raises:
      UserError: there is none that can be read.
    """
    if file := encoder_file.find(origin):
        meta, encoder = encoder_file.load(file)
        return encoder, meta
    saved, meta = read_model(origin)
    return saved.get("encoder", {}), meta


def read_model(workdir) -> tuple[dict, dict]:
    """The parameters of a run's newest readable checkpoint, averaged where the run kept an average,
    and its meta with the `step`.

    Raises:
      UserError: there is none that can be read.
    """
    directory = pathlib.Path(workdir).absolute() / "checkpoints"
    reason = "there is none"
    for step in sorted(saved_files.steps(directory), reverse=True):
        folder = directory / str(step)
        try:
            saved = read_item(folder / "params")
            average = _metadata(folder / "training").get("ema")
            if average is not None:
                saved = read_item(folder / "training")["ema"]
            meta = saved_files.read_meta(folder)[0]
        except Exception as error:
            reason = f"step {step}: {_first_line(error)}"
            logging.warning("checkpoint in %s cannot be read: %s", directory, reason)
            continue
        return saved, {**meta, "step": step}
    raise UserError(
        f"no readable checkpoint in {directory}: {reason}; check the folder (config.init_from, "
        f"where a run starts from it)"
    )


def read_item(folder):
    """The tree of an item (`params`, `training`) of a checkpoint, wherever it was when saved.

    Args:
      folder: `<workdir>/checkpoints/<step>/<item>`.

    Returns:
      nested dicts and lists of arrays on this process's first device.

    Raises:
      UserError: an array is not what was written, or not finite.
      Exception: of many kinds, of Orbax: it cannot be read.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        _metadata(folder),
    )
    tree = ocp.StandardCheckpointer().restore(folder, target)
    _, digests = saved_files.read_meta(folder.parent)
    if problem := digest.problem({folder.name: tree}, digests):
        raise UserError(f"{folder}: {problem}: take another checkpoint")
    return tree


def _metadata(folder):
    return ocp.StandardCheckpointer().metadata(folder).item_metadata.tree


def _all_agree(fine):
    """Whether it is so on every process; all must ask."""
    if jax.process_count() == 1:
        return fine
    return bool(multihost_utils.process_allgather(np.asarray(fine)).all())


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
        return "not installed"


def _metric(metrics):
    return metrics["metric"]


def _as_tree(state):
    training = {
        "step": state.step,
        "opt_state": state.opt_state,
        "ema": state.ema,
        "skipped": state.skipped,
    }
    return {"params": state.params, "training": training}


def _from_tree(state, tree):
    return state.replace(params=tree["params"], **tree["training"])


def _first_line(error):
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
