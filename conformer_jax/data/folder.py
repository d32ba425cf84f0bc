"""Makes a manifest of the audio files below a folder."""

import concurrent.futures
import contextlib
import csv
import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from conformer_jax.data import folder_summary as summary
from conformer_jax.data.adding import rows_of
from conformer_jax.data.annotations import read_beside
from conformer_jax.data.audio import BadAudio, DataError, audio_length
from conformer_jax.data.clips import Clip, Sound
from conformer_jax.data.folds import deal
from conformer_jax.data.groups import groups_of, units_of
from conformer_jax.data.manifest import join_labels
from conformer_jax.data.overwriting import OWN, copies, what_to_keep
from conformer_jax.data.tree import as_written, find

_SHORTEST_S = 1.0  # of a part


class Annotated(NamedTuple):
    """Labels are those of annotations beside the recordings. form: of annotations.FORMATS;
    column: with the labels of selection tables, '' for a usual one."""

    form: str
    column: str = ""


def write_manifest(
    folder,
    output=None,
    folds=0,
    label_from="parent",
    group=None,
    annotated=None,
    add=None,
    segment=0.0,
    overwrite=False,
) -> str:
    """Writes a manifest of the audio below `folder`; returns a summary to print.

    Files whose headers cannot be read go to a second CSV (path, reason) beside `output`; hidden
    files are passed over, links followed (`tree.find`).

    Args:
      folder: to search.
      output: CSV to write; None for manifest.csv in `folder`. An existing one is replaced as a
        whole, and kept beside it where rows of it said something else.
      folds: fill `fold` with 1 to this many (`folds.deal`); 0: not.
      label_from: the folder that is a file's label: 'parent', which holds the file, 'top', the
        first below `folder`, '2', the second, and so on, or 'none'.
      group: a column of the CSV that is replaced or added, or a regular expression for `name`s,
        written as the column 'group': files of one group come to lie in one fold.
      annotated: the rows are the annotated parts of the recordings, those of one in one fold; None:
        whole files.
      add: another manifest, whose rows are listed, too, but for files that are listed already.
      segment: s; longer files become a row a part of this length, those of one in one fold; 0: not.
      overwrite: replace `output` even where something goes altogether (overwriting.py).

    Raises:
      DataError: no such folder or level, no audio in it, arguments that do not go together, what
        is in `output` would be lost, or it may not be written.
      OSError: it cannot be, because the disk is full or broken; what was there before is kept.
    """
    folder, output, unreadable_list = _check(folder, output, folds, label_from, group)
    _check_segment(segment, annotated)
    found, sounds, unreadable = _listen(folder, output, unreadable_list)
    if annotated:
        clips, tables, told = _annotated_parts(folder, output, sounds, annotated)
    else:
        clips, tables, told = _whole_files(sounds, label_from, segment)
    if add and clips:
        clips += (more := rows_of(add, output, clips, group or "group"))
        told += summary.in_all(clips, more, add)
        group = group or ("group" if any(clip.group for clip in more) else "")
    columns, rows, dealt, groups = _table(clips, output, folds, group, overwrite)
    asked = {"anew": _made_anew(columns, folds, group), "annotated": bool(annotated)}
    table = list(zip(clips, rows, strict=True))
    kept, said = what_to_keep(output, folder, columns, table, overwrite=overwrite, **asked)
    _list_unreadable(unreadable, unreadable_list)
    texts, by_extension = summary.kinds(unreadable)
    if not rows:
        raise DataError(summary.none(folder, unreadable_list, by_extension))
    _replace(output, columns, rows, kept)
    told = [f"Wrote {output}", *told, *said, *summary.single(clips)]
    told += summary.left_out(folder, found, by_extension, len(texts) - tables, unreadable_list)
    told += summary.dealt_folds(folds, clips, dealt, groups) if folds else ()
    return "\n".join([*told, *summary.advice(output, clips, folds, again=bool(add))])


def _whole_files(sounds, label_from, segment):
    """Clips of whole files, or of parts of long ones; no annotations; what is to be said."""
    names = [summary.folder_label(sound.folders, label_from) for sound in sounds]
    clips = [Clip(s, (name,) if name else ()) for s, name in zip(sounds, names, strict=True)]
    told = [*summary.contents(sounds, names, label_from)] if sounds else []
    if segment:
        clips = [part for clip in clips for part in _parts(clip, segment)]
        told.append(f"  parts       {len(clips)}, of about {segment:g} s")
    return clips, 0, told


def _parts(clip, segment):
    """A clip as parts of `segment` s, the last of which is up to half shorter or longer."""
    count = max(round(clip.sound.seconds / segment), 1)
    if count == 1:
        return [clip]
    ends = [*(segment * i for i in range(1, count)), clip.sound.seconds]
    return [
        clip._replace(start=start, end=end)
        for start, end in zip([0.0, *ends[:-1]], ends, strict=True)
    ]


def _table(clips, output, folds, group, overwrite):
    """Columns and rows of the manifest; the fold of each; the groups of the rows, as they are
    called and as they are dealt."""
    names, parts = [clip.sound.name for clip in clips], any(clip.end is not None for clip in clips)
    dealt, grouped = [clip.fold for clip in clips], [None] * len(clips)
    columns = list(OWN if parts else OWN[:-2])
    if group and clips:
        column, grouped = groups_of(group, output, clips, overwrite)
        columns.append(column)
    units = grouped
    if folds and clips:
        units = units_of(output, clips, grouped)
        dealt = deal(names, [summary.first_label(clip) for clip in clips], units, folds)
    rows = []
    for clip, fold, of_group in zip(clips, dealt, grouped, strict=True):
        row = [clip.sound.name, join_labels(clip.labels), fold, f"{clip.seconds:.3f}"]
        row += _bounds(clip) if parts else []
        rows.append([*row, of_group or ""][: len(columns)])
    return columns, rows, dealt, (grouped, units)


def _made_anew(columns, folds, group):
    """Columns that are not taken from the manifest that is replaced, as the user wishes."""
    by_pattern = {"group"} & {columns[-1]} - {group}
    return ({"fold"} if folds else set()) | by_pattern


def _bounds(clip):
    return ["", ""] if clip.end is None else [f"{clip.start:.6f}", f"{clip.end:.6f}"]


def _annotated_parts(folder, output, sounds, annotated):
    """The annotated parts of sounds, how many files of annotations, and what is to be said."""
    paths = [Path(os.path.normpath(output.parent / sound.name)) for sound in sounds]
    read = read_beside(paths, [s.seconds for s in sounds], annotated.form, annotated.column)
    clips = [Clip(sounds[p.sound], p.labels, p.start, p.end) for p in read.parts]
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
    return clips, read.tables, [*told, f"  classes     {len(classes)}: {summary.some(classes)}"]


def _check(folder, output, folds, label_from, group):
    if folds < 0 or folds == 1:
        raise DataError(f"--folds={folds}: two are the least")
    if group and not folds:
        raise DataError(f"--group={group} is about folds: say how many, such as --folds=5")
    if label_from not in ("parent", "top", "none") and not (
        label_from.isdecimal() and int(label_from) > 0
    ):
        raise DataError(f"--label_from={label_from}: parent, top, none, or a number from 1 on")
    folder = as_written(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name one that contains audio files")
    output = Path(output) if output else folder / "manifest.csv"
    if not output.parent.is_dir():
        raise DataError(f"{output.parent} does not exist: create it or choose another --output")
    output = as_written(output.parent) / output.name
    if os.path.lexists(output) and not output.is_file():
        raise DataError(f"{output} is not a file: choose another --output")
    return folder, output, output.with_name(f"{output.stem}_unreadable.csv")


def _check_segment(segment, annotated):
    if annotated and segment:
        raise DataError(f"--segment={segment:g}: annotations say where parts begin and end")
    if segment and not segment >= _SHORTEST_S:
        raise DataError(f"--segment={segment:g}: a second or more")


def _listen(folder, output, unreadable_list):
    """What was found; of it the sounds; and (path, reason) of the rest."""
    statistics = output.with_name(output.name + ".statistics.json")
    digests = output.with_name(output.name + ".digests.npz")
    own = (output, unreadable_list, statistics, digests, *copies(output))
    own = {os.path.realpath(path) for path in own}
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
            sounds.append(Sound(name, folders, length[0] / length[1]))
    return found, sounds, unreadable


def _list_unreadable(unreadable, path):
    """Writes (path, reason) of each; a list of an earlier run does not outlive its reasons."""
    reasons = [(summary.spelled(file, path.parent), reason) for file, reason in unreadable]
    if reasons:
        _replace(path, ("path", "reason"), reasons)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _length_or_reason(path) -> tuple[int, int] | str:
    try:
        str(path).encode("utf-8")
        return audio_length(path)
    except BadAudio as e:
        return str(e)
    except UnicodeEncodeError:
        return "file name is not UTF-8"


def _replace(path, columns, rows, kept=None) -> None:
    """Writes a CSV under another name first: a kill or a full disk leaves what was there before,
    which is kept as `kept`, if that is one."""
    path = Path(os.path.realpath(path))  # the file that a link leads to, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        if kept:
            shutil.copyfile(path, kept)
        os.replace(temporary, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            if kept and temporary.exists():  # it is still in its place, and a copy may be torn
                kept.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            e.filename, e.filename2 = str(path), None
            if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOENT):
                raise DataError(
                    f"cannot write {path}: {e.strerror}; choose another --output"
                ) from e
        if isinstance(e, UnicodeEncodeError):  # those below DIR: _length_or_reason
            raise DataError(
                f"cannot write {path}: a folder on the way to its files has a name that is not "
                "UTF-8: rename it"
            ) from e
        raise
