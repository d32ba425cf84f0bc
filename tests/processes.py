"""One of several processes of a run, started by test_distributed.py.

    python tests/processes.py FOLDER TASK,TASK COORDINATOR NUM_PROCESSES PROCESS_ID STOP_AT

Trains five steps of every task in FOLDER/TASK, and writes the hash of every global batch, in order,
to FOLDER/TASK_hashes_PROCESS_ID.json. At batch STOP_AT process 1 gets SIGTERM (-1: never).
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

from jax.experimental import multihost_utils

from configs import finetune as finetune_config
from configs import pretrain as pretrain_config
from conformer_jax.training import distributed, loop, preemption, sharding

TRAIN_CLIPS, EVAL_CLIPS = 33, 11  # no number of processes divides them
LABELLED = "labelled.csv"  # nine clips, which the test has made


def config_of(folder, task):
    config = (pretrain_config if task == "pretrain" else finetune_config).get_config("smoke")
    config.compare_with_scratch = False
    if task == "pretrain":  # whose clips are told from those of the other processes, too
        config.objective = "both"
        config.target = "gumbel"  # whose codebook starts from clips that one process reads
        config.clip.update(head_width=32, head_dim=16)
        config.views.length_s = 0.32
        config.monitor.update(manifest=str(folder / LABELLED), neighbors=3)
    config.init_from = str(folder / "pretrain") if task == "finetune" else ""
    config.data.update(loader="threads", clip_s=0.5, batch_size=8, eval_batch_size=8)
    config.data.validation_share = 0.2 if task == "finetune" else 0.0
    config.synthetic.update(num_train=TRAIN_CLIPS, num_eval=EVAL_CLIPS)
    config.train.update(num_steps=5, log_every=2, eval_every=2)
    # A key's bias has no gradient but rounding errors, which a small eps makes whole steps of.
    config.optimizer.eps = 1e-4
    config.checkpoint.every_steps = 1  # SIGTERM falls beside a save
    return config


def main(folder, tasks, coordinator, num_processes, process_id, stop_at):
    folder, num_processes, process_id = pathlib.Path(folder), int(num_processes), int(process_id)
    if num_processes > 1:
        distributed.initialize(coordinator, num_processes, process_id)
    put_batch = sharding.put_batch
    for task in tasks.split(","):
        hashes = []

        def hashed(batch, place, hashes=hashes):
            if len(hashes) == int(stop_at) and process_id == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(3)  # the steps are faster than the service that hears of it
            arrays = put_batch(batch, place)
            whole = multihost_utils.process_allgather(arrays, tiled=True)
            text = b"".join(whole[name].tobytes() for name in sorted(whole))
            hashes.append(hashlib.sha256(text).hexdigest())
            return arrays

        sharding.put_batch = hashed
        try:
            loop.train_and_evaluate(config_of(folder, task), folder / task)
        except preemption.Preempted:
            sys.exit(preemption.EXIT_CODE)
        finally:
            (folder / f"{task}_hashes_{process_id}.json").write_text(json.dumps(hashes))


if __name__ == "__main__":
    main(*sys.argv[1:])
