"""A linear probe or its neighbours, saved with the encoder that they were found on."""

import importlib.metadata
import logging
import pathlib

import jax
from jax.experimental import multihost_utils

from conformer_jax.evaluation import probe
from conformer_jax.training import digest, model_file

LARGEST_KNN = 2 << 30  # bytes of the training clips' vectors
_PACKAGES = ("conformer_jax", "jax", "flax", "numpy")


def save(workdir, config, label_names, state, score) -> None:
    """Writes `<workdir>/model.safetensors`, which `conformer_jax.load` takes by the workdir; all
    processes call it.

    Args:
      workdir: folder of the run.
      config: its config, feature statistics filled in.
      label_names: C names.
      state: TrainState that the embeddings came from.
      score: probe.Linear or probe.Neighbours.
    """
    path = pathlib.Path(workdir) / model_file.NAME
    is_knn = isinstance(score, probe.Neighbours)
    params = {name: part for name, part in state.eval_params.items() if name != "head"}
    if jax.process_count() > 1:  # of which each may hold a part
        params = multihost_utils.process_allgather(params, tiled=True)
    if jax.process_index() > 0:
        return
    tensors = digest.flat(jax.device_get(params))
    if is_knn:
        if score.known.nbytes > LARGEST_KNN:
            path.unlink(missing_ok=True)  # of another task
            logging.warning("%s is not written: too many training clips to keep them", path)
            return
        parts = ("mean", "scale", "known", "labels")
        tensors |= {f"neighbours/{name}": getattr(score, name) for name in parts}
    else:
        tensors |= {"head/kernel": score.kernel, "head/bias": score.bias}
    meta = model_file.describe(
        config.to_dict(),
        label_names,
        kind="knn" if is_knn else "classifier",
        step=0,
        versions=versions(),
    )
    model_file.save(path, meta, tensors)


def versions() -> dict[str, str]:
    """Of the packages that a model needs."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
            found[name] = "not installed"
    return found
