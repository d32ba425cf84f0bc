# shellcheck shell=bash
# What the scripts of this folder share. Sourced, never run.

# shellcheck disable=SC2034  # for the script that sources this, like dry_run below
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/$(basename "$0")
dry_run=

fail() { # MESSAGE: a missing setting or a wrong call
  echo "$script: $*" >&2
  exit 2
}

need() { # NAME...: settings that must not be empty
  local name
  for name; do
    [ -n "${!name:-}" ] || fail "$name is not set: the first lines of $script say what it is${example:+; for example: $example}"
  done
}

need_numbers() { # NAME...: settings that count something, where they are set
  local name
  for name; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || fail "$name is a number from 1 on, not ${!name}"
  done
}

need_switch() { # NAME...: settings that are 0 or 1, where they are set
  local name
  for name; do
    [[ ${!name:-0} =~ ^[01]$ ]] || fail "$name is 0 or 1, not ${!name}"
  done
}

quoted() { # WORD...: one line that a POSIX shell reads back as these words
  local word line=
  for word; do
    if [[ -n $word && $word != *[!A-Za-z0-9_/.,:=@%+-]* ]]; then
      line+="$word "
    else
      line+="'${word//\'/\'\\\'\'}' "
    fi
  done
  printf '%s' "${line% }"
}

run() { # COMMAND...: runs it; with --dry-run prints it
  if [ -n "$dry_run" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

run_with_input() { # TEXT COMMAND...: likewise, with TEXT on its standard input
  local text=$1
  shift
  if [ -n "$dry_run" ]; then
    printf "%s <<'END_OF_INPUT'\n%s\nEND_OF_INPUT\n" "$(quoted "$@")" "$text"
  else
    printf '%s\n' "$text" | "$@"
  fi
}

write_file() { # FILE TEXT
  if [ -n "$dry_run" ]; then
    printf "cat >%s <<'END_OF_FILE'\n%s\nEND_OF_FILE\n" "$(quoted "$1")" "$2"
  else
    printf '%s\n' "$2" >"$1"
  fi
}

# The program reads file paths only. A location in a bucket, gs://BUCKET/REST, becomes
# MOUNTS/ROLE/BUCKET/REST. There are two roles because the processes must see each other's files
# in the workdir at once, while what is only read may be cached.
arguments=() # of the program, with the paths where its locations are mounted
buckets=()   # what has to be mounted for them: ROLE/BUCKET, each once

read_arguments() { # MOUNTS ARGUMENT...: fills the two from ARGUMENT..., WORKDIR and DATA
  local mounts=$1 argument rest role
  shift
  arguments=()
  buckets=()
  if [ -n "${WORKDIR:-}" ]; then
    [[ " $* " != *" "-workdir[=\ ]* && " $* " != *" "--workdir[=\ ]* ]] ||
      fail "the setting WORKDIR and the argument --workdir: give one of them"
    set -- "$@" "--workdir=$WORKDIR"
  fi
  [ -z "${DATA:-}" ] || set -- "$@" "--config.data.manifest=$DATA"
  for argument; do
    if [[ $argument =~ ^(-[^=]*=)?[A-Za-z0-9]+:// && ! $argument =~ ^-[^=]*=gs://[a-z0-9] ]]; then
      fail "$argument: locations are paths or --name=gs://BUCKET/PATH"
    elif [[ $argument == -*=gs://* ]]; then
      rest=${argument#*=gs://}
      role=data
      [[ ! $argument =~ ^--?workdir= ]] || role=workdir
      [[ " ${buckets[*]} " == *" $role/${rest%%/*} "* ]] || buckets+=("$role/${rest%%/*}")
      argument=${argument%%=gs://*}=$mounts/$role/$rest
    fi
    arguments+=("$argument")
  done
}

case ${1:-} in
--dry-run) dry_run=1 ;;
-h | --help)
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
  ;;
esac
for word in "${@:2}"; do
  case $word in
  --dry-run | -h | --help) fail "$word must be the first word" ;;
  esac
done
case " $* " in
*" --dryrun "*) fail "unknown option --dryrun: did you mean --dry-run, as the first word?" ;;
esac
