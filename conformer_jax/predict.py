"""python -m conformer_jax.predict MODEL FILE|DIR... [--output=FILE] [--page=FILE]

Says what is heard when in recordings of any length.
"""

import argparse
import os
import pathlib
import shutil
import sys

from conformer_jax.command import using

FORMATS = ("text", "csv", "json", "audacity", "raven")
_ONE_LABEL, _SEVERAL = 0.3, 0.5  # thresholds of models that have none of their own
_HELP = {
    "model": "workdir of a fine-tuned run or of a probe, a bundle, or a model.safetensors",
    "output": "file to write; printed without it. Of several recordings for Audacity: a folder, "
    "with a label track of each",
    "page": "write a web page, too: spectrogram, labels over time, a player; one file (.html)",
    "top": "instead of events, the N likeliest labels of every stretch of time",
    "threshold": "probability that an event reaches. Default: the model's own where it has some; "
    "else 0.5, or, where one label holds at a time, the likeliest from 0.3 on",
    "release": "an event goes on while it is at least this share of the threshold; default: 0.5",
    "overlap": "share of a window that the next hears, too, from 0 to 0.95; default: 0.5",
    "merge": "events of a label with at most this between them become one, where one label holds "
    "at a time not over another one; default: 0",
    "without": "leave events of this label out, such as a class for everything else; may be given "
    "several times",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.predict",
        description="Say what is heard when: a trained model listens to recordings of any length "
        "in overlapping windows, and what it hears becomes events with a start and an end.",
    )
    add = made.add_argument
    add("model", metavar="MODEL", help=_HELP["model"])
    add("sounds", metavar="FILE|DIR", nargs="+", help="recordings, or folders of them")
    add("--format", choices=FORMATS, default="text", help="default: text")
    add("--output", metavar="FILE", help=_HELP["output"])
    add("--page", metavar="FILE", help=_HELP["page"])
    add("--overwrite", action="store_true", help="replace the output or page if it exists")
    add("--top", type=int, metavar="N", help=_HELP["top"])
    add("--threshold", type=float, metavar="P", help=_HELP["threshold"])
    add("--release", type=float, default=0.5, metavar="SHARE", help=_HELP["release"])
    add("--window", type=float, metavar="S", help="s heard at once; default: as in training")
    add("--overlap", type=float, default=0.5, metavar="SHARE", help=_HELP["overlap"])
    add("--min", type=float, default=0.0, metavar="S", help="drop shorter events; default: 0")
    add("--merge", type=float, default=0.0, metavar="S", help=_HELP["merge"])
    add("--without", action="append", default=[], metavar="LABEL", help=_HELP["without"])
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _predict(args))


def _predict(args) -> int:
    _check(args)
    found = using.inputs(args.sounds)
    many_tracks = args.format == "audacity" and len(found) > 1
    if many_tracks and not args.output:
        from conformer_jax.errors import UserError

        raise UserError("several recordings for Audacity: give --output=FOLDER, one track for each")
    from conformer_jax.inference import model as models

    model = models.load(args.model)
    model.check_head()
    model.window_samples(args.window)
    _check_labels(args.without, model.label_names)
    partial = _partial(args.output)
    heard, bad = _hear(args, model, found, partial)
    if heard:
        _write(args, model, heard, many_tracks)
        if args.page:
            _write_page(args, model, heard)
    if partial is not None:
        shutil.rmtree(partial)
    return bad.close(len(found))


def _check(args):
    """Raises UserError for what makes no sense, before anything is loaded."""
    from conformer_jax.errors import UserError

    ranges = {
        "threshold": args.threshold is None or 0 <= args.threshold <= 1,
        "release": 0 < args.release <= 1,
        "overlap": 0 <= args.overlap <= 0.95,
        "window": args.window is None or args.window > 0,
        "min": args.min >= 0,
        "merge": args.merge >= 0,
        "top": args.top is None or args.top >= 1,
    }
    for name, fine in ranges.items():
        if not fine:
            raise UserError(f"--{name}={getattr(args, name)}: out of range, see --help")
    if args.output and args.page and os.path.abspath(args.output) == os.path.abspath(args.page):
        raise UserError("--output and --page name the same file: choose two")
    for flag in ("output", "page"):
        using.check_output(flag, getattr(args, flag), overwrite=args.overwrite)


def _check_labels(without, known):
    from conformer_jax.data import labels

    labels.check_names(without, known, "--without")


def _partial(output):
    """The folder that keeps what was heard until the output is whole."""
    if not output:
        return None
    folder = pathlib.Path(output + ".partial")
    folder.mkdir(exist_ok=True)
    return folder


def _hear(args, model, found, partial):
    """Tables' Heard of every file that could be read; the others."""
    import tqdm

    from conformer_jax.errors import UserError
    from conformer_jax.inference import events, progress_file, tables

    heard, bad = [], using.Bad()
    window_s = args.window or model.window_s
    hop_s = window_s * (1 - args.overlap)
    rules = events.Rules(
        _thresholds(args, model), args.release, args.min, args.merge, single=not model.multi_label
    )
    with tqdm.tqdm(total=len(found), unit="file", disable=None, leave=False) as bar:

        def tell(number, seconds):
            bar.set_description(found[number].path.name)
            bar.set_postfix_str(f"{tables.clock(seconds)} heard")

        paths = (one.path for one in found)
        options = {"window_s": window_s, "hop_s": hop_s, "folder": partial, "advance": tell}
        for one, known in zip(found, progress_file.hear(model, paths, **options), strict=True):
            bar.update()
            if isinstance(known, UserError):
                bad.add(one, str(known))
                continue
            p, bounds = events.average(model.probabilities(known.logits), known.start, known.end)
            if args.top:
                left = [name not in args.without for name in model.label_names]
                here = [e for e in events.likeliest(p, bounds, args.top) if left[e.label]]
            else:
                here = events.find(p, bounds, rules)
            heard.append(tables.Heard(one.name, float(known.end[-1]), here))
    return heard, bad


def _thresholds(args, model):
    import numpy as np

    given, names = args.threshold, model.label_names
    if given is None and model.thresholds is not None:
        found = np.array(model.thresholds)
    else:
        default = _SEVERAL if model.multi_label else _ONE_LABEL
        found = np.full(len(names), default if given is None else given)
    found[np.isin(names, args.without)] = np.inf
    return found


def _write(args, model, heard, many_tracks):
    from conformer_jax.inference import tables

    writer = tables.WRITERS[args.format]
    if not many_tracks:
        text = writer(heard, model.label_names)
        if not args.output:
            sys.stdout.write(text)
            return
        using.write_whole(args.output, text)
    else:
        folder = pathlib.Path(args.output)
        folder.mkdir(exist_ok=True)
        names = _track_names([one.name for one in heard])
        for name, one in zip(names, heard, strict=True):
            using.write_whole(folder / name, writer([one], model.label_names))
    count = sum(len(one.events) for one in heard)
    rows, recordings = (
        f"{n} {what}{'' if n == 1 else 's'}"
        for n, what in ((count, "row"), (len(heard), "recording"))
    )
    print(f"Wrote {args.output}: {rows} of {recordings}")


def _write_page(args, model, heard):
    import functools

    import tqdm

    from conformer_jax.inference import windows
    from conformer_jax.reporting import heard as pages
    from conformer_jax.reporting import player

    names, shown = model.label_names, heard[: pages.RECORDINGS]
    seconds = pages.shares([one.duration for one in shown])
    found = []
    for one, share in zip(
        tqdm.tqdm(shown, "page", disable=None, leave=False), seconds, strict=True
    ):
        events = [player.Event(e.start, e.end, names[e.label], e.probability) for e in one.events]
        read = functools.partial(windows.read_part, one.name, model.sample_rate)
        found.append(
            pages.recording(one.name, events, one.duration, share, model.feature_spec, read)
        )
    title = f"Heard by {args.model}"
    using.write_page(args.page, pages.recordings(title, found, len(heard) - len(shown)))


def _track_names(names) -> list[str]:
    """A file name for each; of equal ones the folders are written, too."""
    short = [pathlib.Path(name).stem for name in names]
    whole = [pathlib.Path(name).with_suffix("").as_posix().strip("./") for name in names]
    return [
        (s if short.count(s) == 1 else f"{w.replace('/', '_')}_{i}") + ".txt"
        for i, (s, w) in enumerate(zip(short, whole, strict=True))
    ]


if __name__ == "__main__":
    sys.exit(main())
