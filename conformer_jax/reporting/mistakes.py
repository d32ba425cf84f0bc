"""The worst mistakes, to look at and to listen to."""

import dataclasses

import numpy as np

from conformer_jax.data.sources import BadAudio, open_split, source_spec
from conformer_jax.errors import UserError
from conformer_jax.reporting import media
from conformer_jax.reporting.markup import Markup, join, percent, tag

_SHOWN_LABELS = 3  # of each kind, of a clip with many


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A clip and what was made of it; `said` and `truth` are [(label, probability)]."""

    run: object  # runs.Run
    id: str
    said: list
    truth: list
    badness: float


def worst(run, count: int) -> list[Mistake]:
    """The worst mistakes of a run's predictions, worst first.

    With one label a clip: the highest probability of a wrong class. With several: the largest
    binary cross-entropy of a clip whose highest score is wrong, or which has labels below 0.5.
    """
    logits, labels = run.predictions.logits, run.predictions.labels > 0
    rows, top = np.arange(len(logits)), logits.argmax(1)
    wrong = ~labels[rows, top]
    if _multi_label(run):
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        wrong |= (labels & (chances < 0.5)).any(1)
        badness = np.logaddexp(0, np.where(labels, -logits, logits)).sum(1)
    else:
        chances = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        badness = chances[rows, top]
    order = [i for i in np.argsort(-badness, kind="stable") if wrong[i]][:count]
    return [_mistake(run, i, chances[i], labels[i], float(badness[i])) for i in order]


def _multi_label(run):
    if run.config is not None:
        return bool(run.config.classifier.multi_label)
    return bool((run.predictions.labels.sum(1) != 1).any())


def _mistake(run, i, chances, labels, badness):
    names = run.predictions.label_names
    false = [c for c in np.argsort(-chances) if not labels[c]]
    alarms = [c for c in false if chances[c] >= 0.5] or false[:1]
    missed = [c for c in np.argsort(chances) if labels[c]]
    said, truth = ([(names[c], float(chances[c])) for c in which] for which in (alarms, missed))
    return Mistake(run, run.predictions.ids[i], said, truth, badness)


def gallery(found: list[Mistake]) -> Markup:
    """A card for each mistake: spectrogram, player, what was said and what is true."""
    if not found:
        return tag("p", "No held-out clip was taken for another class.")
    media_of = {}
    for run in {id(m.run): m.run for m in found}.values():
        ids = [m.id for m in found if m.run is run]
        media_of |= {(id(run), name): heard for name, heard in _listen(run, ids).items()}
    heard = [media_of[id(m.run), m.id] for m in found]
    silent = {reason for reason in heard if isinstance(reason, str)}
    note = None
    if len(silent) == 1 and all(isinstance(h, str) for h in heard):
        note = tag("p", f"None of them can be played: {silent.pop()}.", class_="left-out")
        heard = [None] * len(found)
    return join(note, tag("ol", *map(_card, found, heard), class_="mistakes"))


def _card(mistake, heard):
    if heard is None:
        shown = None
    elif isinstance(heard, str):
        shown = tag("p", f"Cannot be played: {heard}.", class_="silent")
    else:
        shown = join(
            tag(
                "div",
                tag(
                    "img",
                    src=heard.picture,
                    alt=f"Log-mel spectrogram of {mistake.id}, {_length(heard.seconds)}",
                ),
                tag("span", heard.high, class_="high"),
                tag("span", heard.low, class_="low"),
                tag("span", f"{_length(heard.seconds)}", class_="end"),
                class_="spectrogram",
            ),
            tag(
                "audio",
                src=heard.sound,
                controls="",
                preload="metadata",
                aria_label=f"Sound of {mistake.id}",
            ),
        )
    return tag(
        "li",
        shown,
        tag(
            "dl",
            tag("div", tag("dt", "heard as"), tag("dd", _labels(mistake.said), class_="wrong")),
            tag("div", tag("dt", "is"), tag("dd", _labels(mistake.truth), class_="right")),
        ),
        tag("p", tag("code", mistake.id), class_="id"),
    )


def _labels(pairs):
    if not pairs:
        return "none of the classes"
    shown = ", ".join(f"{name} ({percent(chance)})" for name, chance in pairs[:_SHOWN_LABELS])
    more = len(pairs) - _SHOWN_LABELS
    return shown + (f" and {more} more" if more > 0 else "")


@dataclasses.dataclass(frozen=True)
class _Heard:
    picture: str  # data URIs
    sound: str
    seconds: float
    low: str
    high: str


def _listen(run, ids) -> dict:
    """The held-out clips as evaluation hears them: id -> _Heard, or the reason why not."""
    if run.config is None:
        return dict.fromkeys(ids, "the run has no readable config.json")
    try:
        spec = source_spec(run.config)
        # Both sides: a manifest that has changed may be split in another way by now.
        sources = open_split(spec, tuple(run.predictions.label_names))
    except (UserError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        return dict.fromkeys(ids, f"the corpus cannot be opened ({_line(error)})")
    rate, wanted, features = spec.sample_rate, set(ids), run.config.features
    num_samples = spec.num_samples
    heard, clips = dict.fromkeys(ids, "the corpus no longer holds it"), {}
    for source in sources:
        for i in range(len(source)):
            if (name := source.example_id(i)) not in wanted:
                continue
            try:
                clips[name] = source.read(i, num_samples, None)
            except (BadAudio, OSError) as error:
                heard[name] = _line(error)
    if not clips:
        return heard
    low, high = (f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz:g} Hz" for hz in
                 (features.fmin, features.fmax))  # fmt: skip
    pictures = media.spectrograms(features, list(clips.values()))
    for (name, audio), picture in zip(clips.items(), pictures, strict=True):
        heard[name] = _Heard(picture, media.flac(audio, rate), len(audio) / rate, low, high)
    return heard


def _line(error):
    """The first line of what an error says, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _length(seconds):
    """As a reader takes it in, however short."""
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
