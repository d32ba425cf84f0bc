"""How well an exported tagger does on clips with labels."""

import numpy as np

from conformer_jax.data import audio as files
from conformer_jax.data import labels, manifest
from conformer_jax.data.sound_file import BadAudio
from conformer_jax.errors import UserError
from conformer_jax.exporting.portable import Portable
from conformer_jax.steps import metrics


class Clips:
    """The labelled clips of a manifest, in memory, as an evaluation hears them: their middle.

    Args:
      model: whose labels they bear.
      path: of the manifest.
      folds: values of its column `fold`; () takes all.

    Attributes:
      bad: of each clip that could not be read, its name and why.

    Raises:
      UserError: no manifest, no clip with labels, or labels that the model does not know.
    """

    def __init__(self, model: Portable, path, folds=()):
        rows = manifest.read_manifest(path)
        rows = [row for row in rows if row.labels and (not folds or row.fold in folds)]
        if not rows:
            raise UserError(f"{path}: no clip with a label{' in these folds' if folds else ''}")
        names = list(model.label_names)
        labels.check_names({name for row in rows for name in row.labels}, names, str(path))
        self.audio, self.labels, self.bad = [], [], []
        samples = round(model.window_s * model.sample_rate)
        for row in rows:
            try:
                clip = files.read_audio(
                    row.path, model.sample_rate, samples, None, part=(row.start, row.end)
                )
            except BadAudio as error:
                self.bad.append(f"{row.name}: {error}")
                continue
            # Files of floats may go beyond full scale.
            self.audio.append(
                np.rint(np.clip(clip, -1, 1) * 32767).astype(np.int16)
            )  # half the memory
            self.labels.append([float(name in row.labels) for name in names])
        if not self.audio:
            raise UserError(f"{path}: no clip could be read, such as {self.bad[0]}")

    def figures(self, run) -> dict[str, float]:
        """Accuracy, mAP and the like of an exported function."""
        probabilities = [
            run(clip[None].astype(np.float32) / 32767, np.int32([len(clip)]))["probabilities"]
            for clip in self.audio
        ]
        scores = np.log(np.maximum(np.concatenate(probabilities), 1e-30))
        return metrics.figures(scores, np.array(self.labels, np.float32))
