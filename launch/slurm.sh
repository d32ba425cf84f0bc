#!/usr/bin/env bash
# Slurm: one job over several nodes with GPUs.
#
#   launch/slurm.sh [--dry-run] ARGUMENT...
#
# for example
#
#   NODES=2 GPUS_PER_NODE=8 WORKDIR=/shared/runs/large launch/slurm.sh --dry-run --config=configs/pretrain.py:large
#
# submits a batch job that runs `python -m conformer_jax.main ARGUMENT...` on every GPU. SIGTERM
# reaches the program two minutes before the time limit: it saves, and the job requeues itself. A
# crash is tried again inside the job; a mistake of yours (exit code 1) ends it. Submit from a
# checkout in a file system that all nodes share.
#
# One task a GPU, each seeing all GPUs of its node: from Slurm's variables JAX takes the number of
# processes (SLURM_NTASKS) and lets each use the one GPU of its SLURM_LOCALID. One task a node would
# leave all GPUs but the first idle; binding GPUs to tasks would hide all but GPU 0 from them.
#
# Settings:
#   NODES          number of nodes                              (required)
#   GPUS_PER_NODE  GPUs, and so processes, on each              (required)
#   WORKDIR        folder of the run, a path that all nodes share or gs://BUCKET/PATH   (required)
#   DATA           manifest (CSV), a path or gs://BUCKET/PATH   (what the config says)
#   TIME           limit of one stretch of the job              (the partition's)
#   LOG            file of the job's words, appended to         (slurm-<job>.log)
#   EXTRA, PYTHON, MAX_CRASHES    as in launch/node.sh          (cuda, .venv, 3)
# Whatever else your site asks for goes into sbatch's own variables: SBATCH_ACCOUNT,
# SBATCH_PARTITION, SBATCH_QOS.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

[ $# -gt 0 ] || fail "no argument given: $script --config=configs/pretrain.py:large"
# shellcheck disable=SC2034 # read by need
example="NODES=2 GPUS_PER_NODE=8 WORKDIR=/shared/runs/large $script --dry-run --config=configs/pretrain.py:large"
need NODES GPUS_PER_NODE WORKDIR
need_numbers NODES GPUS_PER_NODE
read_arguments /tmp "$@" # only to see whether there are buckets

# What the job runs on its first node. `srun` gives the highest exit code of all processes.
settings=("EXTRA=${EXTRA-cuda}" "WORKDIR=$WORKDIR")
[ -z "${DATA:-}" ] || settings+=("DATA=$DATA")
[ -z "${PYTHON:-}" ] || settings+=("PYTHON=$PYTHON")
unmount=
for bucket in "${buckets[@]}"; do
  unmount+="
srun --ntasks=\"\$SLURM_NNODES\" --ntasks-per-node=1 \\
  fusermount -uz \"\$MOUNTS\"/$(quoted "$bucket") || true"
done
job="#!/usr/bin/env bash
set -euo pipefail
cd $(quoted "$root")
export $(quoted "${settings[@]}")
export RETRY=0 MOUNTS=\"/tmp/gcs-\$SLURM_JOB_ID\"
asked= # by Slurm to stop: it requeues by itself what it preempts, and scancel means it
trap 'asked=1' TERM
bash launch/node.sh --install
crashes=0
while :; do
  code=0
  srun --kill-on-bad-exit=0 \\
    bash launch/node.sh $(quoted "$@") || code=\$?
  case \$code in
  0 | 1 | 75) break ;;
  esac
  crashes=\$((crashes + 1))
  echo \"launch/slurm.sh: crash \$crashes (exit code \$code)\" >&2
  if [ -n \"\$asked\" ] || [ \"\$crashes\" -gt $(quoted "${MAX_CRASHES:-3}") ]; then break; fi
done$unmount
if [ \"\$code\" = 75 ] && [ -z \"\$asked\" ]; then
  echo \"launch/slurm.sh: saved before the time limit; the job queues again\" >&2
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \"\$code\""

# --signal without B: goes to the job step, that is to the program and not to the script above.
options=(--job-name=conformer_jax "--nodes=$NODES" "--ntasks-per-node=$GPUS_PER_NODE"
  "--gpus-per-node=$GPUS_PER_NODE" --signal=TERM@120 --requeue --open-mode=append
  "--output=${LOG:-slurm-%j.log}")
[ -z "${TIME:-}" ] || options+=("--time=$TIME")
run_with_input "$job" sbatch "${options[@]}"
