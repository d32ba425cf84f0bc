"""Windows of many sounds: read ahead on threads of their own, heard in full batches, in order."""

import collections
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from conformer_jax.errors import UserError

_MEMORY = 64 << 20  # bytes of windows held by each of the two parts below, unless one is larger


class End(NamedTuple):
    """A sound is over; error: a UserError where it could not be read to its end, else None."""

    error: UserError | None = None


class _Broken(NamedTuple):
    error: BaseException


def read(sounds: Iterable[Callable[[], Iterator]], *, window_bytes: int, threads=None) -> Iterator:
    """Decodes and resamples ahead of who asks.

    Args:
      sounds: functions that open a sound and yield its windows, called in the threads.
      window_bytes: of one window; what is read ahead is bounded by it.
      threads: how many read at once, each a sound; by default one for every two cores, at most 8.

    Yields:
      (number, window) of every sound in order, and (number, End) after each.
    """
    threads = threads or max(1, min(8, (os.cpu_count() or 1) // 2))
    ahead = 4 * threads  # sounds
    depth = max(1, min(16, _MEMORY // (ahead * window_bytes)))  # windows of each
    stop, work = threading.Event(), queue.SimpleQueue()
    for _ in range(threads):
        # Daemons: whoever forgets to close this can still end the process.
        threading.Thread(target=_work, args=(work, stop), name="read-ahead", daemon=True).start()
    begun = collections.deque()
    try:
        for number, sound in enumerate(sounds):
            begun.append((number, queue.Queue(depth)))
            work.put((sound, begun[-1][1]))
            if len(begun) == ahead:
                yield from _drain(*begun.popleft())
        while begun:
            yield from _drain(*begun.popleft())
    finally:
        stop.set()
        for _ in range(threads):
            work.put(None)


def _work(work, stop):
    while (one := work.get()) is not None and not stop.is_set():
        _fill(*one, stop)


def _fill(sound, into, stop):
    try:
        for window in sound():
            if not _put(into, window, stop):
                return
        _put(into, End(), stop)
    except UserError as error:
        _put(into, End(error), stop)
    except BaseException as error:  # raised where it is asked for
        _put(into, _Broken(error), stop)


def _put(into, item, stop) -> bool:
    """False once nobody asks any more."""
    while not stop.is_set():
        try:
            into.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False


def _drain(number, source):
    while True:
        item = source.get()
        if isinstance(item, _Broken):
            raise item.error
        yield number, item
        if isinstance(item, End):
            return


class _Entry:
    """A window on its way; `result` once it has been heard."""

    def __init__(self, number: int, window: Any, bucket: int | None):
        self.number, self.window, self.bucket = number, window, bucket
        self.result = window if bucket is None else None


def hear(
    items: Iterable,
    run: Callable[[list, int], list],
    bucket: Callable[[Any], int],
    *,
    batch: int,
    window_bytes: int,
) -> Iterator:
    """Windows of one length go through the model together, of whichever sounds they are.

    Args:
      items: from `read`.
      run: windows, at most `batch`, and their bucket -> a result for each.
      bucket: which windows may go together.
      batch: windows at once.
      window_bytes: of one window, as in `read`.

    Yields:
      (number, result) in the order of `items`, End as it came.
    """
    try:
        yield from _hear(iter(items), run, bucket, batch, window_bytes)
    finally:
        # An exception's traceback would keep `read` alive, and its threads at work.
        if hasattr(items, "close"):
            items.close()


def _hear(items, run, bucket, batch, window_bytes):
    most = max(batch, min(4 * batch, _MEMORY // window_bytes))
    waiting, counts = collections.deque(), collections.Counter()  # windows not heard, by bucket
    ended = False
    while waiting or not ended:
        while waiting and waiting[0].result is not None:
            entry = waiting.popleft()
            yield entry.number, entry.result
        while not ended and (
            not waiting or (counts[waiting[0].bucket] < batch and counts.total() < most)
        ):
            found = next(items, None)
            ended = found is None
            if found and isinstance(found[1], End):
                if not waiting:
                    yield found
                else:
                    waiting.append(_Entry(*found, None))
            elif found:
                waiting.append(_Entry(*found, bucket(found[1])))
                counts[waiting[-1].bucket] += 1
        if not waiting:
            continue
        size = waiting[0].bucket
        chosen = [e for e in waiting if e.result is None and e.bucket == size][:batch]
        # A full batch takes about half as long as its windows one by one.
        chosen = chosen if 2 * len(chosen) > batch else chosen[:1]
        for entry, result in zip(chosen, run([e.window for e in chosen], size), strict=True):
            entry.result, entry.window = result, None
        counts[size] -= len(chosen)
