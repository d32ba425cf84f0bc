"""python -m conformer_jax.main --config=configs/pretrain.py[:variant] [--workdir=DIR]"""

import os

from absl import app, flags

from conformer_jax import overrides

CONFIG = overrides.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config name> by default.")
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "Of process 0: host:port.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_CRASHED = 70  # EX_SOFTWARE of sysexits.h: maybe not the user's mistake, worth another try
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, print what it is, and exit.")


def main(argv):
    """Runs the config; a user's mistake ends in one line and exit code 1."""
    import jax

    from conformer_jax import distributed, dry_run, host_memory, preemption, progress, run
    from conformer_jax.errors import TOO_LITTLE_MEMORY, UserError

    progress.set_up_logging()
    host_memory.keep_freed_memory()
    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", config.name)
    try:
        distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        progress.set_up_logging(active=jax.process_index() == 0)
        closing = dry_run.describe(config) if DRY_RUN.value else run.run(config, workdir)
    except preemption.Preempted as stopped:
        said = f"{stopped} by SIGTERM and saved: the same command goes on"
        overrides.fail(said, preemption.EXIT_CODE)
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        # Of several processes, winding down would wait for the others, which wait for this one.
        several = jax.process_count() > 1
        if isinstance(error, UserError):
            overrides.fail(str(error), at_once=several)
        if isinstance(error, OSError):
            said = f"{error}: mend it and run the same command again"
            overrides.fail(said, _CRASHED, at_once=several)
        if "RESOURCE_EXHAUSTED" in str(error):
            overrides.fail(TOO_LITTLE_MEMORY, at_once=several)
        if not several:
            raise
        reason = str(error).splitlines()[0]
        overrides.fail(f"another process may have died: {reason}", _CRASHED, at_once=True)
    except KeyboardInterrupt:
        # TensorFlow's threads may crash an interpreter that winds down.
        overrides.fail(f"interrupted: the same command goes on in {workdir}", 130, at_once=True)
    if closing and jax.process_index() == 0:
        print(closing)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG))
