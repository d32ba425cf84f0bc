"""The folder of a run: whose it is, and the config that it was begun with."""

import json
import os
import pathlib

from conformer_jax import fields
from conformer_jax.errors import UserError

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
    "data.workers",
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
      UserError: the folder holds another config's run (the fields are named), cannot be
        written, or is no path.
    """
    check_path(workdir)
    path = pathlib.Path(workdir)
    file = path / "config.json"
    wanted = fields.saved(config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A run that failed before its first save has nothing to protect.
        if file.exists() and any((path / "checkpoints").glob("[0-9]*")):
            _compare(json.loads(file.read_text()), wanted, path)
        else:
            for stale in path.glob("bad_audio*.csv"):  # of a run that saved nothing
                stale.unlink()
            file.write_text(json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to --workdir={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): choose another --workdir") from error


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


def _short(value):
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _compare(saved, wanted, path):
    if not isinstance(saved, dict):
        raise ValueError("no object")
    fixed = _CHOOSES_THE_END if wanted["data"]["validation_share"] else ()
    differing = [
        f
        for f in differing_fields(fields.with_defaults(saved), wanted)
        if fields.is_read(f.partition(":")[0], wanted)
        and (not f.startswith(_MAY_CHANGE) or f.startswith(fixed))
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"{path} holds a run of another config ({'; '.join(differing[:4])}{more}): "
            f"choose another --workdir, or delete it to start again"
        )
