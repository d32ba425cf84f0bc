"""python -m conformer_jax.report WORKDIR [WORKDIR ...] [--output=report.html]

Writes one HTML page on what runs have left in their folders: curves, codebook, classes, confusions,
the worst mistakes to listen to, label efficiency, cross-validation. It needs no network to be read.
"""

import os
import pathlib

if __name__ == "__main__":  # before jax is imported: the accelerator is left to runs that train
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags

from conformer_jax.command import overrides
from conformer_jax.errors import UserError
from conformer_jax.reporting import page
from conformer_jax.reporting import runs as reading


def write(workdirs, output, *, num_mistakes: int = 12) -> str:
    """Writes the page.

    Args:
      workdirs: folders of runs, or of studies (label_efficiency.json, folds.json).
      output: the HTML file; replaced where it is there.
      num_mistakes: worst mistakes shown of each run, with their sounds; 0 for none.

    Returns:
      a line on what was written, and one on each folder that was left out.

    Raises:
      UserError: no folder holds anything to report on, or the page cannot be written.
    """
    runs, studies, unusable = reading.read_all(workdirs)
    text = page.render(runs, studies, unusable, num_mistakes=num_mistakes)
    # A file name may hold bytes that are no text.
    content = text.encode("utf-8", "replace")
    try:
        pathlib.Path(output).write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot write --output={output}: {error.strerror}; name a file in a folder that exists"
        ) from error
    wrote = (
        f"Wrote {output}: {len(runs)} run(s), {len(studies)} study folder(s), "
        f"{len(content) / 1e6:.1f} MB; open it in a browser"
    )
    return "\n".join([wrote, *(f"left out: {reason}" for reason in unusable)])


def main(argv):
    """Writes the page, or says the user's mistake in one line."""
    if len(argv) < 2:
        overrides.fail("name a run's folder: python -m conformer_jax.report runs/pretrain")
    from conformer_jax.training import progress

    progress.set_up_logging()
    try:
        print(write(argv[1:], OUTPUT.value, num_mistakes=MISTAKES.value))
    except UserError as error:
        overrides.fail(str(error))


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        overrides.fail(" ".join(str(error).split()))


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", "report.html", "The page to write.")
    MISTAKES = flags.DEFINE_integer("mistakes", 12, "Worst mistakes shown a run.", lower_bound=0)
    app.run(main, flags_parser=_parse_flags)
