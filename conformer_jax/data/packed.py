"""Many short texts in two arrays: their bytes, and where each begins."""

import numpy as np

_AT_A_TIME = 1 << 16  # texts: millions of Python's numbers are large


def pack(texts) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [m], int64 [n + 1]) of n texts."""
    encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), starts


def text_of(packed, starts, i) -> str:
    """The text of number `i`."""
    return packed[starts[i] : starts[i + 1]].tobytes().decode()


def each(packed, starts, numbers):
    """Yields the texts of these numbers, as bytes."""
    whole = packed.tobytes()
    for start in range(0, len(numbers), _AT_A_TIME):
        some = numbers[start : start + _AT_A_TIME]
        first, last = starts[:-1][some].tolist(), starts[1:][some].tolist()
        yield from (whole[a:b] for a, b in zip(first, last, strict=True))
