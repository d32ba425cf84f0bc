"""The folder of a run: whose it is, and the config that it was begun with."""

import json
import logging
import os
import pathlib

from conformer_jax import fields, reading
from conformer_jax.errors import DiskFull, UserError, is_disk_full
from conformer_jax.training import checkpoint, saved_files

PROBE = "probe.json"  # what a finished probe leaves, in place of checkpoints

# What may change between a run and its continuation: nothing that enters the parameters.
_MAY_CHANGE = (
    "checkpoint.",
    "conformer.remat",
    "conformer.scan_blocks",
    "sharding.",
    "compare_with_scratch",
    "data.eval_batch_size",
    "data.loader",
    "data.max_bad_share",
    "data.prefetch",
    "data.refuse_heard",
    "data.workers",
    "monitor.",
    "name",
    "next_command",
    "train.accumulate",
    "train.eval_every",
    "train.log_every",
    "train.max_nonfinite_steps",
)
# But with a validation split: what is evaluated then may be what the run ends with.
_CHOOSES_THE_END = ("checkpoint.every_steps", "train.eval_every")


def claim(workdir, config) -> None:
    """Makes the folder, or checks that its checkpoints are of this config; writes `config.json`.

    Raises:
      UserError: the folder holds another config's run (the fields are named) or the results of
        another task, cannot be written, or is no path.
    """
    check_path(workdir)
    path = pathlib.Path(workdir)
    file = path / "config.json"
    wanted = fields.saved(config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        saved_files.begin_again(path / "checkpoints")
        saved_files.settle_replaced(path / "checkpoints")
        saved = _read(file)
        # A run that failed before its first save has nothing to protect.
        if any((path / "checkpoints").glob("[0-9]*")):
            if saved is None:
                saved = _of_checkpoint(file, wanted)
                write_json(file, saved)
            _compare(saved, wanted, path)
        else:
            _check_task(saved, wanted, path)
            # Of a run that saved nothing; a finished probe is left as it is (frozen.py).
            for stale in () if (path / PROBE).exists() else path.glob("bad_audio*.csv"):
                stale.unlink()
            write_json(file, wanted)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(
                f"no space left on the disk for {file}: free some and run the same command again"
            ) from error
        raise UserError(f"cannot write to --workdir={path}: {error.strerror}") from error


def _read(file):
    """The config in a config.json, None where there is none or it is damaged, which is said."""
    try:
        saved = json.loads(file.read_bytes())
        if not isinstance(saved, dict):
            raise ValueError("no JSON object")
        return saved
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("%s is damaged (%s): written again", file, error)
        return None


def _of_checkpoint(file, wanted):
    """The config in the newest checkpoint, for a config.json that is lost or damaged."""
    meta = checkpoint.read_meta(file.parent)
    if meta is None or "config" not in meta:
        raise UserError(
            f"{file} is lost or damaged, and no checkpoint there can be read: choose another "
            f"--workdir"
        )
    logging.warning("%s was lost or damaged: taken from the newest checkpoint", file)
    config = meta["config"]
    if not wanted["features"]["mean"]:  # measured when the run began
        config["features"].update(mean=[], deviation=[])
    return config


def _check_task(saved, wanted, path):
    """Raises UserError where the finished results of another task would be replaced."""
    task = (saved or {}).get("task")
    finished = (path / "metrics.jsonl").exists() and task in reading.FROZEN
    if finished and task != wanted["task"]:
        raise UserError(
            f"{path} holds the results of another task (task: {task!r} -> {wanted['task']!r}): "
            f"choose another --workdir, or delete it to start again"
        )
    if not finished:
        return
    for field in ("manifest", "tfds_name", "prepared", "mixture"):
        before, now = (config.get("data", {}).get(field) or "" for config in (saved, wanted))
        if field == "mixture":  # a list where it comes from a file
            before, now = list(before), list(now)
        if before != now:
            raise UserError(
                f"{path} holds what was made of other sounds (data.{field}: {before!r} -> "
                f"{now!r}): choose another --workdir, or delete it to start again"
            )


def check_path(workdir) -> None:
    """Raises UserError for a location in a bucket."""
    if "://" in str(workdir):
        raise UserError(
            f"--workdir={workdir}: give a folder; launch/ mounts buckets (docs/launch.md)"
        )


def write_json(path, content) -> None:
    """Replaces a file as a whole, so that a kill leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def differing_fields(saved: dict, wanted: dict, prefix: str = "") -> list[str]:
    """'field: saved -> wanted' of every field that differs, in order."""
    result = []
    for name in sorted(saved.keys() | wanted.keys()):
        old, new = saved.get(name, "absent"), wanted.get(name, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            result += differing_fields(old, new, f"{prefix}{name}.")
        elif old != new:
            result.append(f"{prefix}{name}: {_short(old)} -> {_short(new)}")
    return result


def fixed_fields(config) -> dict:
    """'data.clip_s' and so on -> value, as JSON holds it: what a run may not be continued with
    another value of."""
    found, whole = {}, fields.saved(config)
    sections = [("", whole)]
    for prefix, section in sections:
        for field, value in section.items():
            name = prefix + field
            if isinstance(value, dict):
                sections.append((f"{name}.", value))
            elif reading.is_read(name, whole) and not name.startswith(_MAY_CHANGE):
                found[name] = value
    return found


def _short(value):
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _compare(saved, wanted, path):
    fixed = _CHOOSES_THE_END if wanted["data"]["validation_share"] else ()
    differing = differing_fields(fields.with_defaults(saved), wanted)
    fixed_fields = [
        f
        for f in differing
        if reading.is_read(f.partition(":")[0], wanted)
        and (not f.startswith(_MAY_CHANGE) or f.startswith(fixed))
    ]
    if differing and not fixed_fields:
        file = path / "config.json"
        logging.info("%s now says: %s", file, "; ".join(differing))
        write_json(file, wanted)
    if fixed_fields:
        more = f" and {len(fixed_fields) - 4} more" if len(fixed_fields) > 4 else ""
        raise UserError(
            f"{path} holds a run of another config ({'; '.join(fixed_fields[:4])}{more}): "
            f"choose another --workdir, or delete it to start again"
        )
