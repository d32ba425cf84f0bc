"""Where the C library keeps the memory that a step on the CPU frees."""

import ctypes
import platform

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of giving it back to the system.

    XLA allocates a CPU step's working space (hundreds of MB) anew at every call; fetching it from
    the system page by page took a quarter of the `tiny` step (docs/results.md). Does nothing
    elsewhere than on Linux with glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_ARENA_MAX, 1)
