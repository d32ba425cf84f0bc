"""An encoder as one small file: bfloat16 safetensors, with its config and feature statistics.

`config.init_from` takes such a file wherever it takes the workdir of a run, and `pretrained:tiny`
for the one that comes with the package (assets/tiny.md is its model card).
"""

import importlib.resources
import json
import pathlib

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from conformer_jax.errors import UserError

PREFIX = "pretrained:"
SUFFIX = ".safetensors"
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


def save(path, encoder, meta: dict) -> None:
    """Writes an encoder, rounded to bfloat16.

    Args:
      path: of the file.
      encoder: tree of arrays, `params["encoder"]`.
      meta: of the checkpoint that it comes from: its config and versions; the config is kept
        without paths and training fields.
    """
    config = {section: meta["config"][section] for section in _SECTIONS}
    kept = {
        "config": {**config, "target": meta["config"]["target"]},
        "step": meta["step"],
        "versions": meta["versions"],
    }
    tensors = {name: np.asarray(x).astype(ml_dtypes.bfloat16) for name, x in _flat(encoder)}
    safetensors.numpy.save_file(tensors, path, metadata={"conformer_jax": json.dumps(kept)})


def load(path) -> tuple[dict, dict]:
    """Reads what `save` has written.

    Returns:
      meta (config, step, versions); the encoder's tree, float32.

    Raises:
      UserError: the file is not one of these.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            meta = json.loads(file.metadata()["conformer_jax"])
            leaves = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not an encoder of conformer_jax: {error}") from error
    tree = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return meta, tree


def _flat(tree, prefix=""):
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _flat(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node
