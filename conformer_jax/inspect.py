"""python -m conformer_jax.inspect DIR|MANIFEST [--page=inspect.html]

What is in a corpus, before a machine is rented for it: counts, balance, levels, copies and leaks,
and a page with examples of every class to see and to hear.
"""

import argparse
import os
import sys

from conformer_jax.command import using


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.inspect",
        description="Say what is in a prepared corpus or a manifest: clips, hours, classes, sample "
        "rates, loudness, silence, clipping, copies, clips that are alike, and whether a split "
        "leaks (the same recording or sound on both sides). Every clip is heard once.",
        allow_abbrev=False,
    )
    made.add_argument("corpus", metavar="DIR|MANIFEST",
                      help="what `prepare` has written, or a manifest (CSV)")  # fmt: skip
    made.add_argument("--page", metavar="FILE", default="inspect.html",
                      help="the page to write (inspect.html); '' for none")  # fmt: skip
    made.add_argument("--examples", type=int, default=2, metavar="N",
                      help="clips of each class on the page; default: 2")  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="replace the page if it exists")
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # an accelerator is left to runs that train
    args = parser().parse_args(argv)
    return using.answer(lambda: _inspect(args))


def _inspect(args) -> int:
    import functools

    import tqdm

    from conformer_jax.corpora import inspection
    from conformer_jax.errors import UserError

    if args.examples < 0:
        raise UserError(f"--examples={args.examples}: 0 or more")
    using.check_apart(args.page, args.corpus)
    using.check_output("page", args.page, overwrite=args.overwrite)
    clips = inspection.listed(args.corpus)
    bar = functools.partial(tqdm.tqdm, total=len(clips), unit="clip", disable=None, leave=False)
    found = inspection.survey(clips, bar)
    text = inspection.describe(found)
    print(text)
    if args.page:
        using.write_whole(args.page, _page(args, found, text))
        print(f"Wrote {args.page}: open it in a browser")
    return 0


_MOST = 150  # examples on a page: about 80 KB each
_SHOWN_S = 5.0
_LISTED = 200  # rows of a list


def _page(args, found, text) -> str:
    from conformer_jax import fields
    from conformer_jax.corpora import inspection
    from conformer_jax.reporting import sounds

    features = fields.get_config().features
    classes = inspection.class_rows(found)
    examples = {}
    for name, *_ in classes[: max(1, _MOST // args.examples)] if args.examples else ():
        members = [
            clip for clip in found.clips if name in (clip.labels or (inspection.UNLABELLED,))
        ]
        count = min(args.examples, len(members))
        chosen = [members[(2 * i + 1) * len(members) // (2 * count)] for i in range(count)]
        examples[name] = [_example(clip, features.sample_rate) for clip in chosen]
    names = [clip.id for clip in found.clips]
    lists = {
        "Unreadable": found.bad[:_LISTED],
        "Equal audio": [(names[i], names[j]) for i, j in found.copies[:_LISTED]],
        "Alike": [
            (names[i], f"{names[j]} ({cosine:.2f})") for i, j, cosine in found.near[:_LISTED]
        ],
    }
    for shared, pairs in inspection.leaks(found).items():
        heading = f"On both sides of a split: {shared}"
        lists[heading] = [(names[i], names[j]) for i, j in pairs[:_LISTED]]
    title = f"What is in {os.path.basename(os.path.abspath(args.corpus))}"
    return sounds.render(title, text, classes, examples, lists, features)


def _example(clip, rate):
    from conformer_jax.data.audio import resample
    from conformer_jax.reporting.sounds import Example

    audio, own = clip.read()
    count = min(len(audio), round(_SHOWN_S * own))
    start = (len(audio) - count) // 2
    return Example(clip.id, resample(audio[start : start + count], own, rate), rate)


if __name__ == "__main__":
    sys.exit(main())
