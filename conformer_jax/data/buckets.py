"""Evaluation batches of clips of about one length: short ones are not padded to the longest."""

import numpy as np

from conformer_jax.data.host_loader import stack

_FEWEST = 8  # tokens: shorter buckets would save little


def bucket_lengths(samples_per_token: int, longest: int) -> list[int]:
    """8, 16, 32, ... tokens, in samples, below `longest`, which is the last.

    They are few, since a program is compiled for each that occurs.
    """
    lengths, length = [], _FEWEST * samples_per_token
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def regroup(batches, lengths):
    """The valid rows of evaluation batches, in batches of the shortest length that holds them.

    For one process only: of several, each would make other batches.

    Args:
      batches: as of `host_loader.eval_batches`, audio [B, N].
      lengths: from `bucket_lengths`; the last is N.

    Yields:
      the same dicts, audio [B, length]. Of each length the last batch is filled with valid = 0.
    """
    waiting = {length: [] for length in lengths}
    size = 0
    for batch in batches:
        size = len(batch["valid"])
        for i in np.flatnonzero(batch["valid"]):
            length = next(n for n in lengths if n >= batch["num_samples"][i])
            row = {name: values[i] for name, values in batch.items()}
            # A copy: a view would keep the batch in memory.
            waiting[length].append({**row, "audio": row["audio"][:length].copy()})
            if len(waiting[length]) == size:
                yield stack(waiting[length])
                waiting[length].clear()
    for rows in filter(None, waiting.values()):
        empty = {name: np.zeros_like(value) for name, value in rows[0].items()}
        yield stack(rows + [empty] * (size - len(rows)))
