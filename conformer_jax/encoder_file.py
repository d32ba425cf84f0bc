"""Writes the encoder of a run as one small file, which config.init_from takes:

python -m conformer_jax.encoder_file WORKDIR FILE.safetensors
"""

import logging
import pathlib
import sys

import safetensors

from conformer_jax.errors import UserError
from conformer_jax.training import checkpoint, clips, encoder_file


def main(argv):
    """The command; returns its exit code."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # of Orbax
    if argv in (["--help"], ["-h"]):
        print(__doc__.strip())
        return 0
    if len(argv) != 2 or not argv[1].endswith(encoder_file.SUFFIX):
        print(__doc__.strip().splitlines()[-1].strip(), file=sys.stderr)
        return 2
    try:
        encoder, meta = checkpoint.read_encoder(argv[0])
        heard = clips.of_encoder(argv[0])
        encoder_file.save(argv[1], encoder, meta, heard)
    except (UserError, OSError, safetensors.SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = pathlib.Path(argv[1]).stat().st_size
    count = "not recorded" if heard is None else f"{len(heard.clips)} clips"
    print(f"Wrote {argv[1]}: step {meta['step']}, {size / 1e6:.1f} MB, heard: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
