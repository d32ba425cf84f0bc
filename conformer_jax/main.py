"""python -m conformer_jax.main --config=configs/pretrain.py[:variant] [--workdir=DIR]"""

import logging
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from conformer_jax import overrides

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and variant, such as configs/pretrain.py:small.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config name> by default.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, print what it is, and exit.")


def main(argv):
    """Runs the config; a user's mistake ends in one line and exit code 1."""
    import jax

    from conformer_jax import dry_run, host_memory, run
    from conformer_jax.errors import UserError

    if len(argv) > 1:
        _fail(f"unknown argument {argv[1]!r}: flags are written --name=value")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for noisy in ("absl", "asyncio", "jax", "matplotlib", "orbax", "tensorflow"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    host_memory.keep_freed_memory()
    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", config.name)
    try:
        closing = dry_run.describe(config) if DRY_RUN.value else run.run(config, workdir)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}: mend it and run the same command again")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail("the device has too little memory: lower --config.data.batch_size")
    except KeyboardInterrupt:
        saved = f"the last checkpoint in {workdir}, if there is one already"
        print(
            f"error: interrupted: the same command goes on from {saved}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(130)  # at once: TensorFlow's threads may crash an interpreter that winds down
    if closing:
        print(closing)


def _parse(argv):
    """Parses the flags; an unknown variant or field ends in one line with the known ones."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise ValueError("--config is missing: try --config=configs/pretrain.py")
        CONFIG.value.name  # noqa: B018  (a file that failed to load raises only when it is used)
        return rest
    except (AttributeError, KeyError) as error:
        _fail(overrides.explain_unknown_field(argv) or str(error))
    except Exception as error:
        _fail(overrides.explain_unreadable_config(argv, str(error)))


def _fail(message: str, code: int = 1):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
