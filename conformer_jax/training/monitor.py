"""Labelled clips beside pre-training: what its encoder is worth for their labels as it goes.

A falling loss does not say so: 3000 steps of wav2vec 2.0 on three hours had a better one than 1000,
and a worse probe (docs/results.md). No label reaches the training.
"""

import contextlib
import logging
import sys

import jax
import numpy as np

from conformer_jax.data.audio import BadAudioReport
from conformer_jax.evaluation import cross_fit, probe
from conformer_jax.models.classifier import Classifier
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.training import sharding


class Monitor:
    """Tells the clips of config.monitor by their neighbours, all processes together.

    To probe.embed_readable it is a program whose state is an encoder's parameters.

    Args:
      config: of the run.
      compiled: its Program.
      labelled: data.labelled.Labelled.
      batches_of: source, report -> this process's evaluation batches, a generator.
    """

    def __init__(self, config, compiled, labelled, batches_of):
        self._width = config.conformer.width
        ask = config.monitor
        self._votes = {"neighbors": ask.neighbors, "temperature": ask.temperature}
        self._labelled, self._batches_of = labelled, batches_of
        self._report = _Patient()
        classifier = Classifier(
            FeatureSpec(**config.features),
            EncoderSpec(**config.conformer),
            1,  # a head that is never asked
            pooling="statistics",
            layers="all",
        )
        encoder = jax.tree.map(
            lambda leaf: leaf.sharding, compiled.abstract_state.eval_params["encoder"]
        )
        whole = sharding.replicated(compiled.mesh)

        def embed(params, batch):
            heard = batch["audio"], batch["num_samples"]
            found = classifier.apply({"params": {"encoder": params}}, *heard, method="embed")
            return {"embedding": found, "valid": batch["valid"], "index": batch["index"]}

        place = encoder, compiled.batch_sharding
        self.embed_step = jax.jit(embed, in_shardings=place, out_shardings=whole)
        self.put_batch = compiled.put_batch

    def __call__(self, state, stopped) -> dict[str, float] | None:
        """The record of a state; None where `stopped()`, which all processes ask alike."""
        source, cut_short = self._labelled.source, False

        def batches():
            nonlocal cut_short
            with contextlib.closing(self._batches_of(source, self._report)) as every:
                for batch in every:
                    if cut_short := stopped():
                        return
                    yield batch

        encoder = state.eval_params["encoder"]
        found = probe.embed_readable(self, encoder, batches(), len(source))
        return None if cut_short else self._figures(found)

    def _figures(self, found):
        here = np.flatnonzero(found["valid"]) if found else ()
        if not len(here):
            logging.warning("WARNING none of the labelled clips of config.monitor could be read")
            return {}
        if self._report.num_bad:
            logging.warning(
                "WARNING %d labelled clips of config.monitor could not be read",
                self._report.num_bad,
            )
        x, groups = found["embedding"][here], self._labelled.groups[here]
        labels = np.array([self._labelled.source.labels(int(i))[0] for i in here])
        # Of the layers that lie side by side, in means and deviations.
        last = np.concatenate([half[:, -self._width :] for half in np.split(x, 2, axis=1)], axis=1)
        accuracy, of_last = (
            cross_fit.neighbors_accuracy(part, labels, groups, **self._votes) for part in (x, last)
        )
        return {
            "neighbors_accuracy": accuracy,
            "neighbors_accuracy_last": of_last,
            "neighbors_chance": float(np.bincount(labels).max() / len(labels)),
            "neighbors_clips": float(len(labels)),
        }


class _Patient(BadAudioReport):
    """What cannot be read here stops no pre-training."""

    ENOUGH = sys.maxsize

    def __init__(self):
        super().__init__(None, 1.0)

    def bad(self, example_id, reason, source_size=None):
        super().bad(example_id, reason)
