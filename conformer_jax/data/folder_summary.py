"""What `python -m conformer_jax.manifest` says of what it found and wrote."""

import collections
import os
import shlex
from pathlib import Path

from conformer_jax.data.labels import slips
from conformer_jax.data.tree import ADVICE, is_text

_SHOWN = 8  # names in a list of the summary
_CLASSES = 20
_MANY_FILES, _MANY_CLIPS = 40, 70  # that clip contrast is advised for


def in_all(clips, added, other):
    """What is listed with rows of another manifest."""
    classes = sorted({label for clip in clips for label in clip.labels})
    yield f"  added       {len(added)} rows of {other}"
    yield f"  in all      {len(clips)} rows, {len(classes)} classes: {some(classes)}"


def contents(sounds, labels, label_from):
    """What is listed, and whether other folders could be meant as the classes."""
    classes = sorted(set(labels) - {""})
    yield f"  files       {len(sounds)}, {sum(sound.seconds for sound in sounds) / 3600:.2f} h"
    yield f"  classes     {len(classes)}" + (f": {some(classes, _CLASSES)}" if classes else "")
    plain = [sound.name for sound, label in zip(sounds, labels, strict=True) if not label]
    if classes and plain:
        yield f"  no label    {len(plain)} files in no such folder: {some(plain)}"
    if label_from == "none":
        return
    depth = max(len(sound.folders) for sound in sounds)
    told = [labels]
    for other in ("parent", "top", *map(str, range(2, min(depth, 5) + 1))):
        others = [folder_label(sound.folders, other) for sound in sounds]
        names = sorted(set(others) - {""})
        if names and others not in told:
            yield f"              --label_from={other} would give {len(names)}: {some(names)}"
        told.append(others)


def single(clips):
    """One label alone, or labels of which there is one clip."""
    counts = collections.Counter(label for clip in clips for label in clip.labels)
    if len(counts) == 1:
        yield f"  WARNING     one class only, {some(list(counts))}: a classifier needs two"
    if len(counts) > 1 and (once := sorted(label for label, n in counts.items() if n == 1)):
        yield f"  WARNING     one clip alone, from which little is learned: {some(once)}"
        yield from slips(once[:_SHOWN], counts)


def left_out(folder, found, by_extension, num_texts, unreadable_list):
    """What is not listed, the commonest kinds first, and what would read them."""
    where = f", see {unreadable_list}" if by_extension else ""
    yield f"  unreadable  {by_extension.total()}{where}"
    for kind, count in by_extension.most_common(_SHOWN):
        yield f"              {count} {kind}: {ADVICE.get(kind, 'the list says why')}"
    if num_texts:
        yield f"  texts       {num_texts}, passed over"
    if found.repeated:
        names = some([spelled(path, folder) for path in found.repeated])
        yield f"  links       {len(found.repeated)} to folders that are listed already: {names}"


def dealt_folds(folds, clips, dealt, groups):
    """How many each fold has, which labels it lacks, and what no group keeps together."""
    labels = [first_label(clip) for clip in clips]
    counted = [fold for fold, label in zip(dealt, labels, strict=True) if label] or dealt
    sizes = collections.Counter(counted)
    what = "files" if all(clip.end is None for clip in clips) else "parts"
    what = f"labelled {what}" if any(labels) else what
    grouped, units = groups
    count = len({*grouped} - {None})
    in_groups = {unit for unit, group in zip(units, grouped, strict=True) if group}
    joined = len(in_groups)
    joined = f" ({joined} where those that share files are one)" if joined < count else ""
    yield (
        f"  folds       {folds}, of {', '.join(str(sizes[i + 1]) for i in range(folds))} {what}"
        + (f"; {count} groups, each in one fold{joined}" if count else "")
    )
    alone = [c.sound.name for c, unit in zip(clips, units, strict=True) if unit not in in_groups]
    if count and alone:
        yield f"  WARNING     {len(alone)} rows without a group are dealt by file: {some(alone, 1)}"
    folds_of = collections.defaultdict(set)
    for label, fold in zip(labels, dealt, strict=True):
        folds_of[label].add(fold)
    if few := sorted(label for label, of in folds_of.items() if label and len(of) < folds):
        yield f"  WARNING     not in every fold, for want of files or groups: {some(few)}"


def advice(manifest, clips, folds, again):
    """The commands to type next: labels are worth a look at once, hours of sound a pre-training.
    again: whether a model was made of some of the clips before, whose folder is no other's."""
    data = shlex.quote(f"--config.data.manifest={manifest}")
    if len({label for clip in clips for label in clip.labels}) > 1:
        module = "cross_validate" if folds else "main"
        several = any(len(clip.labels) > 1 for clip in clips)
        yield (
            f"Next, what the shipped encoder makes of it: python -m conformer_jax.{module} "
            f"--config=configs/finetune.py:probe {data}"
            + (" --config.classifier.multi_label=True" if several else "")
            + (" --workdir=runs/probe_2" if again else "")
        )
    if len({label for clip in clips for label in clip.labels}) > 1 and not _long(clips):
        return
    yield (
        "Next, with an hour of sound or more: python -m conformer_jax.main "
        f"--config=configs/pretrain.py:{_variant(clips, folds)} {data}"
    )
    whole = all(clip.end is None for clip in clips)
    if whole and len(clips) < _MANY_CLIPS and _long(clips):
        yield f"  {len(clips)} clips are few: --segment=10 makes clips of long recordings"


def _variant(clips, folds):
    """Clip contrast, where its batches of 64 fill whatever is held out: a twentieth of the files,
    of which two have to tell each other, too, or a fold."""
    files = collections.Counter(clip.sound.name for clip in clips)
    left = len(clips) - max(max(files.values()), len(clips) // folds if folds else 0)
    return "tiny_clip" if len(files) >= _MANY_FILES and left >= _MANY_CLIPS else "tiny"


def _long(clips):
    return sum(clip.seconds for clip in clips) >= 3600


def some(names, most=_SHOWN) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def none(folder, unreadable_list, by_extension):
    """That nothing is listed and, as far as it is known, why."""
    said = f"{folder} contains no readable audio"
    if not unreadable_list.exists():
        return said
    kinds = ", ".join(f"{n} {kind}" for kind, n in by_extension.most_common(_SHOWN))
    return f"{said}; {f'{kinds}; ' if kinds else ''}what it contains is listed in {unreadable_list}"


def kinds(unreadable):
    """Texts among what cannot be read, and how many of the rest there are of each extension."""
    texts = {path for path, _ in unreadable if is_text(path)}
    rest = [path for path, _ in unreadable if path not in texts]
    return texts, collections.Counter(path.suffix.lower() or "no extension" for path in rest)


def spelled(path, start) -> str:
    """A path below `start`, whatever bytes it is made of, as text."""
    name = Path(os.path.relpath(path, start)).as_posix()
    return name.encode("utf-8", "backslashreplace").decode()


def folder_label(folders, label_from) -> str:
    if label_from == "none" or not folders:
        return ""
    if label_from == "parent":
        return folders[-1].strip()
    level = 1 if label_from == "top" else int(label_from)
    return folders[level - 1].strip() if level <= len(folders) else ""


def first_label(clip):
    """The label that a clip counts for."""
    return next(iter(clip.labels), "")
