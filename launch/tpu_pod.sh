#!/usr/bin/env bash
# Cloud TPU: one slice of any number of hosts, asked for as a queued resource.
#
#   launch/tpu_pod.sh [--dry-run] ACTION [ARGUMENT...]
#
#   create           asks for the slice
#   status           what the slice does, and what the run does on every host
#   copy             copies the code of this checkout to every host
#   run ARGUMENT...  installs and mounts what is missing, then starts
#                    `python -m conformer_jax.main ARGUMENT...` on every host, detached
#   logs             follows what process 0 says
#   resume ARGUMENT...  brings the run to its end: waits for the slice, asks for it again where it
#                    was preempted, copies, runs, and so on. Leave it in a terminal that stays
#   stop             asks the run to save and end; the slice stays, and costs
#   delete           gives the slice back, and shows what is left
#
# Settings:
#   TPU_NAME          name of the slice                           (required)
#   ZONE              zone, such as europe-west4-b                (required)
#   ACCELERATOR_TYPE  kind and size, such as v5litepod-16         (create and resume: required)
#   RUNTIME_VERSION   software of the hosts, such as v2-alpha-tpuv5-lite     (likewise)
#   SPOT              1: cheaper, and may be taken away           (0)
#   PROJECT           Google Cloud project                        (that of your gcloud)
#   WORKDIR           folder of the run: gs://BUCKET/PATH, or a path that all hosts share
#                                                                 (run and resume: required)
#   DATA              manifest (CSV), likewise                    (what the config says)
#   PAUSE             seconds before a host starts the program again: long enough for a run that
#                     failed on one host to end on all            (60)
#   POLL              seconds between two looks of `resume`       (60)
#   GCSFUSE_VERSION   what to install where it is missing         (3.7.1)
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

tpus=(gcloud compute tpus)
home=conformer_jax # on every host, below the home folder
releases=https://github.com/GoogleCloudPlatform/gcsfuse/releases/download
archive=$root/dist/conformer_jax.tar.gz

on_hosts() { # WORKER COMMANDS: what a shell there is to do; WORKER is a number or all
  run "${tpus[@]}" tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker="$1" --command="$2"
}

create() {
  local options=("--node-id=$TPU_NAME" "--accelerator-type=$ACCELERATOR_TYPE"
    "--runtime-version=$RUNTIME_VERSION")
  [ "${SPOT:-0}" != 1 ] || options+=(--spot)
  run "${tpus[@]}" queued-resources create "$TPU_NAME" "${place[@]}" "${options[@]}"
}

copy() {
  run mkdir -p "$root/dist" &&
    run tar -C "$root" --exclude=__pycache__ -czf "$archive" \
      conformer_jax configs launch pyproject.toml README.md LICENSE &&
    run "${tpus[@]}" tpu-vm scp "$archive" "$TPU_NAME:" "${place[@]}" --worker=all &&
    on_hosts all "mkdir -p $home &&
cd $home &&
rm -rf conformer_jax configs launch &&
tar -xzf ../conformer_jax.tar.gz"
}

# shellcheck disable=SC2016  # for the hosts' shell
alive='grep -qs launch/node.sh "/proc/$(cat run.pid)/cmdline"'

start() { # ARGUMENT...
  local settings=(EXTRA=tpu CODE_FILE=run.code "PAUSE=${PAUSE:-60}" "WORKDIR=$WORKDIR")
  local gcsfuse=${GCSFUSE_VERSION:-3.7.1} install_gcsfuse
  [ -z "${DATA:-}" ] || settings+=("DATA=$DATA")
  install_gcsfuse="
command -v gcsfuse >/dev/null || {
  curl -fsSL -o gcsfuse.deb $(quoted "$releases/v$gcsfuse/gcsfuse_${gcsfuse}_amd64.deb") &&
    sudo apt-get install -y -q -o DPkg::Lock::Timeout=300 ./gcsfuse.deb
} || exit"
  read_arguments /tmp "$@" # only to see whether there are buckets
  [ ${#buckets[@]} -gt 0 ] || install_gcsfuse=
  on_hosts all "cd $home || exit
if [ -e run.pid ] && $alive; then
  echo 'the run is on already'
  exit
fi
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  sudo apt-get update -q &&
    sudo apt-get install -y -q -o DPkg::Lock::Timeout=300 python3.11-venv
} || exit$install_gcsfuse
rm -f run.code
export $(quoted "${settings[@]}")
nohup setsid bash launch/node.sh $(quoted "$@") >>run.log 2>&1 </dev/null &
echo \$! >run.pid"
}

run_state_commands="cd $home 2>/dev/null || {
  echo idle
  exit
}
if [ -e run.code ]; then
  echo \"ended \$(cat run.code)\"
elif [ -e run.pid ] && $alive; then
  echo running
else
  echo idle
fi"

slice_state() { # such as ACTIVE; MISSING where there is none; empty where there is no answer;
  # REFUSED where there will not be one
  local answer
  if answer=$("${tpus[@]}" queued-resources describe "$TPU_NAME" "${place[@]}" \
    --format='value(state.state)' 2>&1); then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo MISSING
  elif [[ $answer == *PERMISSION_DENIED* || $answer == *UNAUTHENTICATED* ]]; then
    echo "$answer" >&2
    echo REFUSED
  else
    echo "$answer" >&2
  fi
}

run_state() { # of process 0: running, idle, "ended CODE"; empty where the host does not answer
  on_hosts 0 "$run_state_commands" 2>/dev/null | tr -d '\r' | tail -n 1
}

taken_away() { # whether a slice that does not answer was preempted
  case $("${tpus[@]}" tpu-vm describe "$TPU_NAME" "${place[@]}" \
    --format='value(state)' 2>/dev/null) in
  PREEMPTED | TERMINATED) ;;
  *) return 1 ;;
  esac
}

delete() {
  run "${tpus[@]}" queued-resources delete "$TPU_NAME" "${place[@]}" --force
}

recreate() {
  delete && create
}

resume() { # ARGUMENT...
  local state first=1
  while :; do
    state=$(slice_state)
    echo "$script: slice: ${state:-no answer}" >&2
    case $state in
    MISSING) create || true ;;
    SUSPENDED) recreate || true ;;
    REFUSED) exit 1 ;;
    FAILED)
      echo "$script: the request failed: $script status says why, $script delete clears it" >&2
      exit 1
      ;;
    ACTIVE)
      state=$(run_state || true)
      echo "$script: run: ${state:-no answer}" >&2
      # What an earlier command left behind says nothing about this one.
      [ -z "$first" ] || [[ $state != ended* ]] || state=idle
      case $state in
      "ended 75" | idle) if copy && start "$@"; then first=; fi ;;
      ended*) exit "${state#ended }" ;;
      running) first= ;;
      *) if taken_away; then recreate || true; fi ;;
      esac
      ;;
    esac
    sleep "${POLL:-60}"
  done
}

action=${1:-}
[ $# -eq 0 ] || shift
case $action in
create | copy | run | logs | status | resume | stop | delete) ;;
*) fail "unknown action '$action'; there are: create copy run logs status resume stop delete" ;;
esac
need TPU_NAME ZONE
need_switch SPOT
place=("--zone=$ZONE" --quiet)
[ -z "${PROJECT:-}" ] || place+=("--project=$PROJECT")
case $action in
create | resume) need ACCELERATOR_TYPE RUNTIME_VERSION ;;
esac
case $action in
run | resume)
  need WORKDIR
  [ $# -gt 0 ] || fail "no argument given: $script $action --config=configs/pretrain.py:large"
  for location in "$WORKDIR" ${DATA:+"$DATA"}; do
    [[ $location == gs://* || $location == /* ]] ||
      fail "WORKDIR and DATA are gs://BUCKET/PATH or absolute paths, not $location"
  done
  ;;
*) [ $# -eq 0 ] || fail "$action takes no argument" ;;
esac

[ -n "$dry_run" ] || command -v gcloud >/dev/null ||
  fail "gcloud is missing (docs/launch.md says what you need)"

case $action in
create) create ;;
copy) copy ;;
run) start "$@" ;;
logs) on_hosts 0 "tail -n 100 -F $home/run.log" ;;
status)
  run "${tpus[@]}" queued-resources describe "$TPU_NAME" "${place[@]}"
  on_hosts all "$run_state_commands"
  ;;
stop) on_hosts all "cd $home && if $alive; then kill -TERM \"\$(cat run.pid)\"; fi" ;;
delete)
  code=0
  delete || code=$? # and what is left is worth seeing either way
  run "${tpus[@]}" queued-resources list "${place[@]}"
  run "${tpus[@]}" tpu-vm list "${place[@]}"
  exit "$code"
  ;;
resume)
  if [ -n "$dry_run" ]; then
    echo "# Every ${POLL:-60} seconds: how is the slice?"
    run "${tpus[@]}" queued-resources describe "$TPU_NAME" "${place[@]}" \
      '--format=value(state.state)'
    echo "# Where it was preempted (SUSPENDED):"
    delete
    echo "# Then, or where there is none (NOT_FOUND):"
    create
    echo "# Where it is ACTIVE: how is the run?"
    on_hosts 0 "$run_state_commands"
    echo "# Where there is none, or it ended with 75; any other code ends this, too:"
    copy
    start "$@"
  else
    resume "$@"
  fi
  ;;
esac
