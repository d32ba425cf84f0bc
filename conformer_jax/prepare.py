"""python -m conformer_jax.prepare CORPUS --source=KIND:PATH --output=DIR

Makes a corpus ready for training: shards that are read fast, with splits, folds and labels.
"""

import argparse
import csv
import importlib.util
import os
import pathlib
import re
import sys
from typing import NamedTuple

from conformer_jax.command import using


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from conformer_jax.corpora.catalogue import CORPORA
    from conformer_jax.corpora.encoding import ENCODINGS

    known = "\n".join(f"  {name:<16} {corpus.about}" for name, corpus in CORPORA.items())
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.prepare",
        description="Make a corpus ready for training: ArrayRecord shards that TFDS and Grain "
        "open, with splits, folds, labels and a summary of what was found. The same command again "
        f"goes on where it was interrupted.\n\ncorpora:\n{known}\n\nsources: folder:DIR (as "
        "published), manifest:FILE.csv, parquet:DIR (Hugging Face), tar:DIR (WebDataset),\n"
        "json:FILE (AST, EAT), h5:FILE (PaSST). docs/data.md leads through it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("corpus", metavar="CORPUS", help="one of the above; `any` for your own")
    made.add_argument("--source", metavar="KIND:PATH", required=True, help="the recordings")
    made.add_argument("--output", metavar="DIR", required=True,
                      help="where DIR/<name>/1.0.0 is written")  # fmt: skip
    made.add_argument("--name", help="of the data set; default: the corpus's own")
    made.add_argument("--encoding", choices=ENCODINGS, default="flac",
                      help="flac: half the size (default); pcm16: fastest to read")  # fmt: skip
    made.add_argument("--sample_rate", type=int, default=0, metavar="HZ",
                      help="resample; default: each recording keeps its own")  # fmt: skip
    made.add_argument("--segment", type=float, default=0.0, metavar="S",
                      help="cut recordings into pieces of S seconds")  # fmt: skip
    made.add_argument("--overlap", type=float, default=0.0, metavar="S",
                      help="with --segment: what a piece shares with the one before")  # fmt: skip
    made.add_argument("--trim", type=float, default=0.0, metavar="DB",
                      help="leave out what lies DB below the loudest sound at both ends, e.g. "
                      "60")  # fmt: skip
    made.add_argument("--drop_duplicates", action="store_true",
                      help="leave out copies of equal audio; they are counted anyway")  # fmt: skip
    made.add_argument("--only-ids", metavar="FILE", dest="only_ids",
                      help="only the clips listed there, one a line: another group's "
                      "list")  # fmt: skip
    made.add_argument("--shard_clips", type=int, default=1024, metavar="N", help="default: 1024")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                      help="processes on this machine; default: its cores")  # fmt: skip
    made.add_argument("--engine", choices=("auto", "beam", "processes"), default="auto",
                      help="auto: Apache Beam where it is installed (pip install "
                      "-e '.[prepare]')")  # fmt: skip
    made.add_argument("--beam", action="append", default=[], metavar="OPTION",
                      help="an option of Beam's, as --beam=--runner=DataflowRunner; may be "
                      "repeated")  # fmt: skip
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # an accelerator is left to runs that train
    args = parser().parse_args(argv)
    return using.answer(lambda: _prepare(args))


def _prepare(args) -> int:
    from conformer_jax.corpora import sources
    from conformer_jax.corpora.catalogue import CORPORA
    from conformer_jax.errors import UserError, unknown
    from conformer_jax.training import lock

    if args.corpus not in CORPORA:
        raise UserError(unknown("corpus", args.corpus, list(CORPORA)))
    corpus, options, name = CORPORA[args.corpus], _options(args), args.name or args.corpus
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"--name={name}: small letters, digits and _ only, a letter first")
    listing = corpus.listing(sources.open_source(args.source))
    _check_listing(listing)
    kept, restricted = _only(listing, args.only_ids)
    there = kept._replace(clips=[clip for clip in kept.clips if clip.place is not None])
    missing = [(clip.id, clip.split, "missing") for clip in kept.clips if clip.place is None]
    if not there.clips:
        raise UserError(f"{args.source}: none of {len(missing)} clips was found there")
    folder = pathlib.Path(args.output, name)
    with lock.alone(folder, "--output"):
        return _make(args, corpus, name, folder, options, _Listed(kept, there, missing, restricted))


class _Listed(NamedTuple):
    """kept: the Listing of what is wanted; there: of what has audio; missing: (id, split, reason)
    of the others; restricted: how many --only-ids has left out."""

    kept: object
    there: object
    missing: list
    restricted: int


def _make(args, corpus, name, folder, options, listed) -> int:
    from conformer_jax.corpora import engine, summary
    from conformer_jax.data import prepared
    from conformer_jax.errors import UserError

    drop = args.drop_duplicates
    planned = engine.plan(folder, listed.there, options, args.shard_clips, drop_duplicates=drop)
    final = planned.staging.parent / engine.VERSION
    if final.exists():
        found = prepared.open_folder(final).summary
        engine.forget(planned)
        if found["plan"] != planned.digest:
            raise UserError(
                f"{final} holds another preparation of {name}, by other options or of audio that "
                "has changed since: remove it, or choose another --output or --name"
            )
        print(f"{final} is there already\n{summary.describe(found)}")
        return 0
    engine.run(planned, _work(args))
    made = engine.collect(planned, options.encoding, drop_duplicates=drop)
    made = made._replace(bad=listed.missing + made.bad)
    kind, _, path = args.source.partition(":")
    about = {"name": name} | summary.build(
        corpus,
        f"{kind}:{os.path.basename(os.path.abspath(path))}",
        listed.kept,
        made,
        options,
        restricted=listed.restricted,
        dropped=drop,
    )
    final = engine.hand_over(planned, made, corpus, name, listed.kept.classes, options, about)
    print(f"Wrote {final}\n{summary.describe(about)}")
    print(f"Next: python -m conformer_jax.inspect {final}")
    return 0


def _options(args):
    from conformer_jax.corpora.encoding import Options
    from conformer_jax.data.sound_file import HIGHEST_RATE, LOWEST_RATE
    from conformer_jax.errors import UserError

    if args.sample_rate and not LOWEST_RATE <= args.sample_rate <= HIGHEST_RATE:
        raise UserError(f"--sample_rate={args.sample_rate}: {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if args.segment < 0 or args.trim < 0 or not 0 <= args.overlap <= args.segment:
        raise UserError("--segment, --overlap and --trim are not negative, and --overlap is less")
    if args.segment and args.overlap >= args.segment:
        raise UserError(f"--overlap={args.overlap:g} must be less than --segment={args.segment:g}")
    if args.shard_clips < 1 or args.workers < 1:
        raise UserError("--shard_clips and --workers are at least 1")
    return Options(args.encoding, args.sample_rate, args.segment, args.overlap, args.trim)


def _work(args):
    from conformer_jax.corpora.engine import Work
    from conformer_jax.errors import UserError

    has_beam = importlib.util.find_spec("apache_beam") is not None
    engine = args.engine
    if engine == "auto":
        engine = "beam" if has_beam or args.beam else "processes"
    if args.beam and engine == "processes":
        raise UserError("--beam and --engine=processes do not go together")
    return Work(engine, args.workers, tuple(args.beam))


def _check_listing(listing):
    from conformer_jax.errors import UserError

    seen = {}
    for clip in listing.clips:
        if seen.setdefault((clip.split, clip.id), clip) is not clip:
            raise UserError(f"the clip {clip.id} is listed twice in split {clip.split}")
        if not re.fullmatch(r"[A-Za-z0-9_]+", clip.split):
            raise UserError(f"split {clip.split!r} of {clip.id}: letters, digits and _ only")


def _only(listing, path):
    """The listing restricted to the ids of a file, and how many clips that leaves out."""
    from conformer_jax.errors import UserError

    if not path:
        return listing, 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            wanted = {row[0].strip() for row in csv.reader(file) if row}
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--only-ids={path} cannot be read: {e}") from None
    kept = [clip for clip in listing.clips if clip.id in wanted]
    if not kept:
        raise UserError(f"--only-ids={path}: none of its ids is in the corpus, such as "
                        f"{listing.clips[0].id}")  # fmt: skip
    return listing._replace(clips=kept), len(listing.clips) - len(kept)


if __name__ == "__main__":
    sys.exit(main())
