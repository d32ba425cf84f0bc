"""For MTEB's audio tasks (MAEB): an encoder as its protocol wants it, numpy in and out.

import mteb
from conformer_jax.wrappers.mteb import Encoder

mteb.evaluate(Encoder("pretrained:tiny"), mteb.get_tasks(["ESC50"]))
"""

import numpy as np

from conformer_jax.inference import model as models


class Encoder:
    """A model for `mteb.evaluate`.

    Args:
      origin: what `conformer_jax.load` takes.
    """

    def __init__(self, origin="pretrained:tiny"):
        self._model, self._name = models.load(origin), str(origin)

    @property
    def mteb_model_meta(self):
        """What the results are filed under."""
        from mteb.models import ModelMeta

        name = self._name.strip("/").replace(":", "-").split("/")[-1]
        return ModelMeta.create_empty(
            overwrites={
                "name": f"conformer_jax/{name}",
                "revision": self._model.digest,
                "modalities": ["audio"],
                "embed_dim": self._model.width,
            }
        )

    # What else it is handed, such as batch_size, changes no vector.
    def encode(self, inputs, *, task_metadata=None, hf_split="", hf_subset="", prompt_type=None,
               **_):  # fmt: skip
        """Batches of {'audio': [{'array', 'sampling_rate'}, ...]} -> float32 [n, E]."""
        vectors = []
        for batch in inputs:
            for clip in batch["audio"]:
                samples = np.asarray(clip["array"])
                vectors.append(self._model.embed(samples.T, int(clip["sampling_rate"])).clip)
        return np.stack(vectors)

    def similarity(self, first, second) -> np.ndarray:
        """Cosine of all pairs: [n, E], [m, E] -> [n, m]."""
        return _unit(first) @ _unit(second).T

    def similarity_pairwise(self, first, second) -> np.ndarray:
        """Cosine of each pair: [n, E], [n, E] -> [n]."""
        return (_unit(first) * _unit(second)).sum(-1)


def _unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
