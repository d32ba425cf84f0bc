"""What lies in the folder of a checkpoint besides arrays, and whether it is what was written."""

import json
import logging
import math
import shutil
import sys

from conformer_jax.errors import UserError
from conformer_jax.training import digest

UNRANKED = -1e30  # of a checkpoint without an evaluation: worse than any


def steps(directory) -> list[int]:
    """Steps that have a checkpoint in `<workdir>/checkpoints`, in no order."""
    if not directory.is_dir():
        return []
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def replaced(directory, step):
    """Where a checkpoint lies while another of its step is written."""
    return directory.parent / f"replaced_checkpoint_{step}"


def settle_replaced(directory):
    """Ends what a replacement began: the former checkpoint goes where the new one or a later one is
    whole, and comes back where none is. Nothing may be under way."""
    if not directory.is_dir():
        return
    for former in _replaced(directory):
        step = int(former.name.rpartition("_")[2])
        # Orbax gives folders these names when they are whole.
        if any(there >= step for there in steps(directory)):
            shutil.rmtree(former)
        else:
            former.rename(directory / str(step))


def begin_again(directory):
    """Where the user has deleted the checkpoints, no former one of them comes back."""
    if not directory.exists():
        for former in _replaced(directory):
            shutil.rmtree(former)


def _replaced(directory):
    return list(directory.parent.glob("replaced_checkpoint_[0-9]*"))


def read_meta(folder):
    """`meta` of a checkpoint and its digests; OSError or ValueError where it is damaged."""
    file = folder / "meta" / "metadata"
    try:
        meta, digests = digest.unseal(json.loads(file.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(meta.get("config", {}), dict):
        raise ValueError(f"{file}: its config is no JSON object")
    if "versions" not in meta:  # `Checkpoints.save` adds them to whatever it is given
        raise ValueError(f"{file}: it is no checkpoint's description")
    return meta, digests


def newest_meta(directory) -> dict | None:
    """`meta` of the newest checkpoint below `directory` that can be read; None without one."""
    for step in sorted(steps(directory), reverse=True):
        try:
            return read_meta(directory / str(step))[0]
        except (OSError, ValueError):
            continue
    return None


def mend_metrics(directory):
    """Writes the files that Orbax ranks by again where they are not what `meta` says: one that is
    damaged would end every run in this workdir."""
    for step in steps(directory):
        file = directory / str(step) / "metrics" / "metrics"
        try:
            saved = read_meta(file.parent.parent)[0].get("metric")
        except (OSError, ValueError):
            saved = None
        try:
            found = json.loads(file.read_bytes())["metric"]
            fine = math.isfinite(found) and saved in (None, found)
        except (OSError, ValueError, TypeError, KeyError):
            fine = False
        if not fine:
            logging.warning("%s is damaged: written again", file)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"metric": UNRANKED if saved is None else saved}))


def check_names(saved, wanted, directory):
    """Raises UserError unless both trees have the same names and shapes."""
    saved, wanted = digest.flat(saved), digest.flat(wanted)
    problems = {
        "missing": sorted(wanted.keys() - saved.keys()),
        "left over": sorted(saved.keys() - wanted.keys()),
        "other shape": [
            f"{name} {tuple(saved[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(saved.keys() & wanted.keys())
            if tuple(saved[name].shape) != tuple(wanted[name].shape)
        ],
    }
    if any(problems.values()):
        told = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in problems.items()
            if names
        )
        raise UserError(
            f"the checkpoint in {directory} is of another architecture: {told}; make "
            f"config.conformer and config.target the same as in its config.json"
        )


def drop_late_reads() -> None:
    """Keeps off the terminal what TensorStore's threads say of a restore that has failed already.

    Orbax reads all arrays in one event loop, which ends with the first that cannot be read; the
    others then arrive at a closed loop, and each prints a traceback through sys.excepthook.
    """
    if getattr(sys.excepthook, "drops_late_reads", False):
        return
    others = sys.excepthook

    def hook(kind, error, trace):
        if kind is not RuntimeError or str(error) != "Event loop is closed":
            others(kind, error, trace)

    hook.drops_late_reads = True
    sys.excepthook = hook
