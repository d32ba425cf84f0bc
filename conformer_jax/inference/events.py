"""From probabilities of overlapping windows to events: what begins and ends when."""

from typing import NamedTuple

import numpy as np


class Rules(NamedTuple):
    """What makes an event of a label.

    thresholds: [C], it has a stretch of at least this probability; release: and goes on while it
    is at least this share of the threshold (hysteresis); min_s: shorter ones are dropped; merge_s:
    ones with at most this between them become one; single: whether only the likeliest label of a
    stretch counts, and none is merged over another.
    """

    thresholds: np.ndarray
    release: float = 0.5
    min_s: float = 0.0
    merge_s: float = 0.0
    single: bool = False


class Event(NamedTuple):
    """start, end: s; label: its number; probability: the highest inside."""

    start: float
    end: float
    label: int
    probability: float


def average(probabilities, start, end) -> tuple[np.ndarray, np.ndarray]:
    """What overlapping windows say together of each stretch of time: the mean of those over it.

    On clips of ESC-50 one after the other this found more, and more of it right, than what the
    window around each stretch says alone.

    Args:
      probabilities: [W, C].
      start, end: [W] s, in order, of windows that cover the sound.

    Returns:
      probabilities [K, C] float32; bounds [K + 1] s of the stretches.
    """
    bounds = np.unique(np.concatenate([start, end]))
    middle = (bounds[1:] + bounds[:-1]) / 2
    first, last = np.searchsorted(end, middle), np.searchsorted(start, middle)
    sums = np.cumsum(np.concatenate([np.zeros_like(probabilities[:1]), probabilities]), 0, float)
    return ((sums[last] - sums[first]) / (last - first)[:, None]).astype(np.float32), bounds


def find(probabilities, bounds, rules: Rules) -> list[Event]:
    """Events of all labels, in order of time.

    Args:
      probabilities, bounds: [K, C] and [K + 1] from `average`.
      rules: Rules.
    """
    p = np.asarray(probabilities)
    if rules.single:
        best = p.argmax(1)[:, None] == np.arange(p.shape[1])
        p = np.where(best, p, -1.0)
    found, taken = [], np.zeros(len(p) + 1, int)  # stretches with an event, counted up
    of_label = [_runs(p[:, c], t, t * rules.release) for c, t in enumerate(rules.thresholds)]
    for first, last in (run for runs in of_label for run in runs) if rules.single else ():
        if bounds[last] - bounds[first] >= rules.min_s - 1e-9:  # a dropped one is no obstacle
            taken[first + 1 : last + 1] = 1
    taken = np.cumsum(taken)
    for label, runs in enumerate(of_label):
        found += [
            Event(bounds[first], bounds[last], label, float(p[first:last, label].max()))
            for first, last in _merged(runs, bounds, rules.merge_s, taken)
            if bounds[last] - bounds[first] >= rules.min_s - 1e-9
        ]
    return sorted(found)


def likeliest(probabilities, bounds, count: int) -> list[Event]:
    """The `count` likeliest labels of every stretch, likeliest first."""
    p = np.asarray(probabilities)
    order = np.argsort(-p, axis=1, kind="stable")[:, :count]
    return [
        Event(bounds[w], bounds[w + 1], int(label), float(p[w, label]))
        for w in range(len(p))
        for label in order[w]
    ]


def _runs(p, threshold, release) -> list[tuple[int, int]]:
    """Runs [first, last) of stretches of at least `release` that reach `threshold`."""
    on = np.concatenate([[False], p >= release, [False]])
    change = np.flatnonzero(on[1:] != on[:-1])
    pairs = zip(change[::2], change[1::2], strict=True)
    return [(a, b) for a, b in pairs if p[a:b].max() >= threshold]


def _merged(runs, bounds, gap_s, taken):
    merged = []
    for first, last in runs:
        before = merged[-1][1] if merged else 0
        near = merged and bounds[first] - bounds[before] <= gap_s
        if near and taken[first] == taken[before]:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
