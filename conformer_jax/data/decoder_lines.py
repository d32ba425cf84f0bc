"""Keeps off the terminal what libmpg123, inside libsndfile, prints about damaged files.

It writes to the C library's `stderr`, hundreds of lines a file, and libsndfile offers no switch.
Descriptor 2 cannot be turned away instead: all threads share it, and theirs are the words that a
user must see; a thread that filters it dies with the last words of a crashing library unread. So
libsndfile's own reference to `stderr`, and no other library's, is pointed at /dev/null. Nothing is
done elsewhere than on Linux on x86-64: the lines are printed there.
"""

import ctypes
import os
import platform
import struct
import sys

import numpy as np

_LIBRARIES = ("libsndfile", "libmpg123")
# Of the ELF format (System V ABI and its supplement for x86-64).
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ = 5, 6, 7, 8
_R_X86_64_GLOB_DAT = 6
_PROT_READ, _PROT_WRITE = 1, 2
_RELOCATION = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])


def silence_decoders() -> int:
    """Points `stderr` of the loaded decoders at /dev/null; returns how many there were.

    To be called once, after `import soundfile`.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return 0
    found = [slot for path, base in _loaded() for slot in _references(path, base, b"stderr")]
    if not found:
        return 0
    libc = ctypes.CDLL(None)
    libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
    nowhere = libc.fopen(b"/dev/null", b"we")
    pointer = libc.malloc(ctypes.c_size_t(8))  # never freed: a thread may outlive the interpreter
    if not nowhere or not pointer:
        return 0
    ctypes.c_uint64.from_address(pointer).value = nowhere
    return sum(_write(libc, slot, pointer) for slot in found)


def _loaded():
    """(file, address where it begins in memory) of each of the libraries."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(None, 5)
            # The first of a library's mappings is the one with the beginning of the file.
            if len(fields) == 6 and fields[2].strip("0") == "":
                name = os.path.basename(fields[5])
                if name.startswith(_LIBRARIES) and os.path.isfile(fields[5]):
                    yield fields[5], int(fields[0].split("-")[0], 16)


def _references(path, base, name):
    """Addresses in memory of the pointers to the variable `name` in a loaded library."""
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            return
        (at,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(at)
        segments = [struct.unpack("<IIQQQQ", file.read(size)[:40]) for _ in range(count)]
        loads = [s for s in segments if s[0] == _PT_LOAD]
        dynamic = [s for s in segments if s[0] == _PT_DYNAMIC]
        if not loads or not dynamic or loads[0][3] != 0:
            return
        file.seek(dynamic[0][2])
        entries = dict(struct.iter_unpack("<QQ", file.read(dynamic[0][5] // 16 * 16)))
    if not {_DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ} <= entries.keys():
        return
    table = ctypes.string_at(base + entries[_DT_RELA], entries[_DT_RELASZ])
    relocations = np.frombuffer(table, _RELOCATION)
    for relocation in relocations[relocations["kind"] == _R_X86_64_GLOB_DAT]:
        symbol = base + entries[_DT_SYMTAB] + 24 * int(relocation["symbol"])
        string = base + entries[_DT_STRTAB] + ctypes.c_uint32.from_address(symbol).value
        if ctypes.string_at(string) == name:
            yield base + int(relocation["offset"])


def _write(libc, slot, pointer) -> bool:
    """Replaces a pointer that the linker has made read-only."""
    page = os.sysconf("SC_PAGE_SIZE")
    start, length = ctypes.c_void_p(slot // page * page), ctypes.c_size_t(page)
    if libc.mprotect(start, length, _PROT_READ | _PROT_WRITE):
        return False
    ctypes.c_uint64.from_address(slot).value = pointer
    # The last page of that part may hold what is still written to: it stays as it was.
    return True
