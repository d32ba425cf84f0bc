"""A toy model that all tests of this folder share."""

import copy

import numpy as np
import pytest

from conformer_jax.evaluation import probe
from conformer_jax.inference import trained
from conformer_jax.training import model_file, probe_file

TOY = {
    "features": {"mean": [-4.0] * 64, "deviation": [3.0] * 64},
    "conformer": {
        "feature_dim": 8,
        "width": 8,
        "num_heads": 2,
        "feed_forward_width": 16,
        "kernel_sizes": [3, 3],
    },
    "classifier": {"pooling": "statistics", "layers": "all", "multi_label": False},
    "probe": {"neighbors": 3},
    "data": {"clip_s": 1.0},
}
NAMES = ("b", "a", "Türe")


def toy(kind="classifier", **changes):
    """(meta, tensors) of a toy with random parameters."""
    names = () if kind == "encoder" else NAMES
    meta = model_file.describe(
        copy.deepcopy(TOY), names, kind=kind, step=7, versions=probe_file.versions()
    )
    meta |= changes
    rng = np.random.default_rng(0)
    found = {"neighbours/known": (6, 1)}
    tensors = {
        name: rng.normal(size=shape).astype(np.float32) * 0.3
        for name, shape in trained.shapes_of(meta, found).items()
    }
    if kind == "knn":
        x = rng.normal(size=tensors["neighbours/known"].shape)
        near = probe.find_neighbours(
            x, np.eye(3)[[0, 1, 2] * 2], neighbors=3, temperature=0.07, multi_label=False
        )
        tensors |= {
            f"neighbours/{n}": getattr(near, n) for n in ("mean", "scale", "known", "labels")
        }
    return meta, tensors


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory):
    """A model.safetensors."""
    path = tmp_path_factory.mktemp("toy") / model_file.NAME
    model_file.save(path, *toy())
    return path
