"""The launch scripts: what they print, what they run, and what reaches the program's argv.

No cloud and no cluster: `gcloud`, `kubectl`, `sbatch` and the like are stand-ins on PATH. That of
`gcloud` runs what it is sent over ssh in a folder that plays the host.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"

# Arguments that a careless layer of quoting would change.
NASTY = [
    "--config=configs/pretrain.py:large",
    "--config.a=two  words",
    "--config.b=it's",
    '--config.c="quoted"',
    "--config.d=$HOME ${HOME} $$ $(HOME) $$(HOME)",
    "--config.e=*",
    "--config.f=`date` $(date)",
    "--config.g=back\\slash \\n",
    "--config.h=",
    "--config.i=two\nlines\tand a tab",
    "--config.j=#; & | < > ~ ! {a,b}: %",
]

TPU = {"TPU_NAME": "pod", "ZONE": "here-a"}
TPU_CREATE = TPU | {"ACCELERATOR_TYPE": "v5litepod-16", "RUNTIME_VERSION": "v2-alpha-tpuv5-lite"}
GKE = {
    "NAME": "pod",
    "IMAGE": "registry/image",
    "TPU_ACCELERATOR": "tpu-v5-lite-podslice",
    "TPU_TOPOLOGY": "4x4",
    "WORKDIR": "gs://bucket/runs/a",
}
SLURM = {"NODES": "2", "GPUS_PER_NODE": "4", "WORKDIR": "/shared/run"}

# Every script and action with the settings it must have.
CALLS = [
    ("tpu_pod.sh", ["create"], TPU_CREATE),
    ("tpu_pod.sh", ["copy"], TPU),
    ("tpu_pod.sh", ["run", *NASTY], TPU | {"WORKDIR": "gs://bucket/runs/a"}),
    ("tpu_pod.sh", ["logs"], TPU),
    ("tpu_pod.sh", ["status"], TPU),
    ("tpu_pod.sh", ["stop"], TPU),
    ("tpu_pod.sh", ["delete"], TPU),
    ("tpu_pod.sh", ["resume", *NASTY], TPU_CREATE | {"WORKDIR": "gs://bucket/runs/a"}),
    ("gke_jobset.sh", ["build"], {"IMAGE": "registry/image"}),
    ("gke_jobset.sh", ["submit", *NASTY], GKE),
    ("gke_jobset.sh", ["status"], {"NAME": "pod"}),
    ("gke_jobset.sh", ["logs"], {"NAME": "pod"}),
    ("gke_jobset.sh", ["delete"], {"NAME": "pod"}),
    ("slurm.sh", NASTY, SLURM),
    ("node.sh", NASTY, {}),
]
IDS = [f"{script}-{words[0]}" if script[0] in "tg" else script for script, words, _ in CALLS]

# Stands for a command: notes its arguments and its input. As `gcloud` it also plays the service,
# with the folder `host` as the home of the only host.
RECORDER = """#!{python} -SE
import json, os, pathlib, shutil, subprocess, sys, time
fake = pathlib.Path({fake!r})
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
text = "" if name not in ("kubectl", "sbatch") or sys.stdin.isatty() else sys.stdin.read()
with open(fake / "calls", "a") as file:
    file.write(json.dumps([name, *words, text]) + "\\n")
host = fake / "host"
project = host / "conformer_jax"
flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
if name == "gcloud" and "ssh" in words:
    if not project.exists() and "mkdir" not in flags["--command"]:
        sys.exit(255)
    sys.exit(subprocess.run(["sh", "-c", flags["--command"]], cwd=host, stdin=subprocess.DEVNULL,
                            env=os.environ | {{"HOME": str(host)}}).returncode)
if name == "gcloud" and "scp" in words:
    shutil.copy(words[words.index("scp") + 1], host)
if name == "gcloud" and "create" in words:
    shutil.copytree(fake / "environment", project / ".venv")
def end_run():
    while not (fake / "runs").exists():
        time.sleep(0.02)
    subprocess.run(["kill", (project / "run.pid").read_text().strip()])
if name == "gcloud" and "delete" in words and (project / "run.pid").exists():
    end_run()
    project.rename(fake / "deleted")
if name == "gcloud" and "queued-resources" in words and "describe" in words:
    states = (fake / "states").read_text().split() if (fake / "states").exists() else ["ACTIVE"]
    (fake / "states").write_text(" ".join(states[1:] or states))
    if states[0] == "NOT_FOUND":
        sys.exit("ERROR: NOT_FOUND: no such resource")
    if states[0] == "MAINTENANCE":  # of this test: the hosts get SIGTERM, and stay
        end_run()
        states = ["ACTIVE"]
    print(states[0])
if name == "srun":
    while words[0].startswith("-"):
        del words[0]
    sys.exit(subprocess.run(words).returncode)
if name == "mountpoint":
    sys.exit(1)
if name == "python3" and words[:2] == ["-m", "venv"]:
    (pathlib.Path(words[2]) / "bin").mkdir(parents=True)
    shutil.copy(sys.argv[0], pathlib.Path(words[2]) / "bin" / "pip")
"""

# Stands for the program's interpreter: notes its arguments and ends as `codes` says for its n-th
# start. `wait` is a run that saves when it is asked to stop.
PROGRAM = """#!{python} -SE
import json, os, pathlib, signal, sys, time
fake = pathlib.Path({fake!r})
if sys.argv[1:3] == ["-m", "conformer_jax.main"]:
    def stop(*_):
        (fake / "saved").touch()
        os._exit(75)
    signal.signal(signal.SIGTERM, stop)
    with open(fake / "runs", "a") as file:
        file.write(json.dumps(sys.argv[3:]) + "\\n")
    starts = len((fake / "runs").read_text().splitlines())
    codes = (fake / "codes").read_text().split() if (fake / "codes").exists() else ["0"]
    code = codes[min(starts, len(codes)) - 1]
    if code == "wait":
        time.sleep(60)
    if code == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(code))
"""

LOUD = """#!/bin/sh
echo "$0 was run" >>{fake}/loud
exit 99
"""

OUTSIDE = ["gcloud", "kubectl", "sbatch", "srun", "scontrol", "gcsfuse", "fusermount", "mountpoint"]
OUTSIDE += ["ssh", "scp", "sudo", "curl", "docker"]


class Place:
    """A checkout under a name with a space and a quote, and stand-ins for the world around it."""

    def __init__(self, path):
        self.root = path / "a user's checkout"
        self.fake = path / "fake"
        self.bin = path / "bin"
        self.host = self.fake / "host"
        for folder in ("conformer_jax", "configs"):
            (self.root / folder).mkdir(parents=True)
            (self.root / folder / "module.py").write_text("")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            (self.root / name).write_text("")
        shutil.copytree(LAUNCH, self.root / "launch")
        self.host.mkdir(parents=True)
        self.bin.mkdir()
        self.python = self.bin / "program"
        self._executable(self.python, PROGRAM)
        for name in ("conformer_jax", "libtpu"):
            package = f"environment/lib/python3/site-packages/{name}-0.dist-info"
            (self.fake / package).mkdir(parents=True)
        (self.fake / "environment/bin").mkdir()
        shutil.copy(self.python, self.fake / "environment/bin/python")
        self.stand_ins()

    def _executable(self, path, text):
        path.write_text(text.format(python=sys.executable, fake=str(self.fake)))
        path.chmod(0o755)

    def stand_ins(self, text=RECORDER, names=OUTSIDE):
        for name in names:
            self._executable(self.bin / name, text)

    def environment(self, settings):
        return {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.fake / "home"),
            "PAUSE": "0",
            "POLL": "0.1",
            **settings,
        }

    def command(self, script, *words):
        return ["bash", str(self.root / "launch" / script), *words]

    def run(self, script, *words, **settings):
        return self.shell(self.command(script, *words), **settings)

    def shell(self, command, **settings):
        return subprocess.run(
            command,
            env=self.environment(settings),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def _lines(self, name):
        path = self.fake / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def calls(self):
        """Of the stand-ins: [name, argument..., input]."""
        return self._lines("calls")

    @property
    def runs(self):
        """Of the program: its arguments."""
        return self._lines("runs")

    def wait_for(self, path):
        for _ in range(300):
            if path.exists():
                return
            time.sleep(0.05)
        pytest.fail(f"{path.name} did not appear")


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    pid = made.host / "conformer_jax/run.pid"
    if pid.exists() and pathlib.Path("/proc", pid.read_text().strip()).exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)


def flag(words, name):
    """The values of --name=VALUE among `words`."""
    return [word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")]


def shellcheck(*words):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not on PATH")
    done = subprocess.run(
        ["shellcheck", "-x", *words],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    shellcheck(path)


# What a dry run must print, by script and action.
KEY = {
    "tpu_pod.sh-create": ["gcloud compute tpus queued-resources create pod", "--node-id=pod"],
    "tpu_pod.sh-copy": ["tar -C", "gcloud compute tpus tpu-vm scp", "--worker=all"],
    "tpu_pod.sh-run": ["tpu-vm ssh pod", "nohup setsid bash launch/node.sh", "--worker=all"],
    "tpu_pod.sh-logs": ["--worker=0", "tail -n 100 -F conformer_jax/run.log"],
    "tpu_pod.sh-status": ["queued-resources describe pod", "run.code"],
    "tpu_pod.sh-stop": ["kill -TERM"],
    "tpu_pod.sh-delete": ["queued-resources delete pod", "--force", "tpu-vm list"],
    "tpu_pod.sh-resume": [
        "queued-resources delete pod",
        "queued-resources create pod",
        "tpu-vm scp",
    ],
    "gke_jobset.sh-build": ["FROM python:3", "gcloud builds submit", "--tag=registry/image"],
    "gke_jobset.sh-submit": ["kubectl apply", "kind: JobSet", "terminationGracePeriodSeconds: 60"],
    "gke_jobset.sh-status": ["kubectl get jobset pod", "kubectl get pods"],
    "gke_jobset.sh-logs": ["kubectl logs", "job-completion-index=0"],
    "gke_jobset.sh-delete": ["kubectl delete jobset pod"],
    "slurm.sh": [
        "sbatch",
        "--signal=TERM@120",
        "--requeue",
        "--open-mode=append",
        "srun",
        "requeue",
    ],
    "node.sh": ["-m venv", "pip", "-m conformer_jax.main"],
}


@pytest.mark.parametrize(("script", "words", "settings"), CALLS, ids=IDS)
def test_a_dry_run_prints_everything_and_runs_nothing(place, script, words, settings, request):
    place.stand_ins(LOUD)
    done = place.run(script, "--dry-run", *words, **settings)
    assert done.returncode == 0, done.stderr
    assert not (place.fake / "loud").exists()
    assert not (place.root / "dist").exists()
    assert not (place.root / ".venv").exists()
    for text in KEY[request.node.callspec.id]:
        assert text in done.stdout


@pytest.mark.parametrize(
    ("script", "words", "settings"),
    [
        pytest.param(*call, id=i)
        for call, i in zip(CALLS, IDS, strict=True)
        if i not in ("node.sh", "tpu_pod.sh-resume", "tpu_pod.sh-logs")  # these do not end
    ],
)
def test_a_dry_run_can_be_pasted(place, script, words, settings):
    done = place.run(script, *words, **settings)
    ran = place.calls
    assert ran, done.stderr
    (place.fake / "calls").unlink()
    printed = place.run(script, "--dry-run", *words, **settings).stdout
    place.shell(["sh", "-c", printed])
    pasted = place.calls
    for call in ran + pasted:
        call[-1] = call[-1].rstrip("\n")
    assert pasted == ran


@pytest.mark.parametrize(
    ("script", "words", "settings", "missing"),
    [
        pytest.param(script, words, settings, name, id=f"{i}-{name}")
        for (script, words, settings), i in zip(CALLS, IDS, strict=True)
        for name in settings
    ],
)
def test_a_missing_setting_is_named(place, script, words, settings, missing):
    rest = {name: value for name, value in settings.items() if name != missing}
    for more in ([], ["--dry-run"]):
        done = place.run(script, *more, *words, **rest)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"launch/{script}: {missing} is not set")
        assert done.stdout == ""
    assert place.calls == []


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gke_jobset.sh"])
@pytest.mark.parametrize("words", [[], ["frobnicate"], ["--dry-run"]])
def test_an_unknown_action_lists_the_known_ones(place, script, words):
    done = place.run(script, *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    known = {words[0] for name, words, _ in CALLS if name == script}
    assert set(done.stderr.split(": ")[-1].split()) == known


@pytest.mark.parametrize(
    ("script", "words", "settings"),
    [
        ("tpu_pod.sh", ["run"], TPU | {"WORKDIR": "x"}),
        ("gke_jobset.sh", ["submit"], GKE),
        ("slurm.sh", [], SLURM),
        ("node.sh", [], {}),
    ],
)
def test_a_run_without_arguments_is_refused(place, script, words, settings):
    done = place.run(script, *words, **settings)
    assert done.returncode == 2
    assert "no argument given" in done.stderr
    assert place.calls == []


# Locations and the paths that the program must get for them, with MOUNTS for the mounts' folder.
LOCATIONS = {
    "buckets": (
        {"WORKDIR": "gs://bucket/runs/it's $HOME *", "DATA": "gs://sounds/a b/manifest.csv"},
        ["--workdir=MOUNTS/workdir/bucket/runs/it's $HOME *"],
        ["--config.data.manifest=MOUNTS/data/sounds/a b/manifest.csv"],
    ),
    "one bucket": (
        {"WORKDIR": "gs://bucket/runs/a", "DATA": "gs://bucket/manifest.csv"},
        ["--workdir=MOUNTS/workdir/bucket/runs/a"],
        ["--config.data.manifest=MOUNTS/data/bucket/manifest.csv"],
    ),
    "paths": (
        {"WORKDIR": "/shared/it's $HOME *", "DATA": "/shared/a b/manifest.csv"},
        ["--workdir=/shared/it's $HOME *"],
        ["--config.data.manifest=/shared/a b/manifest.csv"],
    ),
    "no data": ({"WORKDIR": "/shared/run"}, ["--workdir=/shared/run"], []),
}


@pytest.fixture(params=LOCATIONS)
def locations(request):
    settings, workdir, data = LOCATIONS[request.param]

    def expected(mounts):
        return [*NASTY, *(word.replace("MOUNTS", str(mounts)) for word in workdir + data)]

    return settings, expected


def mounted(place):
    """Bucket and mount point of every call of gcsfuse, with its options."""
    return {(call[-3], call[-2]): call[1:-3] for call in place.calls if call[0] == "gcsfuse"}


def test_node_passes_arguments_and_locations_on(place, locations):
    settings, expected = locations
    mounts = place.fake / "mounts"
    done = place.run("node.sh", *NASTY, PYTHON=str(place.python), MOUNTS=str(mounts), **settings)
    assert done.returncode == 0, done.stderr
    assert place.runs == [expected(mounts)]
    for (bucket, point), options in mounted(place).items():
        assert pathlib.Path(point).is_dir()
        assert pathlib.Path(point).name == bucket
        # Only the workdir must show at once what other processes write.
        assert ("--metadata-cache-ttl-secs=0" in options) == ("/workdir/" in point)
    assert len(mounted(place)) == sum(x.startswith("gs://") for x in settings.values())


def test_any_argument_may_lie_in_a_bucket(place):
    mounts = place.fake / "mounts"
    word = "--config.init_from=gs://bucket/runs/pretrain"
    place.run("node.sh", word, PYTHON=str(place.python), MOUNTS=str(mounts))
    assert place.runs == [[f"--config.init_from={mounts}/data/bucket/runs/pretrain"]]
    assert list(mounted(place)) == [("bucket", f"{mounts}/data/bucket")]


def test_without_gcsfuse_a_bucket_is_refused(place):
    (place.bin / "gcsfuse").unlink()
    if shutil.which("gcsfuse", path="/usr/local/bin:/usr/bin:/bin"):
        pytest.skip("this machine has gcsfuse")
    done = place.run("node.sh", "--x", PYTHON=str(place.python), WORKDIR="gs://bucket/a")
    assert done.returncode == 2
    assert "gcsfuse is missing" in done.stderr
    assert place.runs == []


def test_slurm_passes_arguments_and_locations_on(place, locations, tmp_path):
    settings, expected = locations
    settings = SLURM | {"PYTHON": str(place.python)} | settings
    done = place.run("slurm.sh", *NASTY, **settings)
    assert done.returncode == 0, done.stderr
    (call,) = place.calls
    options, job = call[1:-1], tmp_path / "job.sh"
    assert flag(options, "nodes") == ["2"]
    assert flag(options, "ntasks-per-node") == flag(options, "gpus-per-node") == ["4"]
    assert flag(options, "signal") == ["TERM@120"]  # to the step: a `B:` would only tell the shell
    assert {"--requeue", "--open-mode=append"} <= set(options)
    job.write_text(call[-1])
    number = f"test-{os.getpid()}"
    ran = place.shell(["bash", str(job)], SLURM_JOB_ID=number, SLURM_NNODES="2")
    mounts = f"/tmp/gcs-{number}"
    shutil.rmtree(mounts, ignore_errors=True)
    assert ran.returncode == 0, ran.stderr
    assert place.runs == [expected(mounts)]
    assert {point for _, point in mounted(place)} == {
        call[-2] for call in place.calls if call[:2] == ["fusermount", "-uz"]
    }
    assert not [call for call in place.calls if call[0] == "scontrol"]
    assert subprocess.run(["bash", "-n", job], check=False).returncode == 0
    shellcheck("--exclude=SC2016", job)  # what looks like an expansion is meant literally


@pytest.mark.parametrize(
    ("codes", "asked", "starts", "code", "requeued"),
    [
        ("0", "", 1, 0, False),
        ("1", "", 1, 1, False),
        ("75", "", 1, 75, True),
        ("75", "asked=1", 1, 75, False),  # scancel, or a preemption that Slurm requeues itself
        ("kill 0", "", 2, 0, False),
        ("kill 75", "", 2, 75, True),
        ("kill", "", 3, 137, False),
    ],
)
def test_slurm_job_requeues_itself_on_75_alone(place, codes, asked, starts, code, requeued):
    (place.fake / "codes").write_text(codes)
    place.run("slurm.sh", "--x", PYTHON=str(place.python), MAX_CRASHES="2", **SLURM)
    job = place.calls[0][-1].replace("crashes=0\n", f"crashes=0\n{asked}\n", 1)
    done = place.shell(["bash", "-c", job], SLURM_JOB_ID="17", SLURM_NNODES="2")
    # A shell that is killed by a signal is a negative code to Python, 128 + n to srun.
    assert done.returncode % 256 in (code, (code - 128) * -1 % 256)
    assert len(place.runs) == starts
    asked_for = [call[:-1] for call in place.calls if call[0] == "scontrol"]
    assert asked_for == ([["scontrol", "requeue", "17"]] if requeued else [])


def expanded(word):
    """An argument as the container gets it: Kubernetes reads $$ as $ and replaces $(NAME)."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda match: "lost" if match[1] else "$", word)


def test_gke_passes_arguments_and_locations_on(place, locations):
    settings, expected = locations
    done = place.run("gke_jobset.sh", "submit", *NASTY, **GKE | settings)
    assert done.returncode == 0, done.stderr
    (call,) = place.calls
    assert call[1:-1] == ["apply", "--filename=-"]
    pod = yaml.safe_load(call[-1])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    (main,) = pod["spec"]["containers"]
    assert main["command"] == ["python", "-m", "conformer_jax.main"]
    assert [expanded(word) for word in main["args"]] == expected("/gcs")
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    paths = {mount["mountPath"]: volumes[mount["name"]] for mount in main["volumeMounts"]}
    assert len(paths) == len(volumes)
    in_bucket = any(value.startswith("gs://") for value in settings.values())
    assert ("metadata" in pod) == in_bucket
    for path, volume in paths.items():
        if "csi" in volume:
            assert path.endswith("/" + volume["csi"]["volumeAttributes"]["bucketName"])
        else:
            assert volume["hostPath"]["path"] == path
    for word in expected("/gcs")[len(NASTY) :]:
        location = word.split("=", 1)[1]
        assert any(location == path or location.startswith(path + "/") for path in paths)


def test_gke_manifest(place):
    settings = GKE | {"SPOT": "1", "SERVICE_ACCOUNT": "trainer", "MAX_CRASHES": "5"}
    settings |= {"TPU_TOPOLOGY": "4x4x8", "NAMESPACE": "sounds"}
    place.run("gke_jobset.sh", "submit", "--x", **settings)
    manifest = yaml.safe_load(place.calls[0][-1])
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"] == {"name": "pod", "namespace": "sounds"}
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 5
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 32
    assert job["backoffLimit"] == 0
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["FailJob"] * 3
    pod = job["template"]
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert pod["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    assert pod["spec"]["terminationGracePeriodSeconds"] > 30
    assert pod["spec"]["serviceAccountName"] == "trainer"
    assert pod["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (1, "FailJobSet"),
        (75, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, "RestartJobSet"),
        (134, "RestartJobSet"),
    ],
)
def test_gke_retries_by_exit_code(place, code, action):
    """Follows a code through the two policies, as the controllers' documentation describes them."""
    place.run("gke_jobset.sh", "submit", "--x", **GKE)
    spec = yaml.safe_load(place.calls[0][-1])["spec"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    for index, rule in enumerate(rules):
        if code in rule.get("onExitCodes", {}).get("values", []):
            reason = "PodFailurePolicy"
            message = (
                f"Container main for pod default/pod-0 failed with exit code {code} matching "
                f"FailJob rule at index {index}"
            )
            break
    taken = "RestartJobSet"  # what a JobSet does where no rule matches
    for rule in spec["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            taken = rule["action"]
            break
    assert taken == action


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TPU_TOPOLOGY": "four"}, "TPU_TOPOLOGY"),
        ({"TPU_TOPOLOGY": "3x3"}, "CHIPS_PER_HOST"),
        ({"WORKDIR": "runs/a"}, "absolute"),
    ],
)
def test_gke_refuses_what_cannot_be(place, settings, words):
    done = place.run("gke_jobset.sh", "submit", "--x", **GKE | settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert place.calls == []


def test_gke_build_sends_the_source_and_a_dockerfile(place):
    done = place.run("gke_jobset.sh", "build", IMAGE="registry/image")
    assert done.returncode == 0, done.stderr
    sent = pathlib.Path(place.calls[0][3])
    assert {path.name for path in sent.iterdir()} == {
        *("Dockerfile", "LICENSE", "README.md", "conformer_jax", "configs", "launch"),
        "pyproject.toml",
    }
    assert "FROM python:3.12" in (sent / "Dockerfile").read_text()


def hosts_commands(place):
    """What was sent over ssh."""
    return [flag(call, "command")[0] for call in place.calls if "ssh" in call]


def test_tpu_passes_arguments_and_locations_on(place, locations, tmp_path):
    settings, expected = locations
    settings = TPU_CREATE | settings
    home = place.host / "conformer_jax"
    for action in (["create"], ["copy"], ["run", *NASTY]):
        done = place.run("tpu_pod.sh", *action, **settings)
        assert done.returncode == 0, done.stderr
    place.wait_for(home / "run.code")
    assert (home / "run.code").read_text() == "0\n", (home / "run.log").read_text()
    assert place.runs == [expected(place.host / "gcs")]
    assert (home / "conformer_jax/module.py").exists()
    assert "ended 0" in place.run("tpu_pod.sh", "status", **settings).stdout
    in_bucket = settings["WORKDIR"].startswith("gs://")
    assert ("curl" in hosts_commands(place)[1]) == in_bucket
    scripts = []
    for number, commands in enumerate(hosts_commands(place)):
        scripts.append(tmp_path / f"remote_{number}.sh")
        scripts[-1].write_text("#!/usr/bin/env bash\n# shellcheck disable=SC2164\n" + commands)
        assert subprocess.run(["bash", "-n", scripts[-1]], check=False).returncode == 0
    shellcheck("--exclude=SC2016", *scripts)


def test_tpu_run_starts_once_and_stops_on_request(place):
    (place.fake / "codes").write_text("wait")
    settings = TPU_CREATE | {"WORKDIR": "/shared/run"}
    for action in ("create", "copy"):
        place.run("tpu_pod.sh", action, **settings)
    place.run("tpu_pod.sh", "run", "--x", **settings)
    place.wait_for(place.fake / "runs")
    assert "running" in place.run("tpu_pod.sh", "status", **settings).stdout
    assert "on already" in place.run("tpu_pod.sh", "run", "--x", **settings).stdout
    place.run("tpu_pod.sh", "stop", **settings)
    place.wait_for(place.host / "conformer_jax/run.code")
    assert (place.host / "conformer_jax/run.code").read_text() == "75\n"
    assert (place.fake / "saved").exists()
    assert len(place.runs) == 1


@pytest.mark.parametrize(
    ("states", "codes", "code", "deeds"),
    [
        (
            "NOT_FOUND WAITING_FOR_RESOURCES ACTIVE",
            "0",
            0,
            ["create", "scp", "run"],
        ),
        ("ACTIVE", "1", 1, ["scp", "run"]),
        (
            "NOT_FOUND ACTIVE ACTIVE SUSPENDING SUSPENDED PROVISIONING ACTIVE",
            "wait 0",
            0,
            ["create", "scp", "run", "delete", "create", "scp", "run"],
        ),
        ("ACTIVE MAINTENANCE ACTIVE", "wait 0", 0, ["scp", "run", "scp", "run"]),
        ("ACTIVE FAILED", "wait", 1, ["scp", "run"]),
    ],
    ids=["new", "mistake", "preempted", "maintenance", "failed"],
)
def test_tpu_resume(place, states, codes, code, deeds):
    settings = TPU_CREATE | {"WORKDIR": "/shared/run"}
    if not states.startswith("NOT_FOUND"):
        place.run("tpu_pod.sh", "create", **settings)
        (place.fake / "calls").unlink()
    (place.fake / "states").write_text(states)
    (place.fake / "codes").write_text(codes)
    done = place.run("tpu_pod.sh", "resume", *NASTY, **settings)
    assert done.returncode == code, done.stderr
    assert place.runs[-1] == [*NASTY, "--workdir=/shared/run"]
    done = []
    for call in place.calls:
        done += [verb for verb in ("create", "delete", "scp") if verb in call]
        done += ["run" for command in flag(call, "command") if "nohup" in command]
    assert done == deeds


def test_tpu_spot_and_project(place):
    place.run("tpu_pod.sh", "create", SPOT="1", PROJECT="mine", **TPU_CREATE)
    assert {"--spot", "--project=mine", "--zone=here-a"} <= set(place.calls[0])


@pytest.mark.parametrize(
    ("codes", "starts", "code"),
    [
        ("0", 1, 0),
        ("1", 1, 1),
        ("75 75 75 75 75 0", 6, 0),  # not bounded
        ("75 1", 2, 1),
        ("kill 134 75 0", 4, 0),
        ("kill", 3, 137),
        ("139 75 139 75 139 0", 5, 139),
    ],
)
def test_node_retries_by_exit_code(place, codes, starts, code):
    (place.fake / "codes").write_text(codes)
    file = place.fake / "code"
    settings = {"PYTHON": str(place.python), "MAX_CRASHES": "2", "CODE_FILE": str(file)}
    done = place.run("node.sh", "--x", **settings)
    assert done.returncode == code
    assert len(place.runs) == starts
    assert file.read_text() == f"{code}\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_node_forwards_signals_as_sigterm(place, signum):
    (place.fake / "codes").write_text("wait")
    settings = {"PYTHON": str(place.python)}
    node = subprocess.Popen(place.command("node.sh", "--x"), env=place.environment(settings))
    place.wait_for(place.fake / "runs")
    node.send_signal(signum)
    assert node.wait(timeout=10) == 75
    assert (place.fake / "saved").exists()
    assert len(place.runs) == 1


@pytest.mark.parametrize(("extra", "suffix"), [("tpu", "[tpu]"), ("cuda", "[cuda]"), ("", "")])
def test_node_installs_where_nothing_is_installed(place, extra, suffix):
    place.stand_ins(names=["python3"])
    done = place.run("node.sh", "--install", EXTRA=extra)
    assert done.returncode == 0, done.stderr
    root = str(place.root)
    *_, venv, pip = [call[:-1] for call in place.calls]
    assert venv == ["python3", "-m", "venv", f"{root}/.venv"]
    constraints = f"{root}/launch/constraints.txt"
    assert pip == ["pip", "install", "-q", "-c", constraints, "-e", f"{root}{suffix}"]
    # An environment that was made without the extra gets it; one that has all is left alone.
    packages = place.root / ".venv/lib/python3/site-packages"
    has = {"tpu": "libtpu-0", "cuda": "jax_cuda13_plugin-0", "": "conformer_jax-0"}[extra]
    for name, expected in (("conformer_jax-0", [pip] if extra else []), (has, [])):
        (packages / f"{name}.dist-info").mkdir(parents=True, exist_ok=True)
        (place.fake / "calls").unlink(missing_ok=True)
        assert place.run("node.sh", "--install", EXTRA=extra).returncode == 0
        assert [call[:-1] for call in place.calls] == expected


RUN = ["run", "--config=x"]


@pytest.mark.parametrize(
    ("script", "words", "settings", "named"),
    [
        ("tpu_pod.sh", RUN, TPU | {"WORKDIR": "runs/relative"}, "runs/relative"),
        ("tpu_pod.sh", RUN, TPU | {"WORKDIR": "gs://b/x", "DATA": "here.csv"}, "here.csv"),
        ("tpu_pod.sh", ["create"], TPU_CREATE | {"SPOT": "yes"}, "SPOT"),
        ("gke_jobset.sh", ["submit", "--x"], GKE | {"SPOT": "true"}, "SPOT"),
        ("slurm.sh", ["--x"], SLURM | {"NODES": "two"}, "NODES"),
        ("slurm.sh", ["--dryrun", "--x"], SLURM, "--dry-run"),
        ("node.sh", ["--x"], {"WORKDIR": "s3://bucket/x"}, "s3://bucket/x"),
        ("node.sh", ["--x"], {"WORKDIR": "gs://"}, "gs://"),
        ("node.sh", ["--x", "--workdir", "gs://bucket/x"], {}, "gs://bucket/x"),
        ("node.sh", ["--workdir=a"], {"WORKDIR": "b"}, "WORKDIR"),
        ("node.sh", ["--x"], {"EXTRA": "gpu"}, "EXTRA"),
        ("local.sh", ["two", "--x"], {}, "'two'"),
        ("local.sh", ["2", "--x"], {"DATA": "gs://bucket/x"}, "gs://bucket"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(place, script, words, settings, named):
    done = place.run(script, *words, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert place.calls == place.runs == []


def test_local_takes_the_settings_of_all_and_its_dry_run_can_be_pasted_anywhere(place, tmp_path):
    settings = {"PYTHON": str(place.python), "PORT": "1", "LOG_DIR": str(tmp_path / "my logs")}
    settings |= {"WORKDIR": "/runs/it's", "DATA": "a b.csv"}
    assert place.run("local.sh", "2", *NASTY, **settings).returncode == 0
    ran = sorted(place.runs)
    ours = [*NASTY, "--workdir=/runs/it's", "--config.data.manifest=a b.csv"]
    assert [run[: len(ours)] for run in ran] == [ours, ours]
    (place.fake / "runs").unlink()
    printed = place.run("local.sh", "--dry-run", "2", *NASTY, **settings).stdout
    assert place.runs == []
    subprocess.run(["bash", "-c", printed], cwd="/", check=True, timeout=30)
    assert sorted(place.runs) == ran
    assert (tmp_path / "my logs/local_process_1.log").exists()


def test_tpu_delete_shows_what_is_left_even_if_it_fails(place):
    gcloud = place.bin / "gcloud"
    gcloud.write_text('#!/bin/sh\necho "$@"\n[ "$4" != delete ] || exit 7\n')
    done = place.run("tpu_pod.sh", "delete", **TPU)
    assert done.returncode == 7
    assert "queued-resources list" in done.stdout
    assert "tpu-vm list" in done.stdout


@pytest.mark.parametrize("answer", ["ERROR: PERMISSION_DENIED: no", "ERROR: UNAUTHENTICATED: no"])
def test_tpu_resume_ends_where_asking_again_does_not_help(place, answer):
    (place.bin / "gcloud").write_text(f"#!/bin/sh\necho '{answer}' >&2\nexit 1\n")
    done = place.run("tpu_pod.sh", "resume", "--x", **TPU_CREATE, WORKDIR="/shared/run")
    assert done.returncode == 1
    assert answer in done.stderr


@pytest.mark.parametrize("script", ["local", "node", "slurm", "tpu_pod", "gke_jobset"])
def test_help_is_the_header_and_a_late_dry_run_is_refused(script):
    path = LAUNCH / f"{script}.sh"
    said = subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout
    assert f"launch/{script}.sh" in said
    assert "set -euo" not in said
    for word in ("--dry-run", "--help"):
        late = subprocess.run([path, "run", word], capture_output=True, text=True, check=False)
        assert late.returncode == 2
        assert f"{word} must be the first word" in late.stderr
