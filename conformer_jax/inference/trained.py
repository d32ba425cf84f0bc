"""Finds what was trained, wherever it lies, and checks that it is whole."""

import dataclasses
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conformer_jax import fields
from conformer_jax.errors import UserError
from conformer_jax.evaluation.probe import Neighbours
from conformer_jax.inference import bundle, hub
from conformer_jax.models.classifier import Classifier
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.training import digest, encoder_file, model_file, probe_file

# What pools an encoder that has no head: what did best of a probe (docs/results.md).
_WITHOUT_HEAD = {"pooling": "statistics", "layers": "all", "crop_s": 0.0, "crops": 0}
_VECTORS = ("mean", "scale", "known", "labels")


class Trained(NamedTuple):
    """meta: as model_file describes it; tensors: float32 by name."""

    meta: dict
    tensors: dict


def find(origin) -> Trained:
    """Reads what `conformer_jax.load` is given.

    Raises:
      UserError: there is nothing, or it is damaged.
    """
    name = str(origin)
    if name.startswith(hub.PREFIX):
        folder = hub.fetch(name)
        if not bundle.is_one(folder):
            raise UserError(f"{name} is no bundle: `python -m conformer_jax.bundle` writes them")
        return _of_bundle(folder)
    path = pathlib.Path(name)
    if name.startswith(encoder_file.PREFIX) or name.endswith(encoder_file.SUFFIX):
        return _of_file(_named(name))
    if not path.exists():
        raise UserError(
            f"there is no {name}: give the workdir of a run, a bundle, a .safetensors file, "
            f"'pretrained:tiny' or 'hf:owner/name'"
        )
    if not path.is_dir():
        raise UserError(f"{name} is neither a folder nor a .safetensors file")
    if bundle.is_one(path):
        return _of_bundle(path)
    return _of_workdir(path)


def _of_bundle(path):
    bundle.check(path)
    return Trained(*model_file.load(path / model_file.NAME, shapes_of))


def _named(name):
    """The file, with words that fit where no config is."""
    try:
        return encoder_file.find(name)
    except UserError as error:
        raise UserError(str(error).replace("config.init_from = ", "")) from error


def _of_file(path) -> Trained:
    if model_file.is_one(path):
        return Trained(*model_file.load(path, shapes_of))
    meta, tree = encoder_file.load(path)
    described = model_file.describe(
        fields.with_defaults(meta["config"]),
        (),
        kind="encoder",
        step=meta["step"],
        versions=meta.get("versions", {}),
    )
    return _checked(path, described, digest.flat({"encoder": tree}))


def _of_workdir(path) -> Trained:
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes())
        task = config["task"]
    except FileNotFoundError:
        raise UserError(f"{path} is no workdir of a run and no bundle: no config.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if task == "mlp_probe":
        raise UserError(
            f"{path} judges an encoder and keeps no model: for one to use, train a linear probe "
            f"(--config=configs/finetune.py:probe)"
        )
    if task in ("linear_probe", "knn"):
        if not (path / model_file.NAME).exists():
            raise UserError(f"{path} is a probe that has not saved itself: run its command again")
        return Trained(*model_file.load(path / model_file.NAME, shapes_of))
    from conformer_jax.training import checkpoint  # Orbax, which nothing else here needs

    saved, meta = checkpoint.read_model(path)
    has_head = "head" in saved
    kept = {name: saved[name] for name in ("encoder", "head", "query") if name in saved}
    described = model_file.describe(
        fields.with_defaults(meta["config"]),
        meta["label_names"] if has_head else (),
        kind="classifier" if has_head else "encoder",
        step=meta["step"],
        versions=meta["versions"],
        thresholds=meta.get("thresholds"),
    )
    return _checked(path, described, digest.flat(jax.device_get(kept)))


def _checked(path, meta, tensors):
    tensors = {name: np.asarray(array, np.float32) for name, array in tensors.items()}
    found = {name: array.shape for name, array in tensors.items()}
    if found != (wanted := shapes_of(meta, found)):
        odd = sorted(n for n in found.keys() | wanted if found.get(n) != wanted.get(n))
        raise UserError(f"{path} is damaged (parameters do not fit its config: {odd[0]})")
    return Trained(meta, tensors)


def make_classifier(meta: dict) -> Classifier:
    """The model of a file's metadata; its head has one class where there is none.

    Raises:
      UserError: a field is unknown, missing or out of range.
    """
    config = _tuples(fields.with_defaults(meta["config"]))
    try:
        fields.check(config)
        classifier = _WITHOUT_HEAD if meta["kind"] == "encoder" else config["classifier"]
        spec = EncoderSpec(**config["conformer"])
        if jax.default_backend() == "cpu":  # where bfloat16 is slow, and rounds for nothing
            spec = dataclasses.replace(spec, dtype="float32")
        model = Classifier(
            FeatureSpec(**config["features"]),
            dataclasses.replace(spec, remat="none"),
            max(len(meta["label_names"]), 1),
            pooling=classifier["pooling"],
            layers=classifier["layers"],
            crop_frames=round(classifier["crop_s"] / config["features"]["hop_s"]),
            crops=classifier["crops"],
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"the model's config does not fit this version: {error}") from error
    if len(model.features.mean) != model.features.num_mels:
        raise UserError("the model has no feature statistics: it was saved without them")
    return model


def shapes_of(meta: dict, found: dict) -> dict[str, tuple[int, ...]]:
    """Which tensors a file with this metadata must hold; of how many clips, kNN says itself.

    Raises:
      UserError: the config does not fit, or no memory should hold that many clips.
    """
    model = make_classifier(meta)
    samples = model.features.sample_rate // 2
    audio = jax.ShapeDtypeStruct((1, samples), jnp.float32)
    count = jax.ShapeDtypeStruct((1,), jnp.int32)

    def init(audio, count):
        return model.init(jax.random.key(0), audio, count, train=False)["params"]

    shapes = {n: tuple(x.shape) for n, x in digest.flat(jax.eval_shape(init, audio, count)).items()}
    if meta["kind"] == "classifier":
        return shapes
    width = shapes["head/kernel"][0]
    wanted = {name: shape for name, shape in shapes.items() if not name.startswith("head/")}
    if meta["kind"] == "knn":
        clips = (found.get("neighbours/known") or (0,))[0]
        if not clips or clips * width * 4 > probe_file.LARGEST_KNN:
            raise UserError(f"a model of {clips} neighbours: too many, or none")
        of_clips = ((width,), (width,), (clips, width), (clips, len(meta["label_names"])))
        wanted |= {f"neighbours/{n}": x for n, x in zip(_VECTORS, of_clips, strict=True)}
    return wanted


def neighbours(trained: Trained) -> Neighbours | None:
    """Those of a kNN model."""
    if trained.meta["kind"] != "knn":
        return None
    config = fields.with_defaults(trained.meta["config"])
    return Neighbours(
        *(trained.tensors[f"neighbours/{name}"] for name in _VECTORS),
        config["probe"]["neighbors"],
        config["probe"]["temperature"],
        config["classifier"]["multi_label"],
    )


def tree(tensors: dict) -> dict:
    """The parameters as Flax takes them, without neighbours."""
    nested = {}
    for name, array in tensors.items():
        *folders, last = name.split("/")
        if folders[0] == "neighbours":
            continue
        node = nested
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return nested


def _tuples(content):
    """Lists of JSON as the tuples that a config has."""
    if isinstance(content, dict):
        return {name: _tuples(value) for name, value in content.items()}
    return tuple(content) if isinstance(content, list) else content
