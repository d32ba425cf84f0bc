"""python -m conformer_jax.main --config=configs/pretrain.py[:variant] [--workdir=DIR]"""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

from conformer_jax import overrides

CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:VARIANT]", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config name> by default.")
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "Of process 0: host:port.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_CRASHED = 70  # EX_SOFTWARE of sysexits.h: not the user's mistake, worth another try
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, print what it is, and exit.")


def main(argv):
    """Runs the config; a user's mistake ends in one line and exit code 1."""
    import jax

    from conformer_jax import distributed, dry_run, host_memory, preemption, progress, run
    from conformer_jax.errors import UserError

    progress.set_up_logging()
    host_memory.keep_freed_memory()
    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", config.name)
    try:
        distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        progress.set_up_logging(active=jax.process_index() == 0)
        closing = dry_run.describe(config) if DRY_RUN.value else run.run(config, workdir)
    except UserError as error:
        # Of several processes, winding down would wait for the others, which wait for this one.
        _fail(str(error), at_once=jax.process_count() > 1)
    except preemption.Preempted as stopped:
        _fail(f"{stopped} by SIGTERM and saved: the same command goes on", preemption.EXIT_CODE)
    except OSError as error:
        _fail(f"{error}: mend it and run the same command again")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            _fail("the device has too little memory: lower --config.data.batch_size")
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0]
        _fail(f"another process may have died: {reason}", _CRASHED, at_once=True)
    except KeyboardInterrupt:
        # TensorFlow's threads may crash an interpreter that winds down.
        _fail(f"interrupted: the same command goes on in {workdir}", 130, at_once=True)
    if closing and jax.process_index() == 0:
        print(closing)


def _parse(argv):
    """Parses the flags; an unknown variant or field ends in one line with the known ones."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise ValueError("--config is missing: try --config=configs/pretrain.py")
        if len(rest) > 1:
            raise ValueError(f"unknown argument {rest[1]!r}: flags are written --name=value")
        CONFIG.value.name  # noqa: B018  (a file that failed to load raises only when it is used)
        return rest
    except (AttributeError, KeyError) as error:
        _fail(overrides.explain_unknown_field(argv) or str(error))
    except Exception as error:
        _fail(overrides.explain_unreadable_config(argv, str(error)))


def _fail(message: str, code: int = 1, *, at_once: bool = False):
    print(f"error: {message}", file=sys.stderr, flush=True)
    (os._exit if at_once else sys.exit)(code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
