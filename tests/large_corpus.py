"""Writes a prepared corpus of so many clips as AudioSet has, all the same second of noise.

    python tests/large_corpus.py FOLDER [--clips=2000000]
    python -m conformer_jax.benchmark --config=configs/finetune.py:audioset --config.data.prepared=FOLDER --data

The index is real (names, 1 to 3 of 527 labels each, splits of AudioSet's names); the shards are
links to one file, so that it takes a minute and 300 MB. What it is for: how long a list of millions
takes to open, what it holds in memory, and when the first batch of any step is there.
"""  # noqa: E501

import argparse
import json
import os
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from conformer_jax.corpora import encoding, shard
from conformer_jax.data import prepared

RATE, CLASSES, OF_A_SHARD = 16000, 527, 5000
SHARES = {"train_balanced": 0.011, "train_unbalanced": 0.979, "eval": 0.01}


def records(split, count, rng):
    """An Index's Records of a split."""
    labels = np.minimum(rng.geometric(0.01, (count, 3)), CLASSES) - 1  # few classes have most
    several = rng.integers(1, 4, count)
    numbers = rng.integers(0, 2**63, count).tolist()
    for i in range(count):
        own = tuple(sorted(set(labels[i, : several[i]].tolist())))
        name = f"{split}/Y{numbers[i]:016x}.wav"
        yield prepared.Record(name, numbers[i], numbers[i], RATE, RATE, own, "", name, 0.0)


def main():
    """Writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--clips", type=int, default=2_000_000)
    options = parser.parse_args()
    options.folder.mkdir()
    rng = np.random.default_rng(0)
    pcm = np.rint(3000 * rng.standard_normal(RATE)).astype(np.int16)
    audio = encoding.encode(encoding.Piece(pcm, RATE, 0.0), "pcm16")
    one = prepared.Record("noise", 1, 1, RATE, RATE, (0,), "", "noise", 0.0)
    first = options.folder / "noise.array_record"
    writer = shard._writer(first, "pcm16")
    for _ in range(OF_A_SHARD):
        writer.write(prepared.serialize(one, audio))
    writer.close()
    summary = {"corpus": "audioset", "classes": [f"class {i}" for i in range(CLASSES)]}
    summary |= {"classes_sha256": "0" * 64, "stored": {"encoding": "pcm16", "sample_rate": 0}}
    summary |= {"splits": {}, "shards": {}}
    for split, share in SHARES.items():
        count = round(share * options.clips)
        index = prepared.make_index(list(records(split, count, rng)))
        np.savez(options.folder / f"clips-{split}.npz", **index._asdict())
        shards = []
        for start in range(0, count, OF_A_SHARD):
            name = f"{split}-{start // OF_A_SHARD:05d}.array_record"
            os.link(first, options.folder / name)
            shards.append((name, min(OF_A_SHARD, count - start)))
        summary["shards"][split] = shards
        summary["splits"][split] = {"found": count, "ids_sha256": "0" * 64}
    (options.folder / prepared.SUMMARY).write_text(json.dumps(summary))
    print(f"{options.clips} clips in {options.folder}")


if __name__ == "__main__":
    main()
