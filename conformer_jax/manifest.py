"""python -m conformer_jax.manifest DIR: a manifest (CSV) of the audio files in a folder."""

import argparse
import sys

from conformer_jax.data.audio import DataError
from conformer_jax.data.folder import write_manifest


def main(argv=None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m conformer_jax.manifest",
        description="Write a manifest (CSV) of the audio files in a folder, one subfolder a class.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder to search")
    parser.add_argument("--output", metavar="FILE", help="default: DIR/manifest.csv; replaced")
    parser.add_argument("--folds", type=int, default=0, metavar="K", help="assign folds 1 to K")
    args = parser.parse_args(argv)
    try:
        print(write_manifest(args.folder, args.output, args.folds))
    except DataError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
