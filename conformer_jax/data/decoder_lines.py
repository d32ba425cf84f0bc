"""Keeps off the terminal what libmpg123, inside libsndfile, prints about damaged files.

It writes to the C library's `stderr`, hundreds of lines a file, and libsndfile offers no switch.
Descriptor 2 cannot be turned away instead: all threads share it, and theirs are the words that a
user must see; a thread that filters it dies with the last words of a crashing library unread. So
libsndfile's own reference to `stderr`, and no other library's, is pointed at /dev/null.

Where the reference is follows from the library's file; memory is written only where it then holds
just what it must, the address of the C library's `stderr`. Wherever anything is otherwise (another
machine or format, a library without such a reference, no /proc) nothing is done, and the lines are
printed.
"""

import ctypes
import mmap
import os
import platform
import struct
import sys
from typing import NamedTuple

import numpy as np

_LIBRARIES = ("libsndfile", "libmpg123")
# Of the ELF format (System V ABI and its supplement for x86-64).
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ = 5, 6, 7, 8
_R_X86_64_GLOB_DAT = 6
_PROT_READ, _PROT_WRITE = 1, 2
_RELOCATION = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])


class _Library(NamedTuple):
    """A file in memory: where it begins, and [(first, last + 1)] of the parts that can be read."""

    path: str
    base: int
    parts: list[tuple[int, int]]


def silence_decoders() -> int:
    """Points `stderr` of the loaded decoders at /dev/null; returns how many there were.

    To be called once, after `import soundfile`.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return 0
    try:
        libc = ctypes.CDLL(None)
        variable = ctypes.addressof(ctypes.c_void_p.in_dll(libc, "stderr"))
        found = [
            slot
            for library in _loaded()
            for slot in _references(library, b"stderr")
            if ctypes.c_uint64.from_address(slot).value == variable
        ]
        return _redirect(libc, found) if found else 0
    except (OSError, ValueError, AttributeError, struct.error):
        return 0


def _redirect(libc, slots):
    libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
    nowhere = libc.fopen(b"/dev/null", b"we")
    pointer = libc.malloc(ctypes.c_size_t(8))  # never freed: a thread may outlive the interpreter
    if not nowhere or not pointer:
        return 0
    ctypes.c_uint64.from_address(pointer).value = nowhere
    return sum(_write(libc, slot, pointer) for slot in slots)


def _loaded() -> list[_Library]:
    found = {}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) < 6 or not os.path.basename(fields[5]).startswith(_LIBRARIES):
                continue
            first, last = (int(end, 16) for end in fields[0].split("-"))
            library = found.setdefault(fields[5], _Library(fields[5], first, []))
            if fields[1].startswith("r"):
                library.parts.append((first, last))
    # One that was replaced since is '... (deleted)'.
    return [library for library in found.values() if os.path.isfile(library.path)]


def _references(library, name):
    """Addresses in memory of the pointers to the variable `name`; all that leads to them is read
    from the file."""
    with open(library.path, "rb") as opened:
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if file[:6] != b"\x7fELF\x02\x01":
        return
    (at,) = struct.unpack_from("<Q", file, 32)
    size, count = struct.unpack_from("<HH", file, 54)
    segments = [struct.unpack_from("<IIQQQQ", file, at + i * size) for i in range(count)]
    loads = [(s[3], s[5], s[2]) for s in segments if s[0] == _PT_LOAD]  # address, size, offset
    dynamic = next((s for s in segments if s[0] == _PT_DYNAMIC), None)
    if not loads or loads[0][0] != 0 or dynamic is None:
        return
    entries = dict(struct.iter_unpack("<QQ", file[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    if not {_DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ} <= entries.keys():
        return

    def offset(address):
        for start, length, place in loads:
            if start <= address < start + length:
                return address - start + place
        raise ValueError(f"no part of the file holds {address:#x}")

    place, symbols, strings = (offset(entries[e]) for e in (_DT_RELA, _DT_SYMTAB, _DT_STRTAB))
    table = np.frombuffer(file[place : place + entries[_DT_RELASZ]], _RELOCATION)
    for relocation in table[table["kind"] == _R_X86_64_GLOB_DAT]:
        (at,) = struct.unpack_from("<I", file, symbols + 24 * int(relocation["symbol"]))
        slot = library.base + int(relocation["offset"])
        inside = any(first <= slot and slot + 8 <= last for first, last in library.parts)
        if inside and file[strings + at : strings + at + len(name) + 1] == name + b"\0":
            yield slot


def _write(libc, slot, pointer) -> bool:
    """Replaces a pointer that the linker has made read-only."""
    page = os.sysconf("SC_PAGE_SIZE")
    start, length = ctypes.c_void_p(slot // page * page), ctypes.c_size_t(page)
    if libc.mprotect(start, length, _PROT_READ | _PROT_WRITE):
        return False
    ctypes.c_uint64.from_address(slot).value = pointer
    # The last page of that part may hold what is still written to: it stays as it was.
    return True
