"""Groups of the rows of a manifest, and what is to lie in one fold."""

import bisect
import collections
import itertools
import math

from conformer_jax.data.audio import DataError
from conformer_jax.data.folds import groups_by_pattern, united
from conformer_jax.data.overwriting import OWN, key, old_rows
from conformer_jax.data.tree import identity


def groups_of(group, output, clips, overwrite):
    """The column to write and the group of each clip: its row's, or that of all of its file.

    Args:
      group: a column of `output` or of an added manifest, which says more of its own rows, or a
        regular expression.
      output: the manifest that is replaced, if it is there.
      clips: of the new one.
      overwrite: whether `output` may be something else.

    Raises DataError: the column is empty, the expression is none, or `output` is no manifest.
    """
    if group in OWN:  # no column of the user's
        return "group", groups_by_pattern(group, [clip.sound.name for clip in clips])
    try:
        old = old_rows(output)
    except DataError:
        if not overwrite:
            raise
        old = []
    if not old or group not in old[0][1]:
        old = []
    if not old and not any(clip.group for clip in clips):
        return "group", groups_by_pattern(group, [clip.sound.name for clip in clips])
    of_clip, of_file = {}, {}
    for row, record in old:
        value = (record[group] or "").strip()
        of_clip[row.path, row.start, row.end] = value
        of_file.setdefault(row.path, set()).add(value)
    if not any((*of_clip.values(), *(clip.group for clip in clips))):
        raise DataError(f"--group={group}: the column of that name is empty: fill it in")
    only = {path: values.pop() for path, values in of_file.items() if len(values) == 1}
    keys = [key(output, clip) for clip in clips]
    return group, [
        clip.group or of_clip.get(at) or only.get(at[0]) or None
        for clip, at in zip(clips, keys, strict=True)
    ]


def units_of(output, clips, grouped):
    """A number for what is to lie in one fold: a group, and parts of one file and links to it,
    whatever their groups; but the user may have told parts of a file apart by groups.

    Args:
      output: the manifest to come, which paths of clips are relative to.
      clips: its rows.
      grouped: the group of each, or None.
    """
    parts = [key(output, clip) for clip in clips]
    files = [identity(part[0]) for part in parts]
    groups, free = collections.defaultdict(set), collections.defaultdict(list)
    for part, file, group in zip(parts, files, grouped, strict=True):
        if group:
            groups[part[0]].add(group)
        else:
            free[file].append(_span(part))
    # A part that shares time with one of no group is not told apart; nor is that one, by itself.
    shared = {file: _Spans(free[file]) for file in set(files)}
    whole = [
        None if len(groups[part[0]]) > 1 and not shared[file].meet(*_span(part)) else file
        for part, file in zip(parts, files, strict=True)
    ]
    same = [(file, *part[1:]) for file, part in zip(files, parts, strict=True)]
    return united(grouped, whole, same)


def _span(part):
    _, start, end = part
    return start, math.inf if end is None else end


class _Spans:
    """Spans of time, which others may meet."""

    def __init__(self, spans):
        spans = sorted(spans)
        self._starts = [start for start, _ in spans]
        self._latest = [*itertools.accumulate((end for _, end in spans), max)]  # of those so far

    def meet(self, start, end):
        before = bisect.bisect_left(self._starts, end)  # how many begin before it ends
        return before > 0 and self._latest[before - 1] > start
