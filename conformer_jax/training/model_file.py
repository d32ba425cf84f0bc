"""A trained model as one file: safetensors, with all that is needed to use it in their metadata.

What `conformer_jax.load` reads and a probe or a bundle is saved as. Tensors are float32, named as
in the tree ('encoder/block_0/...'); the metadata is the JSON below and a sha256 of both.

  format       int        FORMAT; a reader refuses a newer one
  kind         str        'classifier', 'knn' or 'encoder'
  config       dict       sections features, conformer, classifier, probe, and data.clip_s
  label_names  [C str]    in the order of the head; [] of an encoder
  thresholds   [C] | None probability from which a label counts
  step         int        training steps of the encoder's run, or of the model's
  versions     dict       of packages
"""

import hashlib
import json
import os
import pathlib
import struct

import numpy as np
import safetensors
import safetensors.numpy

from conformer_jax.errors import UserError

FORMAT = 1
NAME = "model.safetensors"  # in a workdir or a bundle
KINDS = ("classifier", "knn", "encoder")
_KEY, _DIGEST = "conformer_jax_model", "sha256"  # of the metadata
_FIELDS = {
    "format": int,
    "kind": str,
    "config": dict,
    "label_names": list,
    "thresholds": (list, type(None)),
    "step": int,
    "versions": dict,
}
_LONGEST_HEADER = 32 << 20  # bytes: more is no header of ours, and would be allocated
_SECTIONS = ("features", "conformer", "classifier", "probe")


def describe(
    config: dict, label_names, *, kind: str, step: int, versions: dict, thresholds=None
) -> dict:
    """The metadata of a file, from a run's config (a dict)."""
    kept = {section: config[section] for section in _SECTIONS if section in config}
    if "data" in config:
        kept["data"] = {"clip_s": config["data"]["clip_s"]}
    return {
        "format": FORMAT,
        "kind": kind,
        "config": kept,
        "label_names": list(label_names),
        "thresholds": thresholds,
        "step": step,
        "versions": versions,
    }


def save(path, meta: dict, tensors: dict) -> None:
    """Writes the file at once: a reader finds the one before, or this one, never a part.

    Args:
      path: of the file.
      meta: from `describe`.
      tensors: float32 arrays by name.

    Raises:
      UserError: a number is not finite.
    """
    tensors = {
        name: np.ascontiguousarray(np.asarray(tensors[name], np.float32)) for name in tensors
    }
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path} is not written: {name} holds numbers that are not finite")
    text = json.dumps(meta)
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    metadata = {_KEY: text, _DIGEST: _sha256(text, tensors)}
    try:
        safetensors.numpy.save_file(tensors, temporary, metadata=metadata)
    except safetensors.SafetensorError as error:  # its only word for a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error}") from error
    os.umask(mask := os.umask(0))  # there is no way to ask for it
    os.chmod(temporary, 0o666 & ~mask)  # safetensors lets nobody else read it
    os.replace(temporary, path)


def is_one(path) -> bool:
    """Whether the file says that it is of this kind; nothing else is checked."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def read_meta(path) -> dict:
    """The metadata alone.

    Raises:
      UserError: it is no such file, of a newer format, or damaged.
    """
    _check_header(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return _meta(path, file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def load(path, shapes_of) -> tuple[dict, dict]:
    """Reads a file; nothing is allocated for tensors of other shapes than those expected.

    Args:
      path: of the file.
      shapes_of: (meta, {name: shape found}) -> {name: shape that must be there}.

    Returns:
      meta; float32 arrays by name.

    Raises:
      UserError: it is no such file, of a newer format, or damaged; names and shapes are strict.
    """
    meta = read_meta(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            for name, part in slices.items():
                if part.get_dtype() != "F32":
                    raise _damaged(path, f"{name} is {part.get_dtype()}, not F32")
            found = {name: tuple(part.get_shape()) for name, part in slices.items()}
            _check_names(path, found, shapes_of(meta, found))
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if metadata.get(_DIGEST) != _sha256(metadata[_KEY], tensors):
        raise _damaged(path, "its sha256 differs")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise _damaged(path, f"{name} holds numbers that are not finite")
    return meta, tensors


def _check_header(path):
    """The length of the header comes first, and what it says would be allocated."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror or error}") from error
    if len(start) < 8 or struct.unpack("<Q", start)[0] > _LONGEST_HEADER:
        raise UserError(f"{path} is no model of conformer_jax: it is no safetensors file")


def _meta(path, metadata):
    if _KEY not in metadata:
        raise UserError(f"{path} is no model of conformer_jax: its metadata lacks {_KEY!r}")
    try:
        meta = json.loads(metadata[_KEY])
    except ValueError as error:
        raise _damaged(path, f"metadata: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise _damaged(path, "its metadata has no format")
    if meta["format"] > FORMAT:
        raise UserError(
            f"{path} has format {meta['format']}, this version reads up to {FORMAT}: install a "
            f"newer conformer_jax"
        )
    if metadata.keys() != {_KEY, _DIGEST} or meta.keys() != _FIELDS.keys():
        odd = sorted((metadata.keys() ^ {_KEY, _DIGEST}) | (meta.keys() ^ _FIELDS.keys()))
        raise _damaged(path, f"missing or unknown in its metadata: {', '.join(odd)}")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(meta[name], kind)]
    wrong += ["kind"] * (meta["kind"] not in KINDS)
    labels, thresholds = meta["label_names"], meta["thresholds"]
    wrong += ["label_names"] * (not all(isinstance(name, str) for name in labels or ()))
    if isinstance(thresholds, list):
        fine = all(isinstance(x, int | float) and 0 <= x <= 1 for x in thresholds)
        wrong += ["thresholds"] * (not fine or len(thresholds) != len(labels))
    if wrong:
        raise _damaged(path, f"not as it must be: {wrong[0]}")
    return meta


def _check_names(path, found, wanted):
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(n for n in found.keys() & wanted if found[n] != wanted[n]),
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in problems.items() if names
    ]
    if told:
        raise _damaged(path, f"tensors: {'; '.join(told)}")


def _damaged(path, reason):
    return UserError(f"{path} is damaged ({reason}): fetch or write it again")


def _sha256(text, tensors):
    """Over the metadata and every tensor's name, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(f"\n{name} {tensors[name].shape}\n".encode())
        found.update(np.ascontiguousarray(tensors[name]))
    return found.hexdigest()
