"""What a clip is, whatever it is called: 64 bits of the file's size and of blocks of its bytes.

A copy under another name or in another manifest has the same digest; the same sound in another
format, or with other metadata, has not. Of a file of more than 64 KiB only eight blocks are read,
evenly spread from the first byte to the last, which costs what opening it costs. The digest of a
part of a file is made of the file's and of its times.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import os
import stat
import threading

import numpy as np

from conformer_jax.data.manifest import part_suffix

_BLOCK, _BLOCKS = 8192, 8
_THREADS = 16  # files wait for disks and networks
_WORTH_KEEPING = 10_000  # files: fewer take less than two seconds


def of_name(name) -> int:
    """In place of a digest, of what has no file of its own that can be read."""
    return of_bytes(name.encode("utf-8", "surrogateescape"))


def of_bytes(name: bytes) -> int:
    """`of_name` of a name in UTF-8."""
    return _number(name.replace(b"\\", b"/"))


def _number(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def of_file(path) -> int | None:
    """The digest; None where it cannot be read, or is no plain file."""
    try:
        # A FIFO would wait for its writer.
        file = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return None
        digest = hashlib.blake2b(str(found.st_size).encode() + b"\n", digest_size=8)
        for start in _starts(found.st_size):
            os.lseek(file, start, os.SEEK_SET)
            digest.update(os.read(file, _BLOCK))
        return int.from_bytes(digest.digest(), "big")
    except OSError:
        return None
    finally:
        os.close(file)


def of_rows(rows, manifest) -> list:
    """The rows of a manifest with their `content` and `whole`.

    Digests of many files are kept in `<manifest>.digests.npz`, where its folder can be written, and
    used again for files whose size and time of change are the same.

    Args:
      rows: list of manifest.Row.
      manifest: its path.
    """
    cache = f"{manifest}.digests.npz"
    keep = len(rows) >= _WORTH_KEEPING
    known = _load(cache) if keep else {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda row: _one(row.path, known), rows, chunksize=64))
    if keep and any(entry and known.get(entry[0]) != entry[1:] for entry in found):
        _store(cache, [entry for entry in found if entry])
    return [_filled(row, entry) for row, entry in zip(rows, found, strict=True)]


def _filled(row, entry):
    times = part_suffix(row.start, row.end)
    whole = entry[3] if entry else of_name(row.name.removesuffix(times))
    return row._replace(content=of_name(f"{whole:016x}{times}") if times else whole, whole=whole)


def of_groups(rows, contents) -> list[int]:
    """Of each row a number that is the same for all that share a group or their content, directly
    or through others. It follows from the names of the groups alone, whichever rows of them are
    listed, but where rows link groups: these have another number together. Of a row that shares
    nothing with a group it is its content.

    Args:
      rows: list of manifest.Row.
      contents: int of each.
    """
    named = {row.group for row in rows} - {""}
    number = {name: _number(f"group {name}".encode("utf-8", "surrogateescape")) for name in named}
    above = {n: n for n in number.values()}

    def lowest(n):  # of the groups that copies or parts of one file link
        while above[n] != n:
            above[n] = n = above[above[n]]
        return n

    of_content = {}
    for row, content in zip(rows, contents, strict=True):
        if row.group:
            own = lowest(number[row.group])
            other = lowest(of_content.setdefault(content, own))
            above[max(own, other)] = min(own, other)
    # The lowest of several is no fair draw: they would be held out more often.
    count = collections.Counter(map(lowest, above))
    fair = {n: of_name(f"{n:016x}") if count[n] > 1 else n for n in count}
    of_content = {content: fair[lowest(n)] for content, n in of_content.items()}
    return [of_content.get(content, content) for content in contents]


def _starts(size):
    if size <= _BLOCK * _BLOCKS:
        return range(0, size, _BLOCK)
    return [i * (size - _BLOCK) // (_BLOCKS - 1) for i in range(_BLOCKS)]


def _one(path, known):
    """(key of the path, size, time of change, digest), None where there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    key, as_it_is = of_name(path), (found.st_size, found.st_mtime_ns)
    *before, digest = known.get(key, (None,))
    if tuple(before) != as_it_is:
        digest = of_file(path)
    return None if digest is None else (key, *as_it_is, digest)


def _load(path):
    """{key: (size, time of change, digest)}; a file that is none is made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            key, size, changed, digest = (
                file[name].tolist() for name in ("key", "size", "changed", "digest")
            )
        return dict(zip(key, zip(size, changed, digest, strict=True), strict=True))
    except Exception:  # zipfile, zlib and numpy raise a dozen kinds
        return {}


def _store(path, entries):
    key, size, changed, digest = zip(*entries, strict=True)
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                key=np.array(key, np.uint64),
                size=np.array(size, np.int64),
                changed=np.array(changed, np.int64),
                digest=np.array(digest, np.uint64),
            )
        os.replace(temporary, path)
    except OSError:  # the next run reads the files again
        with contextlib.suppress(OSError):
            os.unlink(temporary)
