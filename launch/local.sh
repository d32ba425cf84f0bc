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

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

dry_run=
if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
count=${1:-}
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "the number of processes is missing: launch/local.sh N ARGUMENT..."
shift
[ $# -gt 0 ] || fail "the arguments of conformer_jax.main are missing, such as --config=configs/pretrain.py"

python=${PYTHON:-python}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')}

command_of() { # of process $1
  printf '%s\0' "$python" -m conformer_jax.main "${@:2}" \
    "--coordinator_address=localhost:$port" "--num_processes=$count" "--process_id=$1"
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < count; i++)); do
    mapfile -d '' -t command < <(command_of "$i" "$@")
    printf 'JAX_PLATFORMS=%q ' "${JAX_PLATFORMS:-cpu}"
    printf '%q ' "${command[@]}"
    echo
  done
  exit
fi

logs=${LOG_DIR:-$(mktemp -d)}
mkdir -p "$logs"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
processes=()
stop() { kill -TERM "${processes[@]}" 2>/dev/null || true; }
trap stop TERM INT

for ((i = 0; i < count; i++)); do
  mapfile -d '' -t command < <(command_of "$i" "$@")
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
    echo "launch/local.sh: process $which ended with exit code $one; its words: $logs/local_process_$which.log" >&2
    # Those that were asked to save end by themselves; those whose neighbour died may hang.
    if [ "$one" != 75 ]; then
      (sleep 20 && kill -KILL "${processes[@]}" 2>/dev/null) &
      stop
    fi
  fi
done
exit "$code"
