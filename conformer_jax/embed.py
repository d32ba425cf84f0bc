"""python -m conformer_jax.embed MODEL DIR --output=FOLDER

Writes a vector for every window of every recording below a folder.
"""

import argparse
import os
import pathlib
import sys

from conformer_jax.command import using


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.embed",
        description="Write a vector for every window of every recording below a folder: "
        "FOLDER/embeddings.npy (float32, numpy.load(..., mmap_mode='r')) and "
        "FOLDER/embeddings.csv (file, start, end, row). The same command again adds new files.",
    )
    made.add_argument("model", metavar="MODEL", help="workdir of a run, a bundle, a .safetensors "
                      "file, or pretrained:tiny")  # fmt: skip
    made.add_argument("folder", metavar="DIR", help="the recordings")
    made.add_argument("--output", metavar="FOLDER", required=True, help="where to write")
    made.add_argument("--window", type=float, metavar="S", help="s heard at once; default: as in "
                      "training")  # fmt: skip
    made.add_argument("--hop", type=float, metavar="S", help="s from one window to the next; "
                      "default: a window, so that they lie side by side")  # fmt: skip
    made.add_argument("--parquet", action="store_true", help="write FOLDER/embeddings.parquet, "
                      "too, anew each time (needs pyarrow)")  # fmt: skip
    made.add_argument("--moved", action="store_true", help="the recordings are those that FOLDER "
                      "is of, though they lie in another place and not all are there")  # fmt: skip
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _embed(args))


def _embed(args) -> int:
    from conformer_jax.errors import UserError
    from conformer_jax.inference import embeddings, parquet
    from conformer_jax.inference import model as models
    from conformer_jax.training import lock

    if not pathlib.Path(args.folder).is_dir():
        raise UserError(f"{args.folder} is not a folder")
    if args.parquet:
        parquet.check()
    embeddings.check_folder(args.output)
    output = os.path.realpath(args.output)
    found = [
        one
        for one in using.inputs([args.folder])
        if not os.path.realpath(one.path).startswith(output + os.sep)
    ]
    model = models.load(args.model)
    size, hop = model.window_samples(args.window, args.hop)
    made_with = {"model": model.digest, "window": size, "hop": hop}
    origin = {
        "model": os.path.abspath(args.model) if os.path.exists(args.model) else args.model,
        "recordings": os.path.abspath(args.folder),
        "sample_rate": model.sample_rate,
    }
    names = _names(args, found)
    with lock.alone(args.output, "--output"):
        if not args.moved:
            embeddings.check_recordings(args.output, args.folder, names.values())
        store = embeddings.Store(args.output, made_with, model.width, origin)
        bad, new = _add(args, model, store, names)
        if args.parquet:
            parquet.write(args.output)
    print(
        f"{new} new of {len(found)} files; {store.rows} vectors of width "
        f"{model.width} in {args.output}/{embeddings.VECTORS}"
    )
    return bad.close(len(found))


def _names(args, found) -> dict:
    """What the table calls the files."""
    from conformer_jax.inference import embeddings

    relative = ((one, one.path.relative_to(args.folder).as_posix()) for one in found)
    return {one: embeddings.written(name) for one, name in relative}


def _add(args, model, store, names):
    """Hears what is new; returns the files that could not be used and how many were added."""
    import numpy as np
    import tqdm

    from conformer_jax.inference.ahead import End

    new = [one for one in names if names[one] not in store.files]
    bad, parts = using.Bad(), []
    heard = model.parts_of_files(
        ((one.path, 0) for one in new), "embedding", window_s=args.window, hop_s=args.hop
    )
    with tqdm.tqdm(total=len(new), unit="file", disable=None, leave=False) as bar:
        for number, part in heard:
            if not isinstance(part, End):
                parts.append(part)
                continue
            if part.error:
                bad.add(new[number], str(part.error))
            else:
                vectors = np.stack([p.values["embedding"] for p in parts])
                times = ([getattr(p, name) for p in parts] for name in ("start", "end"))
                store.add(names[new[number]], vectors, *times)
            parts = []
            bar.update()
    return bad, len(new) - len(bad.reasons)


if __name__ == "__main__":
    sys.exit(main())
