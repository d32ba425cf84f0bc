"""python -m conformer_jax.main --config=configs/pretrain.py[:variant] [--workdir=DIR]"""

import os

from absl import app, flags

from conformer_jax.command import command, overrides

CONFIG = overrides.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config name> by default.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, print what it is, and exit.")
PROCESSES = command.define_process_flags()


def main(argv):
    """Runs the config."""
    del argv
    from conformer_jax.command import run
    from conformer_jax.measuring import dry_run
    from conformer_jax.training import workdir as workdirs

    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", config.name)

    def work():
        if not DRY_RUN.value:
            return run.run(config, workdir)
        workdirs.check_path(workdir)
        return dry_run.describe(config)

    command.execute(work, workdir, PROCESSES)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG))
