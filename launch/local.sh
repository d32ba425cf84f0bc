#!/usr/bin/env bash
# Several processes on this machine, joined over loopback: what a pod does, without the pod.
#
#   launch/local.sh [--dry-run] N ARGUMENT...
#
# runs `python -m conformer_jax.main ARGUMENT...` N times. Process 0 speaks; the others write to
# local_process_<i>.log in LOG_DIR (default: a new temporary folder). When one dies, the others are
# ended and its exit code is this script's.
# Settings: PYTHON (python), PORT (a free one), LOG_DIR.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || fail "bash 5.1 or newer is needed"
count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] || fail "the number of processes is missing: $script N ARGUMENT..."
shift
[ $# -gt 0 ] || fail "no argument given: $script $count --config=configs/pretrain.py"

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
  for ((i = 0; i < count; i++)); do
    arguments_of "$i" "$@"
    echo "JAX_PLATFORMS=$(quoted "$JAX_PLATFORMS") $(quoted "${command[@]}") &"
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
