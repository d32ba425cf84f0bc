"""An encoder as one small file: bfloat16 safetensors, with its config and feature statistics.

`config.init_from` takes such a file wherever it takes the workdir of a run, and `pretrained:tiny`
for one that comes with the package (assets/ has their model cards).
"""

import hashlib
import importlib.resources
import json
import logging
import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from conformer_jax.data.heard import Heard, pack, unpack
from conformer_jax.errors import UserError

PREFIX = "pretrained:"
SUFFIX = ".safetensors"
_KEY, _DIGEST = "conformer_jax", "sha256"  # of the metadata
_HEARD = "heard"  # a tensor that is none of the encoder's
_HEARD_BYTES = 4_000_000  # at most, so that the file of a small encoder stays below 10 MB
_SECTIONS = ("conformer", "features", "masking", "wav2vec2")


def find(name) -> pathlib.Path | None:
    """The file that config.init_from names, None where it names a workdir.

    Raises:
      UserError: no such file; the shipped ones are named.
    """
    name = str(name)
    if name.startswith(PREFIX):
        assets = importlib.resources.files("conformer_jax") / "assets"
        path = pathlib.Path(str(assets / (name.removeprefix(PREFIX) + SUFFIX)))
        if not path.is_file():
            shipped = sorted(p.name.removesuffix(SUFFIX) for p in path.parent.glob(f"*{SUFFIX}"))
            raise UserError(f"config.init_from = {name!r}: there is {', '.join(shipped) or 'none'}")
        return path
    if not name.endswith(SUFFIX):
        return None
    if not pathlib.Path(name).is_file():
        raise UserError(f"config.init_from = {name!r}: there is no such file")
    return pathlib.Path(name)


def save(path, encoder, meta: dict, heard: Heard | None = None) -> None:
    """Writes an encoder, rounded to bfloat16.

    Args:
      path: of the file.
      encoder: tree of arrays, `params["encoder"]`.
      meta: of the checkpoint that it comes from: its config and versions; the config is kept
        without paths and training fields.
      heard: which clips it was trained on; None where that is not known.
    """
    config = {section: meta["config"][section] for section in _SECTIONS}
    kept = {
        "config": {**config, "target": meta["config"]["target"]},
        "step": meta["step"],
        "versions": meta["versions"],
    }
    tensors = {name: np.asarray(x).astype(ml_dtypes.bfloat16) for name, x in _flat(encoder)}
    if heard is not None:
        tensors[_HEARD], bits = pack(heard, _HEARD_BYTES)
        kept["heard"] = {"clips": len(heard.clips), "bits": bits, "whole": heard.whole}
    text = json.dumps(kept)
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    safetensors.numpy.save_file(
        tensors, temporary, metadata={_KEY: text, _DIGEST: _sha256(text, tensors)}
    )
    os.umask(mask := os.umask(0))  # there is no way to ask for it
    os.chmod(temporary, 0o666 & ~mask)  # safetensors lets nobody else read it
    os.replace(temporary, path)


def heard_by(path) -> Heard | None:
    """Which clips the encoder of a file was trained on, None where that is not recorded.

    Raises:
      UserError: as `load`.
    """
    meta, saved = _read(path)
    if _HEARD not in saved:
        return None
    try:
        found = meta["heard"]
        return unpack(saved[_HEARD], found["bits"], whole=bool(found["whole"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): fetch or write it again") from error


def load(path) -> tuple[dict, dict]:
    """Reads what `save` has written.

    Returns:
      meta (config, step, versions, heard where it is recorded: clips, bits, whole); the encoder's
      tree, float32.

    Raises:
      UserError: the file is not one of these, or is damaged.
    """
    meta, saved = _read(path)
    saved.pop(_HEARD, None)
    leaves = {name: array.astype(np.float32) for name, array in saved.items()}
    tree = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return meta, tree


def _read(path):
    """Metadata and tensors, which are as they were written."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(metadata[_KEY])
        fits = isinstance(meta, dict) and isinstance(meta.get("step"), int)
        if not fits or not isinstance(meta.get("config"), dict):
            raise ValueError("its metadata lacks the config or the step")
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not an encoder of conformer_jax: {error}") from error
    _check(path, metadata, saved)
    return meta, saved


def _check(path, metadata, tensors):
    """Raises UserError unless the tensors are what was written, and finite."""
    reason = None
    if metadata.keys() - {_KEY, _DIGEST}:
        reason = f"unknown metadata {sorted(metadata.keys() - {_KEY, _DIGEST})}"
    elif _DIGEST not in metadata:
        logging.info("%s is from before digests: not checked", path)
    elif metadata[_DIGEST] != _sha256(metadata[_KEY], tensors):
        reason = "its digest differs"
    for name, tensor in tensors.items():
        if name == _HEARD and tensor.dtype == np.uint8:
            continue
        if tensor.dtype != ml_dtypes.bfloat16:
            reason = reason or f"{name} is {tensor.dtype}, not bfloat16"
        elif not np.isfinite(tensor.astype(np.float32)).all():
            reason = reason or f"{name} holds numbers that are not finite"
    if reason:
        raise UserError(f"{path} is damaged ({reason}): fetch or write it again")


def _sha256(text, tensors):
    """Over the metadata and every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _flat(tree, prefix=""):
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _flat(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node
