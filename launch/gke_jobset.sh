#!/usr/bin/env bash
# Google Kubernetes Engine: one TPU slice of any number of hosts, as a JobSet (0.10 or newer).
#
#   launch/gke_jobset.sh [--dry-run] ACTION [ARGUMENT...]
#
#   build               makes the image with Cloud Build
#   submit ARGUMENT...  runs `python -m conformer_jax.main ARGUMENT...` on every host of the slice
#   status              what the JobSet and its pods do
#   logs                follows what process 0 says
#   delete              ends the run
#
# Settings:
#   NAME             name of the JobSet                           (all but build: required)
#   NAMESPACE        namespace in the cluster                     (default)
#   IMAGE            full name of the image                       (build and submit: required)
#   TPU_ACCELERATOR  node label, such as tpu-v5-lite-podslice     (submit: required)
#   TPU_TOPOLOGY     shape of the slice, such as 4x4              (submit: required)
#   CHIPS_PER_HOST   chips of one host                            (4)
#   SPOT             1: on spot nodes                             (0)
#   SERVICE_ACCOUNT  of Kubernetes, with access to the buckets    (default)
#   WORKDIR          folder of the run: gs://BUCKET/PATH, or a path that all nodes share
#                                                                 (submit: required)
#   DATA             manifest (CSV), likewise                     (what the config says)
#   MAX_CRASHES      how many crashes to forgive                  (3)
#   PROJECT          Google Cloud project, for build              (that of your gcloud)
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ -z "$dry_run" ] || shift

text() { # WORD: the same as a string of YAML (and JSON)
  local word=$1
  word=${word//\\/\\\\}
  word=${word//\"/\\\"}
  word=${word//$'\n'/\\n}
  word=${word//$'\t'/\\t}
  printf '"%s"' "$word"
}

argument() { # WORD: likewise, for Kubernetes, which reads $(NAME) and $$ in arguments
  # shellcheck disable=SC2016
  text "${1//'$'/'$$'}"
}

dockerfile="FROM python:3.12-slim
WORKDIR /conformer_jax
COPY . .
RUN pip install --no-cache-dir -c launch/constraints.txt -e '.[tpu]'"

build() {
  local context=$root/dist/image options=("--tag=$IMAGE")
  [ -z "${PROJECT:-}" ] || options+=("--project=$PROJECT")
  run rm -rf "$context"
  run mkdir -p "$context"
  run cp -R "$root/conformer_jax" "$root/configs" "$root/launch" "$root/pyproject.toml" \
    "$root/README.md" "$root/LICENSE" "$context"
  write_file "$context/Dockerfile" "$dockerfile"
  run gcloud builds submit "$context" "${options[@]}"
}

count_hosts() { # from the topology, such as 4x4x8
  local side chips=1 per_host=${CHIPS_PER_HOST:-4}
  [[ $TPU_TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ && $per_host =~ ^[1-9][0-9]*$ ]] ||
    fail "TPU_TOPOLOGY is like 4x4 and CHIPS_PER_HOST a number: not $TPU_TOPOLOGY and $per_host"
  for side in ${TPU_TOPOLOGY//x/ }; do
    chips=$((chips * side))
  done
  [ $((chips % per_host)) = 0 ] ||
    fail "$chips chips of TPU_TOPOLOGY $TPU_TOPOLOGY are not CHIPS_PER_HOST $per_host x n"
  echo $((chips / per_host))
}

# Volumes and where the container sees them. Buckets come by Cloud Storage FUSE, with the options of
# launch/node.sh and for its reasons; a path is a folder of the node, seen under the same name.
volumes=
volume_mounts=
volume() { # NAME PATH DEFINITION
  volume_mounts+="
                    - {name: $1, mountPath: $(text "$2")}"
  volumes+="
                - name: $1
                  $3"
}

# shellcheck disable=SC2153  # NAME is a setting
manifest() { # ARGUMENT...
  local hosts words='' word bucket options number=0 folder before=''
  local annotations='' spot='' chips=${CHIPS_PER_HOST:-4}
  hosts=$(count_hosts) || exit
  read_arguments /gcs "$@"
  for word in "${arguments[@]}"; do
    words+="
                    - $(argument "$word")"
  done
  for bucket in "${buckets[@]}"; do
    options=implicit-dirs
    [[ $bucket != workdir/* ]] || options+=",metadata-cache:ttl-secs:0,\
metadata-cache:negative-ttl-secs:0,file-system:kernel-list-cache-ttl-secs:0,\
file-system:rename-dir-limit:200000"
    number=$((number + 1))
    volume "bucket-$number" "/gcs/$bucket" "csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(text "${bucket#*/}")
                      mountOptions: $(text "$options")"
    annotations="
            metadata:
              annotations:
                gke-gcsfuse/volumes: \"true\""
  done
  for folder in "$WORKDIR" ${DATA:+"$(dirname "$DATA")"}; do
    case $folder in
    gs:/* | "$before") ;;
    /*)
      number=$((number + 1))
      volume "folder-$number" "$folder" \
        "hostPath: {path: $(text "$folder"), type: DirectoryOrCreate}"
      before=$folder
      ;;
    *) fail "WORKDIR and DATA are gs://BUCKET/PATH or absolute paths, not $folder" ;;
    esac
  done
  [ "${SPOT:-0}" != 1 ] || spot="
                cloud.google.com/gke-spot: \"true\""
  # Kubernetes ends the Job at the first process that fails, and says why; the JobSet then decides.
  # Exit code 1, a mistake: fail. 75, or a node taken away: start all again, as often as it takes.
  # Anything else, a crash: start all again, MAX_CRASHES times.
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(text "$NAME")
  namespace: $(text "$namespace")
spec:
  failurePolicy:
    maxRestarts: ${MAX_CRASHES:-3}
    restartStrategy: BlockingRecreate
    rules:
      - name: mistake
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
        onJobFailureMessagePatterns: ["exit code 1 matching"]
      - name: preempted
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: main, operator: In, values: [1]}
              - action: FailJob
                onExitCodes: {containerName: main, operator: In, values: [75]}
              - action: FailJob
                onPodConditions:
                  - {type: DisruptionTarget, status: "True"}
          template:$annotations
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 60
              serviceAccountName: $(text "${SERVICE_ACCOUNT:-default}")
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $(text "$TPU_ACCELERATOR")
                cloud.google.com/gke-tpu-topology: $(text "$TPU_TOPOLOGY")$spot
              tolerations:
                - {key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule}
              containers:
                - name: main
                  image: $(text "$IMAGE")
                  imagePullPolicy: Always
                  command: ["python", "-m", "conformer_jax.main"]
                  args:$words
                  resources:
                    limits:
                      google.com/tpu: $chips
                  volumeMounts:$volume_mounts
              volumes:$volumes
YAML
}

action=${1:-}
[ $# -eq 0 ] || shift
namespace=${NAMESPACE:-default}
selector=jobset.sigs.k8s.io/jobset-name=${NAME:-}
case $action in
build) need IMAGE ;;
submit)
  need NAME IMAGE TPU_ACCELERATOR TPU_TOPOLOGY WORKDIR
  [ $# -gt 0 ] || fail "no argument given: $script submit --config=configs/pretrain.py:large"
  ;;
status | logs | delete) need NAME ;;
*) fail "unknown action '$action'; there are: build submit status logs delete" ;;
esac
[ "$action" = submit ] || [ $# -eq 0 ] || fail "$action takes no argument"
need_switch SPOT

case $action in
build) build ;;
submit)
  rendered=$(manifest "$@")
  run_with_input "$rendered" kubectl apply --filename=-
  ;;
status)
  run kubectl get jobset "$NAME" --namespace="$namespace"
  run kubectl get pods --selector="$selector" --namespace="$namespace" --output=wide
  ;;
logs)
  run kubectl logs --namespace="$namespace" --container=main --follow --tail=-1 \
    --selector="$selector,batch.kubernetes.io/job-completion-index=0"
  ;;
delete)
  run kubectl delete jobset "$NAME" --namespace="$namespace"
  ;;
esac
