"""Finds the files below a folder, and says what those are that hold no sound."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

# What becomes of files that libsndfile does not read, by extension.
_BY_ADVICE = {
    "read with `pip install 'conformer_jax[media]'`, if it is whole": """
        .3gp .aac .ac3 .amr .ape .asf .avi .flv .m4a .m4b .mka .mkv .mov .mp4 .tta .webm .wma .wmv
        .wv""",
    "not read: convert with `ffmpeg -i IN OUT.flac`": """
        .alac .dsf .dts .mpc .mpg .ra .spx""",
    "no header: `ffmpeg -f s16le -ar RATE -ac CHANNELS -i IN OUT.flac`, if 16-bit": """
        .pcm .raw .sw .vox""",
    "an archive: unpack it": ".7z .gz .rar .tar .tgz .zip",
    "notes, no sound: render it with a synthesizer": ".mid .midi",
}
ADVICE = {extension: advice for advice, all_ in _BY_ADVICE.items() for extension in all_.split()}
_NAMES_OF_SOUND = """
    .aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .oga .ogg .opus .rf64 .snd .sph .w64 .wav"""
_SOUND = {*ADVICE, *_NAMES_OF_SOUND.split()}


class Found(NamedTuple):
    """What lies below a folder."""

    files: list[Path]  # regular files, and links that lead to none, or cannot be followed; sorted
    closed: list[tuple[Path, str]]  # folders that cannot be listed, and why
    repeated: list[Path]  # links to folders whose files are there already


def find(folder) -> Found:
    """All files below `folder`; nothing whose name begins with a dot.

    Links to folders are followed, each folder once: where a link leads to a folder that lies below
    `folder` too, or that another link has led to, its files are found there and not again. So a
    link to a folder above it does no harm. Pipes, sockets and devices are passed over.
    """
    files, closed, repeated, seen, links = [], [], [], set(), [Path(folder)]
    while links:
        links.sort(reverse=True)
        start = links.pop()
        if identity(start) in seen:
            repeated.append(start)
            continue
        # Without the links first: the files of a folder that lies here bear its own name.
        waiting = [start]
        while waiting:
            where = waiting.pop()
            folder = identity(where)
            if folder in seen:
                continue
            seen.add(folder)
            try:
                entries = [e for e in os.scandir(where) if not e.name.startswith(".")]
            except OSError as e:
                closed.append((where, f"folder cannot be listed: {e.strerror or e}"))
                continue
            for entry in entries:
                path = Path(where, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif os.path.isdir(path):  # no error where a link cannot be followed
                    links.append(path)
                elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    files.append(path)
    return Found(sorted(files), sorted(closed), sorted(repeated))


def identity(path):
    """The same for all ways to a file or folder; where there are no inodes, its real path."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def as_written(path) -> Path:
    """The path, or its real one where '..' follows a link: paths in a manifest are joined and
    shortened as texts, which leads elsewhere there."""
    real = os.path.realpath(path)
    return Path(path if os.path.realpath(os.path.normpath(path)) == real else real)


def is_text(path) -> bool:
    """Whether a file that cannot be read as sound is a text, and is not named like a sound."""
    if path.suffix.lower() in _SOUND:
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            start = file.read(4096)
    except (OSError, ValueError):
        return False
    if not start or b"\0" in start:
        return False
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as e:
        return e.start > len(start) - 4  # a character cut by the end of what was read
    return True
