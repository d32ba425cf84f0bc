"""A sound to look at and to listen to: spectrogram, labels over time, a cursor that runs along."""

from typing import NamedTuple

from conformer_jax.reporting import media
from conformer_jax.reporting.markup import Markup, details, join, percent, tag

COLOURS = 6  # c0 to c5 of the style sheet
_LANES = 12  # labels drawn of one sound; the rest are in the list
_BARS = 1500  # events drawn of one sound
_LISTED = 300  # events in the list of one sound
_FLAC_S = 20  # longer sounds are made smaller
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_TICKS = 5


class Event(NamedTuple):
    """A label from start to end, in s of the recording; probability: the highest inside."""

    start: float
    end: float
    label: str
    probability: float


class Clip(NamedTuple):
    """What a player shows.

    name: of the recording; title, detail: shown above, or ''; start, end: s of the recording;
    events: those inside; picture, sound: data URIs, or None; low, high: of the picture's
    frequencies, in words.
    """

    name: str
    title: str
    start: float
    end: float
    events: tuple[Event, ...] = ()
    picture: str | None = None
    sound: str | None = None
    low: str = ""
    high: str = ""
    detail: str = ""


def with_sound(clip: Clip, spec, audio, *, small: bool = False) -> Clip:
    """The clip with picture and sound.

    Args:
      clip: Clip.
      spec: FeatureSpec of the picture.
      audio: float32 [n] at its sample rate.
      small: whether even a short sound may lose a little to be small.
    """
    small |= len(audio) > _FLAC_S * spec.sample_rate
    encode = media.small_sound if small else media.flac
    low, high = (f"{f / 1000:g} kHz" if f >= 1000 else f"{f:g} Hz" for f in (spec.fmin, spec.fmax))
    return clip._replace(
        picture=media.spectrogram(spec, audio),
        sound=encode(audio, spec.sample_rate),
        low=low,
        high=high,
    )


def figure(clip: Clip, order=()) -> Markup:
    """The player.

    Args:
      clip: Clip.
      order: labels in the order of their colours; others follow.
    """
    labels = _labels(clip.events, order)
    drawn = labels[:_LANES]
    play = clip.sound is not None
    length = max(clip.end - clip.start, 1e-3)
    what = f"{clip.name}, {clock(clip.start)} to {clock(clip.end)}"
    shown = max(clip.events, key=lambda e: e.probability, default=None)
    if not play:  # nothing to seek in
        role = {"role": "img", "aria_label": f"Labels over time of {what}"}
    else:
        role = {
            "role": "slider", "tabindex": "0", "aria_label": f"Place in {what}",
            "aria_valuemin": "0", "aria_valuemax": f"{length:.2f}", "aria_valuenow": "0",
            "aria_valuetext": clock(clip.start),
        }  # fmt: skip
    area = tag(
        "div",
        _picture(clip),
        *(_lane(clip, label, _colour(label, labels, order), length) for label in drawn),
        _ticks(clip.start, clip.end),
        tag("i", class_="playhead") if play else None,
        class_="area",
        **role,
    )
    left = len(labels) - len(drawn)
    return tag(
        "figure",
        tag("figcaption", clip.title, _detail(clip), class_="title") if clip.title else None,
        tag("div", _side(clip, drawn), area, class_="timeline" if drawn else "timeline bare"),
        tag("p", f"{left} more labels are in the list only.", class_="left-out") if left else None,
        tag("audio", controls="", preload="metadata", src=clip.sound, aria_label=what)
        if play
        else None,
        tag("p", class_="reading", aria_hidden="true") if play and shown else None,
        _listed(clip, play),
        class_="player",
        data_start=f"{clip.start:.3f}",
        data_length=f"{length:.3f}",
    )


def clock(seconds: float) -> str:
    """1:02:03.5 of 3723.5."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"


def _labels(events, order):
    """Those that occur, the one heard longest first; those in `order` as there."""
    length = {}
    for event in events:
        length[event.label] = length.get(event.label, 0) + event.end - event.start
    known = {label: i for i, label in enumerate(order)}
    return sorted(length, key=lambda label: (known.get(label, len(known)), -length[label]))


def _colour(label, labels, order):
    where = order.index(label) if label in order else labels.index(label)
    return f"c{where % COLOURS}"


def _detail(clip):
    return tag("span", clip.detail, class_="unit") if clip.detail else None


def _picture(clip):
    if clip.picture is None:
        return None
    return tag("img", src=clip.picture, alt="", class_="sound-picture", draggable="false")


def _side(clip, labels):
    frequencies = None
    if clip.picture is not None:
        frequencies = tag("div", tag("span", clip.high), tag("span", clip.low), class_="hertz")
    names = (tag("div", label, class_="name", title=label) for label in labels)
    return tag("div", frequencies, *names, class_="side", aria_hidden="true")


def _lane(clip, label, colour, length):
    bars = []
    for event in [e for e in clip.events[:_BARS] if e.label == label]:
        first, last = max(event.start, clip.start), min(event.end, clip.end)
        bars.append(
            tag(
                "i",
                class_="event",
                style=f"left:{100 * (first - clip.start) / length:.3f}%;"
                f"width:{100 * (last - first) / length:.3f}%;"
                f"opacity:{0.35 + 0.65 * min(max(event.probability, 0), 1):.2f}",
                data_said=f"{label} {percent(event.probability)}",
                data_from=f"{event.start:.3f}",
                data_to=f"{event.end:.3f}",
            )
        )
    return tag("div", *bars, class_=f"lane {colour}")


def _ticks(start, end):
    step = next((s for s in _STEPS if (end - start) / s <= _TICKS), 86400)
    length = max(end - start, 1e-3)
    count = int((end - start) / step + 1e-6)
    marks = []
    for i in range(count + 1):
        share = i * step / length
        side = "first" if i == 0 else "last" if share > 0.94 else "inner"
        if side == "inner" and not 0.3 < share < 0.7:
            side = "inner crowded"  # on a phone it would touch its neighbour
        style, said = f"left:{100 * share:.3f}%", clock(start + i * step)
        if step >= 1 and start == int(start):
            said = said[:-2]
        marks.append(tag("span", said, style=style, class_=side))
    return tag("div", *marks, class_="ticks", aria_hidden="true")


def _listed(clip, play):
    if not clip.events:
        return None
    entries = []
    for event in clip.events[:_LISTED]:
        when = f"{clock(event.start)} to {clock(event.end)}"
        if play:
            at = f"{max(event.start - clip.start, 0):.3f}"
            when = tag("button", when, type="button", data_at=at)
        entries.append(tag("li", when, tag("span", f"{event.label} {percent(event.probability)}")))
    left = len(clip.events) - _LISTED
    more = tag("p", f"{left} more are not listed.", class_="left-out") if left > 0 else None
    count = len(clip.events)
    listed = join(tag("ol", *entries, class_="events"), more)
    return details(f"{count} event" + ("" if count == 1 else "s"), listed)
