"""Reading ahead and batches over files: order, errors, bounded, and nothing left running."""

import itertools
import subprocess
import sys
import threading
import time

import pytest

from conformer_jax.errors import UserError
from conformer_jax.inference import ahead
from conformer_jax.inference.ahead import End


def sounds(counts, error_in=None):
    def sound(number, count):
        for i in range(count):
            yield number, i
        if number == error_in:
            raise UserError("broken")

    return [lambda n=n, c=c: sound(n, c) for n, c in enumerate(counts)]


def heard(items, bucket=lambda window: 1, batch=4, runs=None):
    def run(windows, size):
        if runs is not None:
            runs.append((len(windows), size))
        assert {bucket(w) for w in windows} == {size}
        return [f"{n}.{i}" for n, i in windows]

    return list(ahead.hear(items, run, bucket, batch=batch, window_bytes=1))


@pytest.mark.parametrize("threads", [1, 3])
def test_windows_come_in_order_with_an_end_after_each_sound(threads):
    counts = [3, 0, 1, 40, 1, 1, 0, 5]
    read = ahead.read(sounds(counts, error_in=4), window_bytes=1, threads=threads)
    runs = []
    found = heard(read, runs=runs)
    by_sound = {n: [x for m, x in found if m == n] for n in range(len(counts))}
    for n, count in enumerate(counts):
        assert by_sound[n][:-1] == [f"{n}.{i}" for i in range(count)]
        end = by_sound[n][-1]
        assert isinstance(end, End)
        assert (str(end.error) if end.error else None) == ("broken" if n == 4 else None)
    assert [n for n, _ in found] == sorted(n for n, _ in found)
    assert [size for size, _ in runs[:-1]] == [4] * 12  # 51 windows: 12 full batches
    assert runs[-1][0] == 3


def test_windows_of_other_lengths_wait_for_their_like():
    runs = []
    read = ahead.read(sounds([1] * 64), window_bytes=1, threads=1)
    found = heard(read, bucket=lambda window: window[0] % 2, runs=runs)
    assert [x for _, x in found if not isinstance(x, End)] == [f"{n}.0" for n in range(64)]
    assert {size for size, _ in runs} == {4}


def test_memory_is_bounded_by_windows_whoever_is_slow():
    made = itertools.count()

    def endless():
        while True:
            yield 0, next(made)

    read = ahead.read([endless] * 9, window_bytes=ahead._MEMORY, threads=2)
    next(read)
    time.sleep(0.2)
    assert next(made) < 10  # of each of two: one in the queue, one in the hand
    read.close()
    deadline = time.monotonic() + 10
    while any(t.name.startswith("read-ahead") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread reads on though nobody listens"
        time.sleep(0.05)


def test_what_is_no_users_mistake_is_raised_where_it_is_asked_for():
    def broken():
        yield 0, 0
        raise MemoryError

    with pytest.raises(MemoryError):
        list(ahead.read([broken], window_bytes=1))


ENDLESS = """
import itertools
from conformer_jax.inference import ahead

def run(windows, size):
    if {fails}:
        raise RuntimeError("no memory on the device")
    return windows

read = ahead.read([itertools.count] * 3, window_bytes=1)
heard = ahead.hear(read, run, lambda window: 1, batch=4, window_bytes=1)
next(heard)
"""


@pytest.mark.parametrize(("fails", "code"), [(True, 1), (False, 0)])
def test_a_process_ends_though_its_threads_were_not_told_to(fails, code):
    """An exception, and an iterator that nobody goes on with."""
    command = [sys.executable, "-c", ENDLESS.format(fails=fails)]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == code
