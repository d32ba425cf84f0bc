"""What all commands that train share: joining other processes, and how every error ends."""

import sys

from absl import flags

from conformer_jax.command import compilation_cache, overrides

_CRASHED = 70  # EX_SOFTWARE of sysexits.h: maybe not the user's mistake, worth another try
_INTERRUPTED = 130  # by Ctrl-C, as shells count it

flags.disclaim_key_flags()  # --help of a command lists what is defined here as its own


def define_process_flags():
    """Defines --coordinator_address, --num_processes, --process_id; returns them in this order."""
    return (
        flags.DEFINE_string("coordinator_address", None, "Of process 0: host:port."),
        flags.DEFINE_integer("num_processes", None, "How many processes there are."),
        flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0."),
    )


def execute(work, workdir, process_flags) -> None:
    """Runs `work` and prints what it returns, on process 0.

    A user's mistake ends in one line and exit code 1; a run saved on SIGTERM with 75, what another
    try may mend with 70, Ctrl-C, saved or not, with 130.

    Args:
      work: function without arguments; returns text to print or ''.
      workdir: folder of the run, for what is said.
      process_flags: from `define_process_flags`.
    """
    # Here: a mistyped flag is answered before JAX is imported, which takes seconds.
    import jax

    from conformer_jax.errors import TOO_LITTLE_MEMORY, DiskFull, UserError, is_disk_full
    from conformer_jax.training import distributed, host_memory, preemption, progress

    progress.set_up_logging()
    host_memory.keep_freed_memory()
    compilation_cache.turn_on()
    try:
        distributed.initialize(*(flag.value for flag in process_flags))
        progress.set_up_logging(active=jax.process_index() == 0)
        closing = work()
    except preemption.Preempted as stopped:
        print(f"{stopped} and saved: the same command goes on", file=sys.stderr)
        sys.exit(_INTERRUPTED if stopped.by_user else preemption.EXIT_CODE)
    except (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        # Of several processes, winding down would wait for the others, which wait for this one.
        several = jax.process_count() > 1
        if isinstance(error, DiskFull):
            overrides.fail(str(error), _CRASHED, at_once=several)
        if isinstance(error, UserError):
            overrides.fail(str(error), at_once=several)
        if isinstance(error, OSError):
            if is_disk_full(error):
                file = f" for {error.filename}" if error.filename else f" in {workdir}"
                said = f"no space left on the disk{file}: free some and run the same command again"
                overrides.fail(said, _CRASHED, at_once=several)
            said = f"{error}: mend it and run the same command again"
            overrides.fail(said, _CRASHED, at_once=several)
        # XLA says the first of a device, C++ the second of the machine's memory, Python neither.
        out_of_memory = any(said in str(error) for said in ("RESOURCE_EXHAUSTED", "std::bad_alloc"))
        if out_of_memory or isinstance(error, MemoryError):
            overrides.fail(TOO_LITTLE_MEMORY, at_once=several)
        if not several:
            raise
        reason = str(error).splitlines()[0]
        overrides.fail(f"another process may have died: {reason}", _CRASHED, at_once=True)
    except KeyboardInterrupt:
        # TensorFlow's threads may crash an interpreter that winds down.
        said = f"interrupted: the same command goes on from what is saved in {workdir}"
        overrides.fail(said, _INTERRUPTED, at_once=True)
    if closing and jax.process_index() == 0:
        print(closing)
