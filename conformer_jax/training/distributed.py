"""Several processes as one run: whether there are others, and how to find them."""

import json
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from conformer_jax.errors import DiskFull, UserError

# Seconds. A process that does not answer for so long ends the run of all.
_HEARTBEAT_TIMEOUT = 30
_SHUTDOWN_TIMEOUT = 20

_KINDS = (OSError, DiskFull, UserError)  # of errors, as the other processes are told
_ARGUMENTS = ("coordinator_address", "num_processes", "process_id")


def initialize(coordinator_address=None, num_processes=None, process_id=None) -> None:
    """Joins the other processes of this run, if there are any; before anything else uses JAX.

    With the three arguments they are found at `coordinator_address` (host:port of process 0);
    without, by JAX from the environment of a TPU pod, GKE, Slurm or Open MPI. Where neither says
    that there are others, this process is alone.

    Raises:
      UserError: only some of the arguments were given.
      ConnectionError: the others did not answer.
    """
    given = dict(zip(_ARGUMENTS, (coordinator_address, num_processes, process_id), strict=True))
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(_ARGUMENTS):
        raise UserError(f"{', '.join(missing)} is missing: the three are given together, or none")
    if missing and not several_expected(os.environ):
        return
    try:
        jax.distributed.initialize(
            **{name: value for name, value in given.items() if value is not None},
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        if missing and on_tpu_vm() and "should be defined" in str(error):
            return  # a TPU, but of no cluster that JAX knows
        # Often only too early, and mended by another try: no mistake of the user's.
        raise ConnectionError(
            f"cannot join the other processes: {str(error).strip().splitlines()[0]}; check that "
            f"process 0 runs and that its port is open"
        ) from error


def several_expected(environ) -> bool:
    """Whether the environment says that this process may be one of several."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return (
        any(int(environ.get(name) or 1) > 1 for name in counts)
        or "," in environ.get("TPU_WORKER_HOSTNAMES", "")
        or bool(environ.get("MEGASCALE_COORDINATOR_ADDRESS"))
        # A Cloud TPU VM keeps the names of its neighbours outside the environment.
        or (on_tpu_vm() and environ.get("JAX_PLATFORMS", "tpu").startswith("tpu"))
    )


def on_tpu_vm(root="/") -> bool:
    """Whether this machine has the device files of a Cloud TPU VM."""
    devices = pathlib.Path(root, "dev")
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def on_first(function):
    """Calls `function` on process 0 only and gives its result, as JSON holds it, to all.

    What process 0 raises ends all of them: on the others it is an OSError or DiskFull, where it was
    one, or else a UserError, with the same words.
    """
    if jax.process_count() == 1:
        return function()
    problem, message = None, b""
    if jax.process_index() == 0:
        try:
            message = json.dumps({"result": function()}).encode()
        except Exception as error:
            kinds = (kind.__name__ for kind in _KINDS if isinstance(error, kind))
            kind = next(kinds, UserError.__name__)
            problem, message = error, json.dumps({kind: str(error)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(size, np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    answer = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
    if problem is not None:
        raise problem
    for kind in _KINDS:
        if kind.__name__ in answer:
            raise kind(answer[kind.__name__])
    return answer["result"]


def array_of_first(function, shape) -> np.ndarray:
    """`on_first` of a function that returns float32 of this shape; not as JSON, it may be large."""
    found = []
    on_first(lambda: found.append(function()))
    mine = found[0] if found else np.zeros(shape, np.float32)
    return mine if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(mine)


def same_on_all(function, digest_of, what: str):
    """Calls `function` on every process and gives its result, where all have the same.

    Args:
      function: () -> result.
      digest_of: result -> bytes, at least 8 of them.
      what: for the message: 'processes 0 and 1 see different <what>'.

    Raises:
      UserError: the results differ; or another process's `function` has raised.
      Exception: what this process's `function` has raised.
    """
    if jax.process_count() == 1:
        return function()
    problem, result, words = None, None, np.zeros(3, np.uint32)
    try:
        result = function()
        words[:2], words[2] = np.frombuffer(digest_of(result)[:8], np.uint32), 1
    except Exception as error:
        problem = error
    found = multihost_utils.process_allgather(words)
    if problem is not None:
        raise problem
    if failed := np.flatnonzero(found[:, 2] == 0).tolist():
        raise UserError(f"process {failed[0]} cannot go on: see what it says")
    if differing := np.flatnonzero((found != found[0]).any(1)).tolist():
        raise UserError(
            f"processes 0 and {differing[0]} see different {what}: give all of them the same "
            f"manifest and files"
        )
    return result
