"""Where the C library keeps the memory that a step on the CPU frees."""

import ctypes
import platform

import jax

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4

# Where more than this lies free at the end of the heap, it goes back to the system: the working
# space of a step is smaller, and what once took more must not stay. The most that mallopt takes.
MOST_KEPT = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, up to MOST_KEPT, for the next step.

    XLA allocates a CPU step's working space (hundreds of MB to gigabytes) anew at every call;
    giving it back and fetching it from the system page by page took a fifth of a step
    (docs/performance.md).
    Once in a while another thread takes a little of where it lay: then the next one lies elsewhere,
    and the process is larger by it (seen in 1 of 40 steps or fewer).
    To be called before JAX looks for devices. Does nothing elsewhere than on Linux with glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # Only the main thread's arena has no limit of size, so steps run there and not in a thread of
    # their own. In an arena that threads share, what they allocate meanwhile would come to lie
    # behind the working space, which glibc then cannot use again: the process would grow.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    libc.mallopt(_MMAP_MAX, 0)  # a mapping of its own goes back when freed, whatever its size
    libc.mallopt(_TRIM_THRESHOLD, MOST_KEPT)
