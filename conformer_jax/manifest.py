"""python -m conformer_jax.manifest DIR: a manifest (CSV) of the audio files in a folder."""

import argparse
import sys

from conformer_jax.data.annotations import FORMATS
from conformer_jax.data.audio import DataError
from conformer_jax.data.folder import Annotated, write_manifest

_CRASHED, _INTERRUPTED = 70, 130  # as of the commands that train


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m conformer_jax.manifest",
        description="Write a manifest (CSV) of the audio files in a folder, one subfolder a class.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", help="folder to search")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: DIR/manifest.csv; replaced where nothing in it is lost",
    )
    parser.add_argument(
        "--label_from",
        default="parent",
        metavar="LEVEL",
        help="which folder's name is a file's label: parent (the one that holds the file, the "
        "default), top (the first below DIR), 2, 3, ... (the second, third), or none",
    )
    parser.add_argument("--folds", type=int, default=0, metavar="K", help="assign folds 1 to K")
    parser.add_argument(
        "--group",
        metavar="COLUMN|REGEX",
        help="with --folds: keep together the files that have the same value in a column of the "
        "manifest that is replaced or added, or in whose paths a regular expression finds the same",
    )
    parser.add_argument(
        "--annotations",
        choices=FORMATS,
        help="list the annotated parts of the recordings instead of whole files: from label tracks "
        "of Audacity (rec.txt beside rec.wav) or selection tables of Raven; as "
        "`python -m conformer_jax.predict --format` writes them, too",
    )
    parser.add_argument(
        "--label_column",
        default="",
        metavar="NAME",
        help="column of Raven's tables with the labels; default: Label, Annotation, Species, ...",
    )
    parser.add_argument(
        "--add",
        metavar="MANIFEST",
        help="list the rows of another manifest, too, such as that of labelled files beside "
        "annotated recordings; of a file that is listed already, none",
    )
    parser.add_argument(
        "--segment",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="list longer recordings of DIR as parts of so many seconds, such as 10, each one clip",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the manifest, also where columns, parts, labels given by hand or files from "
        "elsewhere go; what it said is kept as DIR/manifest_before.csv",
    )
    return parser


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    annotated = Annotated(args.annotations, args.label_column) if args.annotations else None
    try:
        print(
            write_manifest(
                args.folder,
                args.output,
                args.folds,
                args.label_from,
                args.group,
                annotated,
                args.add,
                args.segment,
                args.overwrite,
            )
        )
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        where = f"cannot write {e.filename}: " if e.filename else ""
        print(f"error: {where}{e.strerror or e}: mend it and try again", file=sys.stderr)
        return _CRASHED
    except KeyboardInterrupt:
        print(
            "interrupted: the manifest is what it was before, or written as a whole",
            file=sys.stderr,
        )
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
