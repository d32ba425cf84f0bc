"""Labelled clips beside pre-training: what its encoder is worth for their labels as it goes.

A falling loss does not say so: 3000 steps of wav2vec 2.0 on three hours had a better one than 1000,
and a worse probe (docs/results.md). No label reaches the training.
"""

import contextlib
import dataclasses

import jax
import numpy as np

from conformer_jax.data import host_loader
from conformer_jax.data.sources import BadAudioReport, open_labelled
from conformer_jax.evaluation import cross_fit, probe
from conformer_jax.models.classifier import Classifier
from conformer_jax.models.conformer import EncoderSpec
from conformer_jax.models.features import FeatureSpec
from conformer_jax.training import sharding

MOST_CLIPS = 2000  # evenly spread where there are more: they are embedded at every evaluation


class Monitor:
    """Tells the clips of config.monitor by their neighbours, all processes together.

    To probe.embed_readable it is a program whose state is an encoder's parameters.

    Args:
      config: of the run.
      compiled: its Program.
      workdir: gets the list of what cannot be read.
    """

    def __init__(self, config, compiled, workdir):
        self._config, self._compiled = config, compiled
        self._source = open_labelled(
            config.monitor.manifest, config.monitor.folds, config.features.sample_rate, MOST_CLIPS
        )
        host = jax.process_index()
        name = "bad_audio_monitor.csv" if host == 0 else f"bad_audio_monitor_process_{host}.csv"
        self._report = BadAudioReport(workdir / name, config.data.max_bad_share)
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
        cut_short = False

        def batches():
            nonlocal cut_short
            with contextlib.closing(self._batches()) as every:
                for batch in every:
                    if cut_short := stopped():
                        return
                    yield batch

        encoder = state.eval_params["encoder"]
        found = probe.embed_readable(self, encoder, batches(), len(self._source))
        return None if cut_short else self._figures(found)

    def _batches(self):
        spec = dataclasses.replace(
            host_loader.loader_spec(self._config), distinct=False, multi_label=False
        )
        loader = host_loader.pick(self._config.data.loader)
        place = self._report, jax.process_index(), jax.process_count()
        return loader.eval_batches(self._source, spec, *place)

    def _figures(self, found):
        here = np.flatnonzero(found["valid"]) if found else ()
        if not len(here):
            return {}
        x, source, ask = found["embedding"][here], self._source, self._config.monitor
        labels = np.array([source.labels(int(i))[0] for i in here])
        files = source.wholes()[here]
        width = self._config.conformer.width  # of the last of the layers that lie side by side
        last = np.concatenate([half[:, -width:] for half in np.split(x, 2, axis=1)], axis=1)
        accuracy, of_last = (
            cross_fit.neighbors_accuracy(
                part, labels, files, neighbors=ask.neighbors, temperature=ask.temperature
            )
            for part in (x, last)
        )
        return {
            "neighbors_accuracy": accuracy,
            "neighbors_accuracy_last": of_last,
            "neighbors_chance": float(np.bincount(labels).max() / len(labels)),
        }
