"""Makes a manifest of the audio files below a folder."""

import collections
import concurrent.futures
import contextlib
import csv
import errno
import os
import shlex
from pathlib import Path
from typing import NamedTuple

from conformer_jax.data.annotations import read_beside
from conformer_jax.data.audio import BadAudio, DataError, audio_length
from conformer_jax.data.folds import deal, groups_by_pattern
from conformer_jax.data.labels import slips
from conformer_jax.data.manifest import join_labels, read_manifest, read_records
from conformer_jax.data.tree import ADVICE, find, is_text

_SHOWN = 8  # names in a list of the summary
_CLASSES = 20


class _Sound(NamedTuple):
    """A file that can be read."""

    name: str  # its path below the folder of the manifest
    folders: tuple[str, ...]  # on its way below the folder that was searched
    seconds: float


class _Clip(NamedTuple):
    """A row: a sound or, where `end` is one, a part of it from start to end (s)."""

    sound: _Sound
    labels: tuple[str, ...]
    start: float = 0.0
    end: float | None = None
    fold: str = ""

    @property
    def seconds(self):
        return self.sound.seconds if self.end is None else self.end - self.start


class Annotated(NamedTuple):
    """Labels are those of annotations beside the recordings. form: of annotations.FORMATS;
    column: with the labels of selection tables, '' for a usual one."""

    form: str
    column: str = ""


def write_manifest(
    folder, output=None, folds=0, label_from="parent", group=None, annotated=None, add=None
) -> str:
    """Writes a manifest of the audio below `folder`; returns a summary to print.

    Files whose headers cannot be read go to a second CSV (path, reason) beside `output`; hidden
    files are passed over, links followed (`tree.find`).

    Args:
      folder: to search.
      output: CSV to write (an existing one is replaced as a whole); None for manifest.csv in
        `folder`.
      folds: fill `fold` with 1 to this many (`folds.deal`); 0 leaves it empty.
      label_from: the folder that is a file's label: 'parent', which holds the file, 'top', the
        first below `folder`, '2', the second, and so on, or 'none'.
      group: files of one group come to lie in one fold. A column of the CSV that is replaced, or a
        regular expression for `name`s. It is written as a column, 'group' in the latter case.
      annotated: the rows are the annotated parts of the recordings, those of one in one fold; None:
        whole files.
      add: another manifest, whose rows are listed, too, but for files that are listed already.

    Raises:
      DataError: one fold, no such folder or level, no audio in it, groups without folds or too few,
        or `output` may not be written.
      OSError: it cannot be, because the disk is full or broken; what was there before is kept.
    """
    folder, output, unreadable_list = _check(folder, output, folds, label_from, group)
    found, sounds, unreadable = _listen(folder, output, unreadable_list)
    texts, by_extension = _kinds(unreadable)
    tables, told = 0, []
    if annotated:
        clips, tables, told = _annotated_parts(folder, output, sounds, annotated)
    else:
        clips = [_Clip(s, tuple(filter(None, [_label(s.folders, label_from)]))) for s in sounds]
    if clips and not told:
        told = list(_contents(sounds, [_first(clip) for clip in clips], label_from))
    if add and clips:
        clips += (more := _added(add, output, {clip.sound.name for clip in clips}))
        told += _in_all(clips, len(more), add)
    labels = [_first(clip) for clip in clips]
    columns, rows, dealt, grouped = _table(clips, output, folds, group)
    reasons = [(_spelled(path, output.parent), reason) for path, reason in unreadable]
    if reasons:
        _replace(unreadable_list, ("path", "reason"), reasons)
    else:
        with contextlib.suppress(OSError):  # of an earlier run
            unreadable_list.unlink(missing_ok=True)
    if not rows:
        raise DataError(f"{folder} contains no readable audio{_why(unreadable_list, by_extension)}")
    _replace(output, columns, rows)

    lines = [
        f"Wrote {output}",
        *told,
        *_single(clips),
        *_left_out(folder, found, by_extension, len(texts) - tables, unreadable_list),
        *(_folds(folds, labels, dealt, grouped) if folds else ()),
        *_advice(output, clips, folds, again=bool(add)),
    ]
    return "\n".join(lines)


def _table(clips, output, folds, group):
    """Columns and rows of the manifest; the fold and the group of each."""
    columns, names = ["path", "label", "fold", "duration_s"], [clip.sound.name for clip in clips]
    dealt, grouped = [clip.fold for clip in clips], [None] * len(clips)
    parts = any(clip.end is not None for clip in clips)
    columns += ["start", "end"] if parts else []
    if group and clips:
        column, grouped = _groups(group, output, names)
        columns.append(column)
    if folds and clips:
        together = grouped
        if parts:
            together = [of or name for of, name in zip(grouped, names, strict=True)]
        dealt = deal(names, [_first(clip) for clip in clips], together, folds)
    rows = []
    for clip, fold, of_group in zip(clips, dealt, grouped, strict=True):
        row = [clip.sound.name, join_labels(clip.labels), fold, f"{clip.seconds:.3f}"]
        row += _bounds(clip) if parts else []
        rows.append([*row, of_group or ""][: len(columns)])
    return columns, rows, dealt, grouped


def _kinds(unreadable):
    """Texts among what cannot be read, and how many of the rest there are of each extension."""
    texts = {path for path, _ in unreadable if is_text(path)}
    rest = [path for path, _ in unreadable if path not in texts]
    return texts, collections.Counter(path.suffix.lower() or "no extension" for path in rest)


def _why(unreadable_list, by_extension):
    """Why nothing is listed, as far as it is known."""
    if not unreadable_list.exists():
        return ""
    kinds = ", ".join(f"{n} {kind}" for kind, n in by_extension.most_common(_SHOWN))
    return f"; {f'{kinds}; ' if kinds else ''}what it contains is listed in {unreadable_list}"


def _in_all(clips, added, other):
    classes = sorted({label for clip in clips for label in clip.labels})
    yield f"  added       {added} rows of {other}"
    yield f"  in all      {len(clips)} rows, {len(classes)} classes: {_some(classes)}"


def _bounds(clip):
    return ["", ""] if clip.end is None else [f"{clip.start:.6f}", f"{clip.end:.6f}"]


def _added(other, output, listed):
    """The rows of another manifest as _Clips; paths become relative to `output`."""
    lengths = {line: record.get("duration_s") for line, record in read_records(other)}
    clips = []
    for row, length in zip(read_manifest(other), lengths.values(), strict=True):
        name = Path(os.path.relpath(row.path, output.parent)).as_posix()
        if name in listed:
            continue
        try:
            seconds = float(length)
        except (TypeError, ValueError):
            try:
                frames, rate = audio_length(row.path)
            except BadAudio as e:
                raise DataError(f"{other}: {row.name}: {e}") from None
            seconds = frames / rate
        end = row.end
        if end is None and row.start:
            end = row.start + seconds
        clips.append(_Clip(_Sound(name, (), seconds), row.labels, row.start, end, row.fold))
    return clips


def _first(clip):
    """The label that a clip counts for."""
    return next(iter(clip.labels), "")


def _annotated_parts(folder, output, sounds, annotated):
    """The annotated parts of sounds, how many files of annotations, and what is to be said."""
    paths = [Path(os.path.normpath(output.parent / sound.name)) for sound in sounds]
    read = read_beside(paths, [s.seconds for s in sounds], annotated.form, annotated.column)
    clips = [_Clip(sounds[p.sound], p.labels, p.start, p.end) for p in read.parts]
    if sounds and not clips:
        why = "; ".join(f"{len(at)} {reason}" for reason, at in read.skipped.items())
        raise DataError(
            f"{folder} contains no annotated recording ({read.tables} files of annotations"
            + (f", lines: {why}" if why else "")
            + "): they lie beside the recordings, as rec.txt beside rec.wav"
        )
    classes = sorted({label for clip in clips for label in clip.labels})
    of = len({clip.sound.name for clip in clips})
    hours = sum(clip.seconds for clip in clips) / 3600
    several = sum(len(clip.labels) > 1 for clip in clips)
    told = [f"  parts       {len(clips)}, {hours:.2f} h, of {of} recordings"]
    if of < len(sounds):
        told.append(f"  left out    {len(sounds) - of} recordings without annotations")
    told += [f"  skipped     {len(at)} lines {why}: {at[0]}" for why, at in read.skipped.items()]
    if at := read.overlapping:
        told.append(f"  overlapping {len(at)} parts, in which another label is heard, too: {at[0]}")
    if several:
        told.append(
            f"  several     {several} parts have more than one label: train with "
            "--config.classifier.multi_label=True"
        )
    return clips, read.tables, [*told, f"  classes     {len(classes)}: {_some(classes)}"]


def _check(folder, output, folds, label_from, group):
    if folds < 0 or folds == 1:
        raise DataError(f"--folds={folds}: two are the least")
    if group and not folds:
        raise DataError(f"--group={group} is about folds: say how many, such as --folds=5")
    if label_from not in ("parent", "top", "none") and not (
        label_from.isdecimal() and int(label_from) > 0
    ):
        raise DataError(f"--label_from={label_from}: parent, top, none, or a number from 1 on")
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name one that contains audio files")
    output = Path(output) if output else folder / "manifest.csv"
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} does not exist: create it or choose another --output")
    if os.path.lexists(output) and not output.is_file():
        raise DataError(f"{output} is not a file: choose another --output")
    return folder, output, output.with_name(f"{output.stem}_unreadable.csv")


def _listen(folder, output, unreadable_list):
    """What was found; of it the sounds; and (path, reason) of the rest."""
    statistics = output.with_name(output.name + ".statistics.json")
    digests = output.with_name(output.name + ".digests.npz")
    own = {os.path.realpath(path) for path in (output, unreadable_list, statistics, digests)}
    found = find(folder)
    paths = [path for path in found.files if os.path.realpath(path) not in own]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(_length_or_reason, paths))
    sounds, unreadable = [], list(found.closed)
    for path, length in zip(paths, lengths, strict=True):
        if isinstance(length, str):
            unreadable.append((path, length))
        else:
            name = Path(os.path.relpath(path, output.parent)).as_posix()
            folders = path.relative_to(folder).parts[:-1]
            sounds.append(_Sound(name, folders, length[0] / length[1]))
    return found, sounds, unreadable


def _length_or_reason(path) -> tuple[int, int] | str:
    try:
        str(path).encode("utf-8")
        return audio_length(path)
    except BadAudio as e:
        return str(e)
    except UnicodeEncodeError:
        return "file name is not UTF-8"


def _label(folders, label_from) -> str:
    if label_from == "none" or not folders:
        return ""
    if label_from == "parent":
        return folders[-1].strip()
    level = 1 if label_from == "top" else int(label_from)
    return folders[level - 1].strip() if level <= len(folders) else ""


def _groups(group, output, names):
    """The column to write and the group of each file."""
    if output.exists():
        records = [record for _, record in read_records(output)]
        if records and group in records[0] and group not in ("path", "fold"):
            of_name = {record["path"]: (record[group] or "").strip() for record in records}
            return group, [of_name.get(name) or None for name in names]
    return "group", groups_by_pattern(group, names)


def _contents(sounds, labels, label_from):
    """What is listed, and whether other folders could be meant as the classes."""
    classes = sorted(set(labels) - {""})
    yield f"  files       {len(sounds)}, {sum(sound.seconds for sound in sounds) / 3600:.2f} h"
    yield f"  classes     {len(classes)}" + (f": {_some(classes, _CLASSES)}" if classes else "")
    if label_from == "none":
        return
    depth = max(len(sound.folders) for sound in sounds)
    told = [labels]
    for other in ("parent", "top", *map(str, range(2, min(depth, 5) + 1))):
        others = [_label(sound.folders, other) for sound in sounds]
        names = sorted(set(others) - {""})
        if names and others not in told:
            yield f"              --label_from={other} would give {len(names)}: {_some(names)}"
        told.append(others)
    if len(classes) == 1:
        yield "  WARNING     one class only: a classifier needs two, each in a subfolder of its own"


def _single(clips):
    counts = collections.Counter(label for clip in clips for label in clip.labels)
    if len(counts) > 1 and (once := sorted(label for label, n in counts.items() if n == 1)):
        yield f"  WARNING     one clip alone, from which little is learned: {_some(once)}"
        yield from slips(once[:_SHOWN], counts)


def _left_out(folder, found, by_extension, num_texts, unreadable_list):
    """What is not listed, the commonest kinds first, and what would read them."""
    where = f", see {unreadable_list}" if by_extension else ""
    yield f"  unreadable  {by_extension.total()}{where}"
    for kind, count in by_extension.most_common(_SHOWN):
        yield f"              {count} {kind}: {ADVICE.get(kind, 'the list says why')}"
    if num_texts:
        yield f"  texts       {num_texts}, passed over"
    if found.repeated:
        names = _some([_spelled(path, folder) for path in found.repeated])
        yield f"  links       {len(found.repeated)} to folders that are listed already: {names}"


def _folds(folds, labels, dealt, grouped):
    counted = [fold for fold, label in zip(dealt, labels, strict=True) if label] or dealt
    sizes = collections.Counter(counted)
    what = "labelled files" if any(labels) else "files"
    groups = len({group for group in grouped if group is not None})
    yield (
        f"  folds       {folds}, of {', '.join(str(sizes[i + 1]) for i in range(folds))} {what}"
        + (f"; {groups} groups, each in one fold" if groups else "")
    )
    folds_of = collections.defaultdict(set)
    for label, fold in zip(labels, dealt, strict=True):
        folds_of[label].add(fold)
    if few := sorted(label for label, of in folds_of.items() if label and len(of) < folds):
        yield f"  WARNING     not in every fold, for want of files or groups: {_some(few)}"


def _advice(manifest, clips, folds, again):
    """The commands to type next: labels are worth a look at once, hours of sound a pre-training.
    again: whether a model was made of some of the clips before, whose folder is no other's."""
    data = shlex.quote(f"--config.data.manifest={manifest}")
    if len({label for clip in clips for label in clip.labels}) > 1:
        module = "cross_validate" if folds else "main"
        yield (
            f"Next, what the shipped encoder makes of it: python -m conformer_jax.{module} "
            f"--config=configs/finetune.py:probe {data}"
            + (" --workdir=runs/probe_2" if again else "")
        )
    if len({label for clip in clips for label in clip.labels}) > 1 and not _long(clips):
        return
    yield (
        "Next, with an hour of sound or more: python -m conformer_jax.main "
        f"--config=configs/pretrain.py:tiny {data}"
    )


def _long(clips):
    return sum(clip.seconds for clip in clips) >= 3600


def _some(names, most=_SHOWN) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _spelled(path, start) -> str:
    """A path below `start`, whatever bytes it is made of, as text."""
    name = Path(os.path.relpath(path, start)).as_posix()
    return name.encode("utf-8", "backslashreplace").decode()


def _replace(path, columns, rows) -> None:
    """Writes a CSV under another name first: a kill or a full disk leaves what was there before."""
    path = Path(os.path.realpath(path))  # the file that a link leads to, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            e.filename, e.filename2 = str(path), None
            if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOENT):
                raise DataError(
                    f"cannot write {path}: {e.strerror}; choose another --output"
                ) from e
        raise
