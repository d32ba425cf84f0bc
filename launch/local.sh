#!/usr/bin/env bash
# Several processes on this machine, joined over loopback: what a pod does, without the pod.
#
#   launch/local.sh [--dry-run] N ARGUMENT...
#
# runs `python -m conformer_jax.main ARGUMENT...` N times. Process 0 speaks; the others write to
# local_process_<i>.log in LOG_DIR. When one dies, the others are ended and its exit code is this
# script's.
#
# Settings:
#   WORKDIR        folder of the run, a path                      (what the program takes)
#   DATA           manifest (CSV), a path                         (what the config says)
#   PYTHON         an interpreter that has everything             (python)
#   JAX_PLATFORMS  what to compute on                             (cpu)
#   PORT           where the processes meet                       (a free one)
#   LOG_DIR        folder for their words                         (a new temporary one)
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || fail "bash 5.1 or newer is needed"
count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] ||
  fail "the first word is the number of processes, not '$count': $script N ARGUMENT..."
shift
[ $# -gt 0 ] || fail "no argument given: $script $count --config=configs/pretrain.py"

read_arguments /tmp "$@" # only to refuse buckets and to add WORKDIR and DATA
[ ${#buckets[@]} = 0 ] ||
  fail "gs://${buckets[0]#*/}: this script mounts no bucket; launch/node.sh does"
set -- "${arguments[@]}"

cd "$root"
python=${PYTHON:-python}
port=${PORT:-$("$python" -c '
import socket
with socket.socket() as free:
    free.bind(("localhost", 0))
    print(free.getsockname()[1])')}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

arguments_of() { # of process $1, into `command`
  command=("$python" -m conformer_jax.main "${@:2}" "--coordinator_address=localhost:$port"
    "--num_processes=$count" "--process_id=$1")
}

if [ -n "$dry_run" ]; then
  run cd "$root"
  logs=\$logs
  if [ -n "${LOG_DIR:-}" ]; then logs=$(quoted "$LOG_DIR"); else echo "logs=\$(mktemp -d)"; fi
  [ -z "${LOG_DIR:-}" ] || run mkdir -p "$LOG_DIR"
  for ((i = 0; i < count; i++)); do
    arguments_of "$i" "$@"
    words=
    [ "$i" = 0 ] || words=" >$logs/local_process_$i.log 2>&1"
    echo "JAX_PLATFORMS=$(quoted "$JAX_PLATFORMS") $(quoted "${command[@]}")$words &"
  done
  echo wait
  exit
fi

logs=${LOG_DIR:-$(mktemp -d)}
mkdir -p "$logs"
processes=()
stop() { kill -TERM "${processes[@]}" 2>/dev/null || true; }
trap stop TERM INT

for ((i = 0; i < count; i++)); do
  arguments_of "$i" "$@"
  if [ "$i" = 0 ]; then
    "${command[@]}" &
  else
    "${command[@]}" >"$logs/local_process_$i.log" 2>&1 &
  fi
  processes+=($!)
done

code=0
for ((ended = 0; ended < count; ended++)); do
  one=0
  wait -n -p id "${processes[@]}" || one=$?
  [ -n "${id:-}" ] || { # a signal came; the processes save and end by themselves
    ended=$((ended - 1))
    continue
  }
  for i in "${!processes[@]}"; do
    [ "${processes[i]}" != "$id" ] || { which=$i && unset "processes[i]"; }
  done
  if [ "$one" != 0 ] && [ "$code" = 0 ]; then
    code=$one
    words=above
    [ "$which" = 0 ] || words=$logs/local_process_$which.log
    echo "$script: process $which ended with exit code $one; its words: $words" >&2
    # Those that were asked to save end by themselves; those whose neighbour died may hang.
    if [ "$one" != 75 ]; then
      (sleep 20 && kill -KILL "${processes[@]}") >/dev/null 2>&1 &
      trap 'kill $! 2>/dev/null || true' EXIT
      stop
    fi
  fi
done
exit "$code"
