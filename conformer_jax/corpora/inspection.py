"""What is in a corpus: of a manifest or a prepared folder, all clips heard once."""

import collections
import concurrent.futures
import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from conformer_jax.corpora import any_sound, hearing, places
from conformer_jax.data import packed, prepared
from conformer_jax.data.audio import BadAudio, DataError, audio_length, read_audio

LONGEST_S = 60.0  # of a longer recording the middle is heard
UNLABELLED = "without a label"
_COMPARED = 10_000  # clips compared with each other; of more an even choice


class Listed(NamedTuple):
    """A clip before it is heard. source: the recording it is from, '' where that is not known;
    read: function -> (float32 [n], rate); raises BadAudio."""

    id: str
    labels: tuple[str, ...]
    split: str
    fold: str
    source: str
    read: object


class Survey(NamedTuple):
    """clips: Listed that could be heard; heard: hearing.Heard of each; bad: (id, reason); copies
    and near: pairs of numbers of clips with equal audio, or alike (near with the cosine);
    compared: how many clips were searched for the latter."""

    clips: list
    heard: list
    bad: list
    copies: list
    near: list
    compared: int


def listed(path) -> list[Listed]:
    """The clips of a manifest (a file) or of a prepared corpus (a folder); raises DataError."""
    if os.path.isdir(path) and os.path.exists(os.path.join(path, "manifest.csv")):
        path = os.path.join(path, "manifest.csv")
    return _of_prepared(path) if os.path.isdir(path) else _of_manifest(path)


def survey(clips: list[Listed], progress=None) -> Survey:
    """Hears all clips. progress: wraps the iterator, such as tqdm; None for nothing."""
    heard, kept, bad = [], [], []
    # Traces take most of the memory: there are none of clips that are not compared.
    chosen = np.linspace(0, len(clips) - 1, min(len(clips), _COMPARED)).round().astype(int)
    traced = np.zeros(len(clips), bool)
    traced[chosen] = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(_hear, clips, traced)
        for clip, one in zip(clips, progress(found) if progress else found, strict=True):
            if isinstance(one, str):
                bad.append((clip.id, one))
            else:
                kept.append(clip)
                heard.append(one)
    if not kept:
        raise DataError(f"none of {len(bad)} clips can be read, such as {bad[0][0]}: {bad[0][1]}")
    copies = _copies(heard)
    chosen = [i for i, one in enumerate(heard) if one.trace is not None]
    same = set(copies)
    pairs = hearing.alike([heard[i].trace for i in chosen])
    near = [(chosen[i], chosen[j], cosine) for i, j, cosine in pairs]
    near = sorted((pair for pair in near if pair[:2] not in same), key=lambda pair: -pair[2])
    return Survey(kept, heard, bad, copies, near, len(chosen))


def leaks(found: Survey) -> dict[str, list]:
    """Pairs of clips on two sides of a split, of splits or of folds, by what they share."""
    by_source = collections.defaultdict(list)
    for i, clip in enumerate(found.clips):
        if clip.source:
            by_source[clip.source].append(i)
    of_source = []
    for members in by_source.values():
        # One pair for each other side: not all pairs of a long recording.
        sides = {}
        for i in members:
            sides.setdefault((found.clips[i].split, found.clips[i].fold), i)
        first, *others = sides.values()
        of_source += [(first, i) for i in others]
    return {
        "same recording": of_source,
        "equal audio": [pair for pair in found.copies if _apart(found, *pair)],
        "alike": [pair[:2] for pair in found.near if _apart(found, *pair[:2])],
    }


def describe(found: Survey) -> str:
    """The figures in words."""
    clips, heard = found.clips, found.heard
    seconds = np.array([h.seconds for h in heard])
    lines = [
        _row("clips", f"{len(clips)}, {seconds.sum() / 3600:.2f} h"),
        _row("length", f"{_spread(seconds)} s"),
    ]
    for what, name in (("split", "splits"), ("fold", "folds")):
        counts = collections.Counter(getattr(clip, what) for clip in clips if getattr(clip, what))
        if counts:
            lines.append(_row(name, ", ".join(f"{k} {n}" for k, n in sorted(counts.items()))))
    rates = collections.Counter(h.rate for h in heard).most_common()
    lines.append(_row("sample rates", ", ".join(f"{rate} Hz {n}" for rate, n in rates[:6])))
    lines.append(_row("loudness", f"{_spread([h.loudness_db for h in heard])} dB of full scale"))
    silent = [clips[i].id for i, h in enumerate(heard) if h.silent >= 0.9]
    clipped = [clips[i].id for i, h in enumerate(heard) if h.clipped > 1e-3]
    lines.append(_row("nearly silent", _some(silent)))
    lines.append(_row("clipped", _some(clipped)))
    lines += _classes(clips)
    lines.append(_row("equal audio", _pairs(found, found.copies)))
    what = f" (of {found.compared} clips compared, those of a second and more)"
    lines.append(_row("alike", _pairs(found, [pair[:2] for pair in found.near]) + what))
    for shared, pairs in leaks(found).items():
        if pairs:
            lines.append(_row("ACROSS SPLITS", f"{shared}: {_pairs(found, pairs)}"))
    if found.bad:
        lines.append(_row("unreadable", _some([f"{id_} ({why})" for id_, why in found.bad])))
    return "\n".join(lines)


def class_rows(found: Survey) -> list[list]:
    """(name, clips, hours, median loudness in dB) of each class; the commonest first."""
    by_class = collections.defaultdict(list)
    for clip, one in zip(found.clips, found.heard, strict=True):
        for label in clip.labels or (UNLABELLED,):
            by_class[label].append(one)
    rows = [
        [
            name,
            len(members),
            sum(h.seconds for h in members) / 3600,
            float(np.median([h.loudness_db for h in members])),
        ]
        for name, members in by_class.items()
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _classes(clips):
    counts = collections.Counter(label for clip in clips for label in clip.labels)
    if not counts:
        yield _row("classes", "none: the clips have no labels")
        return
    (most, many), *_ = counts.most_common(1)
    least, few = min(counts.items(), key=lambda item: (item[1], item[0]))
    several = sum(len(clip.labels) > 1 for clip in clips)
    yield _row("classes", f"{len(counts)}; most: {most} {many}, fewest: {least} {few}")
    if several:
        yield _row("several labels", f"{several} clips")
    if without := sum(not clip.labels for clip in clips):
        yield _row("without a label", f"{without} clips")


def _hear(clip, traced):
    try:
        return hearing.hear(*clip.read(), traced=bool(traced))
    except BadAudio as e:
        return str(e)


def _of_manifest(path):
    clips = list(any_sound.of_manifest(path))
    has_splits = len({clip.split for clip in clips}) > 1
    return [
        Listed(
            clip.id,
            clip.labels,
            clip.split if has_splits else "",
            clip.fold,
            clip.source,
            functools.partial(_read_file, clip.place[1], places.part(clip.place)),
        )
        for clip in clips
    ]


def _of_prepared(path):
    opened = prepared.open_folder(pathlib.Path(path))
    names, clips = opened.summary["classes"], []
    for split, index in opened.index.items():
        count = len(index.content)
        source = prepared.PreparedSource(opened, {split: np.arange(count)}, 0, names)
        for i in range(count):
            recording = packed.text_of(index.sources, index.source_starts, i)
            clips.append(
                Listed(
                    source.example_id(i),
                    tuple(names[c] for c in source.labels(i)),
                    split,
                    str(index.folds[index.fold[i]]),
                    recording,
                    functools.partial(source.read_stored, i, LONGEST_S),
                )
            )
    return clips


def _read_file(path, part):
    _, rate = audio_length(path)
    return read_audio(path, rate, round(LONGEST_S * rate), None, part=part), rate


def _copies(heard):
    first, copies = {}, []
    for i, one in enumerate(heard):
        j = first.setdefault(one.audio, i)
        if j != i:
            copies.append((j, i))
    return copies


def _apart(found, i, j):
    a, b = found.clips[i], found.clips[j]
    return (a.split, a.fold) != (b.split, b.fold)


def _row(name, text):
    return f"{name:<16} {text}"


def _spread(values):
    low, middle, high = np.percentile(values, (5, 50, 95))
    return f"{middle:.3g} (5 % below {low:.3g}, 5 % above {high:.3g})"


def _some(names):
    if not names:
        return "none"
    return f"{len(names)}: {', '.join(names[:3])}" + (", ..." if len(names) > 3 else "")


def _pairs(found, pairs):
    return _some([f"{found.clips[i].id} = {found.clips[j].id}" for i, j in pairs])
