"""What is exported: a function from audio to probabilities and embeddings, features inside.

audio        float32 [B, N], -1 to 1, at the model's rate
num_samples  int32 [B], how many of a row are sound; the rest is ignored
->
probabilities  float32 [B, C], of a model with labels
embeddings     float32 [B, E]
"""

import dataclasses
import importlib
import importlib.metadata
from typing import NamedTuple

import jax
import jax.numpy as jnp

from conformer_jax import fields
from conformer_jax.errors import UserError
from conformer_jax.inference import trained
from conformer_jax.models.classifier import Classifier

INPUTS = ("audio", "num_samples")
OUTPUTS = ("probabilities", "embeddings")
_EXTRAS = {  # of a package: the line that installs it
    "onnx": "pip install 'conformer_jax[export]'",
    "onnxruntime": "pip install 'conformer_jax[export]'",
    "tensorflow": "pip install tensorflow-cpu",
}


class Portable(NamedTuple):
    """A model about to leave.

    classifier: in float32; params: its tree, numpy; tensors: the same by flat names; label_names
    [C], () of an encoder; multi_label: sigmoid, or softmax; window_s: s that it was trained on;
    outputs: names of what comes out.
    """

    classifier: Classifier
    params: dict
    tensors: dict
    label_names: tuple[str, ...]
    multi_label: bool
    window_s: float
    outputs: tuple[str, ...]

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.classifier.features.sample_rate

    @property
    def crop_s(self) -> float:
        """s, of each of the crops that a window is the mean of; 0: it is heard whole."""
        frames = self.classifier.crop_frames if self.classifier.crops else 0
        return frames * self.classifier.features.hop_length / self.sample_rate

    def __call__(self, audio, num_samples) -> dict:
        """The function above, in JAX."""
        has_head = "probabilities" in self.outputs
        found = self.classifier.apply(
            {"params": self.params}, audio, num_samples, head=has_head, method="outputs"
        )
        answer = {"embeddings": found["embedding"]}
        if has_head:
            squash = jax.nn.sigmoid if self.multi_label else jax.nn.softmax
            answer["probabilities"] = squash(found["logits"].astype(jnp.float32))
        return {name: answer[name] for name in self.outputs}

    def described(self) -> dict:
        """What a user of the file has to know; JSON."""
        crops = {"crops": self.classifier.crops, "crop_s": self.crop_s} if self.crop_s else {}
        return {
            "label_names": list(self.label_names),
            "sample_rate": self.sample_rate,
            "window_s": self.window_s,
            **crops,
            "multi_label": self.multi_label,
            "outputs": list(self.outputs),
            "conformer_jax": _version(),
        }


def take(origin, outputs=OUTPUTS) -> Portable:
    """A model, from what `conformer_jax.load` takes.

    Args:
      origin: where it is.
      outputs: those wanted; of an encoder without labels the default is its embeddings alone.

    Raises:
      UserError: there is none, it is damaged, its labels come from neighbours, or it has none and
        probabilities alone are wanted.
    """
    found = trained.find(origin)
    if found.meta["kind"] == "knn":
        raise UserError(
            f"{origin} asks the nearest neighbours, which are not exported: train a linear probe "
            f"(--config=configs/finetune.py:probe) and export that"
        )
    names = tuple(found.meta["label_names"])
    if not names and "embeddings" not in outputs:
        raise UserError(
            f"{origin} has no labels to tag with: it is an encoder; probe or fine-tune it first "
            f"(--config=configs/finetune.py:probe), or export its embeddings"
        )
    classifier = trained.make_classifier(found.meta)
    spec = dataclasses.replace(classifier.encoder_spec, dtype="float32")
    config = fields.with_defaults(found.meta["config"])
    return Portable(
        classifier.clone(encoder_spec=spec),
        trained.tree(found.tensors),
        found.tensors,
        names,
        bool(config["classifier"]["multi_label"]),
        float(config["data"]["clip_s"]),
        tuple(name for name in outputs if names or name == "embeddings"),
    )


def need(package: str):
    """The imported package.

    Raises:
      UserError: it is not installed; with the line that does it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"this export needs the package {package}, which is not installed: {_EXTRAS[package]}"
        ) from None


def _version() -> str:
    try:
        return importlib.metadata.version("conformer_jax")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
        return "not installed"
