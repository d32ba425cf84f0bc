"""Made-up recordings as files, to try the commands with where there are none of one's own."""

import pathlib

import numpy as np
import soundfile

from conformer_jax.data.synthetic import CLASS_NAMES, SyntheticSource, SyntheticSpec

_RATE = 16000  # Hz


def write(folder, *, labels: int = 4, clips: int = 20, seconds: float = 2.0) -> pathlib.Path:
    """Writes labelled clips and an annotated recording, which holds other clips of the same labels.

      <folder>/labelled/<label>/<number>.wav   `clips` of each label
      <folder>/recordings/day.wav, day.txt     one clip of each label, twice, with pauses between;
                                               what sounds when, as a label track of Audacity

    Args:
      folder: made where it is absent; what it holds under these names is replaced.
      labels: how many of the synthetic corpus's.
      clips: of each label.
      seconds: of a clip.

    Returns:
      `folder`.
    """
    folder = pathlib.Path(folder)
    spec = SyntheticSpec(clips * len(CLASS_NAMES), 2 * len(CLASS_NAMES), 1, (15.0, 40.0))
    train, held_out = (
        SyntheticSource(
            spec, split, sample_rate=_RATE, num_samples=round(seconds * _RATE), labelled=True
        )
        for split in ("train", "eval")
    )
    for i in range(len(train)):
        (label,) = train.labels(i)
        if label < labels:
            path = folder / "labelled" / CLASS_NAMES[label] / f"{i:04d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, _clip(train, i), _RATE)
    parts, lines, at = [], [], 0.0
    for i in range(len(held_out)):
        (label,) = held_out.labels(i)
        if label < labels:
            pause = np.zeros(_RATE, np.float32)
            parts += [_clip(held_out, i), pause]
            lines.append(f"{at:.6f}\t{at + seconds:.6f}\t{CLASS_NAMES[label]}\n")
            at += seconds + 1.0
    (folder / "recordings").mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "recordings" / "day.wav", np.concatenate(parts), _RATE)
    (folder / "recordings" / "day.txt").write_text("".join(lines))
    return folder


def _clip(source, i):
    return source.read(i, round(100 * _RATE), None)
