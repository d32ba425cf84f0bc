"""Pages of what a model heard: recordings with labels over time, windows like a query."""

from typing import NamedTuple

from conformer_jax.errors import UserError
from conformer_jax.reporting import document, player
from conformer_jax.reporting.document import Section
from conformer_jax.reporting.markup import Markup, join, tag
from conformer_jax.reporting.player import Clip, clock

SOUND_S = 900.0  # of all sound that a page of recordings takes: about 10 MB
_SHORTEST_S = 20.0  # of a recording's share of it
_AROUND_S, _LONGEST_S = 1.0, 30.0  # of a stretch around an event
RECORDINGS = 100  # on one page
_SMALL_S = 20.0  # longer recordings are made smaller

_KEYS = (
    " In a player that has the focus, the arrow keys move and the space bar plays; a click or a "
    "tap on the picture goes there."
)


def shares(durations) -> list[float]:
    """Seconds of sound that a page takes of each recording: all, or as much as is fair."""
    left, found = SOUND_S, []
    if sum(durations) <= SOUND_S:
        return list(durations)
    share = max(SOUND_S / len(durations), _SHORTEST_S)
    for duration in durations:
        found.append(max(min(duration, share, left), 0.0))
        left -= found[-1]
    return found


def stretches(events, duration: float, most_s: float) -> list[tuple[float, float]]:
    """What to hear of a recording that is too long for a page.

    The surest event of every label, then the second of every label, and so on, each with a second
    around it, as far as they fit into `most_s`; the beginning, where there is none.

    Args:
      events: of Event.
      duration: s.
      most_s: s.

    Returns:
      (start, end) in s, in order of time.
    """
    if duration <= most_s:
        return [(0.0, duration)]
    if most_s < 1:
        return []
    ranks, queue = {}, []
    for event in sorted(events, key=lambda e: -e.probability):
        rank = ranks[event.label] = ranks.get(event.label, -1) + 1
        queue.append((rank, -event.probability, event))
    kept = []
    for _, _, event in sorted(queue, key=lambda entry: entry[:2]):
        first = max(event.start - _AROUND_S, 0)
        last = min(event.end + _AROUND_S, first + min(_LONGEST_S, most_s), duration)
        together = _joined([*kept, (first, last)])
        seconds = sum(b - a for a, b in together)
        if seconds > most_s:
            continue
        kept = together
        if most_s - seconds < 1:  # full
            break
    return kept or [(0.0, min(most_s, _LONGEST_S))]


def _joined(spans):
    found = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


class Recording(NamedTuple):
    """overview: of all of it; parts: with sound; reason: why there are none, or ''."""

    overview: Clip
    parts: list[Clip]
    reason: str


def recording(name, events, duration: float, seconds: float, spec, read) -> Recording:
    """A recording as the page shows it.

    Args:
      name: of the file.
      events: of Event.
      duration: s.
      seconds: of its sound that there is room for.
      spec: FeatureSpec of the pictures.
      read: of (start, end) in s, the samples; a UserError where they cannot be had.
    """
    overview = Clip(name, "", 0.0, duration, tuple(events))
    parts = []
    spans = stretches(events, duration, seconds)
    for start, end in spans:
        here = tuple(e for e in events if e.start < end and e.end > start)
        title = "" if end - start >= duration else f"{clock(start)} to {clock(end)}"
        try:
            audio = read(start, end)
        except UserError as error:
            return Recording(overview, [], str(error))
        clip, small = Clip(name, title, start, end, here), duration > _SMALL_S
        parts.append(player.with_sound(clip, spec, audio, small=small))
    return Recording(overview, parts, "")


def recordings(title: str, heard, left_out: int = 0) -> str:
    """The page of `predict`.

    Args:
      title: the heading.
      heard: of Recording.
      left_out: how many more recordings there were.
    """
    order = _most_heard(overview.events for overview, _, _ in heard)
    sections = [_recording(*one, order) for one in heard]
    about = document.made() + _KEYS
    if left_out:
        about += f" {left_out} more recordings are not on this page: --format=csv has all."
    return document.render(title, about, sections, ("page", "player"))


def _most_heard(all_events):
    """Labels, the one with most events first: it has the same colour wherever it occurs."""
    count = {}
    for events in all_events:
        for event in events:
            count[event.label] = count.get(event.label, 0) + 1
    return sorted(count, key=lambda label: -count[label])


def _recording(overview: Clip, parts, reason, order) -> Section:
    duration = overview.end
    if len(parts) == 1 and parts[0].start == 0 and parts[0].end >= duration - 1e-3:
        return Section(overview.name, join(_none(overview), player.figure(parts[0], order)))
    if reason:
        said = f"It cannot be played: {reason}."
    elif parts:
        seconds = sum(part.end - part.start for part in parts)
        said = (
            f"Of {clock(duration)} this page holds {clock(seconds)} of sound: the surest events of "
            f"every label."
        )
    else:
        said = "This page is full: the recording's sound is not on it."
    figures = [player.figure(part, order) for part in parts]
    return Section(
        overview.name, join(_none(overview), player.figure(overview, order), _said(said), *figures)
    )


def _none(overview):
    return None if overview.events else _said("Nothing above the threshold.")


def _said(text) -> Markup:
    return tag("p", text, class_="left-out")


def matches(title: str, heading: str, query: Clip | None, found, notes=()) -> str:
    """The page of `search`.

    Args:
      title: the heading.
      heading: of the windows.
      query: what was searched for, or None.
      found: (Clip, reason or '') of each window, nearest first; the reason: why it is silent.
      notes: sentences on what is left out.
    """
    items = []
    for clip, reason in found:
        said = _said(f"It cannot be played: {reason}.") if reason else None
        items.append(tag("li", player.figure(clip), said))
    nearest = join(*map(_said, notes), tag("ol", *items, class_="matches"))
    sections = [Section("Query", player.figure(query))] if query else []
    sections.append(Section(heading, nearest))
    return document.render(title, document.made() + _KEYS, sections, ("page", "player"))
