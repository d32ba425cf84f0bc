#!/usr/bin/env bash
# One machine: a TPU VM, a box with GPUs, or a laptop.
#
#   launch/node.sh [--dry-run] ARGUMENT...
#   launch/node.sh [--dry-run] --install
#
# makes the virtual environment where it is missing or lacks JAX for EXTRA, mounts what lies in
# buckets, and runs
# `python -m conformer_jax.main ARGUMENT...` from the repository's root until it has finished:
# again after it was preempted (exit code 75), again a few times after a crash, never after a
# mistake of yours (1). SIGTERM and Ctrl-C reach the program as SIGTERM (with RETRY=0 as they are):
# it saves and ends.
# `--install` makes the environment and no more.
#
# Settings:
#   WORKDIR      folder of the run, a path or gs://BUCKET/PATH    (what the program takes)
#   DATA         manifest (CSV), a path or gs://BUCKET/PATH       (what the config says)
#   EXTRA        tpu, cuda or empty: what to install JAX for      (what this machine has)
#   PYTHON       an interpreter that has everything already       (.venv, made where missing)
#   MAX_CRASHES  how many crashes to forgive                      (3)
#   PAUSE        seconds before the program is started again      (10)
#   RETRY        0: run once, whatever happens                    (1)
#   MOUNTS       where buckets are mounted                        (~/gcs)
#   CODE_FILE    file that gets this script's exit code           (none)
# Other arguments that hold gs://BUCKET/PATH, such as --config.init_from, are mounted likewise.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

[ $# -gt 0 ] || fail "no argument given: $script --config=configs/pretrain.py"

guess_extra() { # what this machine computes on
  if command -v nvidia-smi >/dev/null; then
    echo cuda
  elif compgen -G '/dev/accel[0-9]*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo tpu
  fi
}

find_python() { # the first that can make the environment
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

installed() { # PACKAGE: whether .venv has it
  compgen -G "$root/.venv/lib/python*/site-packages/$1-*.dist-info" >/dev/null
}

install() { # completes .venv
  [ -z "${PYTHON:-}" ] || return 0
  local base extra jax_for=conformer_jax
  extra=${EXTRA-$(guess_extra)}
  case $extra in
  '') ;;
  cuda) jax_for='jax_cuda*_plugin' ;;
  tpu) jax_for=libtpu ;;
  *) fail "EXTRA is cuda, tpu or empty, not $extra" ;;
  esac
  # One that was made without the extra would leave the accelerator idle.
  ! installed conformer_jax || ! installed "$jax_for" || return 0
  if ! installed conformer_jax; then
    base=$(find_python)
    [ -n "$base" ] ||
      fail "Python 3.11 or newer with venv is missing (Ubuntu: sudo apt-get install python3.11-venv)"
    run "$base" -m venv "$root/.venv"
  fi
  run "$root/.venv/bin/pip" install -q -c "$root/launch/constraints.txt" \
    -e "$root${extra:+[$extra]}"
}

mount_bucket() { # ROLE/BUCKET: at MOUNTS/ROLE/BUCKET, unless a neighbour was first
  local point=$mounts/$1 options
  # implicit-dirs: folders that were uploaded as mere prefixes are seen, too.
  options=(--implicit-dirs)
  # What one process writes, the others see at once; large machines would cache it for ever.
  # And a checkpoint is complete when its folder gets its name: on a flat bucket gcsfuse renames
  # no folder that has files, unless it is allowed to.
  [[ $1 != workdir/* ]] || options+=(--metadata-cache-ttl-secs=0
    --metadata-cache-negative-ttl-secs=0 --kernel-list-cache-ttl-secs=0 --rename-dir-limit=200000)
  if [ -n "$dry_run" ]; then
    run mkdir -p "$point"
    echo "mountpoint -q $(quoted "$point") || $(quoted gcsfuse "${options[@]}" "${1#*/}" "$point")"
    return
  fi
  command -v gcsfuse >/dev/null ||
    fail "gcsfuse is missing: it mounts gs://${1#*/} (docs/launch.md says how to get it)"
  mkdir -p "$mounts"
  (
    flock 9
    if ! mountpoint -q "$point" || ! stat "$point/." >/dev/null 2>&1; then
      fusermount -uz "$point" 2>/dev/null || true # of a gcsfuse that was killed
      mkdir -p "$point"
      gcsfuse "${options[@]}" "${1#*/}" "$point" 9>&- >&2
    fi
  ) 9>"$mounts/.lock"
}

need_switch RETRY
mounts=${MOUNTS:-$HOME/gcs}
read_arguments "$mounts" "$@"
if [ -n "$dry_run" ]; then run cd "$root"; else cd "$root"; fi
trap 'exit 75' TERM INT # until the program runs
[ -z "${CODE_FILE:-}" ] || [ -n "$dry_run" ] || trap 'echo $? >"$CODE_FILE"' EXIT
install
[ "$1" != --install ] || exit 0

for bucket in "${buckets[@]}"; do
  mount_bucket "$bucket"
done
command=("${PYTHON:-$root/.venv/bin/python}" -m conformer_jax.main "${arguments[@]}")
if [ -n "$dry_run" ]; then
  run "${command[@]}"
  [ "${RETRY:-1}" = 0 ] ||
    echo "# Again where it ends with 75, and up to ${MAX_CRASHES:-3} times after a crash"
  exit
fi
[ "${RETRY:-1}" != 0 ] || exec "${command[@]}"

asked=  # to stop
child=
# shellcheck disable=SC2317,SC2329  # called by the trap
forward() {
  asked=1
  woken=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap forward TERM INT

crashes=0
while [ -z "$asked" ]; do
  "${command[@]}" &
  child=$!
  code=127
  woken=1
  while [ -n "$woken" ]; do # a signal ends `wait` before the program has ended
    woken=
    status=0
    wait "$child" || status=$?
    [ "$status" = 127 ] || code=$status
  done
  child=
  case $code in
  0 | 1 | 130) exit "$code" ;;
  75) echo "$script: preempted and saved (exit code 75)" >&2 ;;
  *)
    [ -z "$asked" ] || break # SIGTERM came before the program could listen
    crashes=$((crashes + 1))
    echo "$script: crash $crashes (exit code $code)" >&2
    [ "$crashes" -le "${MAX_CRASHES:-3}" ] || exit "$code"
    ;;
  esac
  [ -n "$asked" ] || sleep "${PAUSE:-10}"
done
exit 75
