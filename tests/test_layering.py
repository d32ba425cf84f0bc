"""The rooms of the house: who may import whom, and life without TensorFlow."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

# The rooms, from the ground up: what each is for, and the rooms that it may import. What lies
# directly in conformer_jax/ are the commands, which may import any room, and the first four.
ROOMS = {
    "errors": (),  # a user's mistake in one line
    "ranges": (),  # what a field may be
    "reading": (),  # which fields a run reads
    "fields": ("ranges", "reading", "errors"),  # every field of a config
    "models": (),  # features, masking, encoder, objective, head
    "data": ("errors",),  # audio, manifests, batches
    "corpora": ("data", "errors"),  # corpora as published, prepared for training
    "steps": ("models",),  # the training steps: losses, augmentation, optimizer, metrics
    "evaluation": ("steps", "errors"),  # predictions, probes of a frozen encoder
    "training": (
        "evaluation",
        "steps",
        "data",
        "models",
        "fields",
        "reading",
        "errors",
    ),  # the loop, checkpoints
    "inference": (
        "training",
        "evaluation",
        "data",
        "models",
        "fields",
        "errors",
    ),  # a trained model at work
    "exporting": (
        "inference",
        "steps",
        "data",
        "models",
        "fields",
        "errors",
    ),  # a trained model for other programs
    "wrappers": ("inference",),  # a trained model for the evaluation kits of others
    "command": ("training", "evaluation", "data", "errors"),  # what commands share
    "reporting": (
        "training",
        "evaluation",
        "steps",
        "data",
        "models",
        "fields",
        "errors",
    ),  # the page
    "measuring": (
        "exporting",
        "inference",
        "training",
        "data",
        "models",
        "fields",
        "errors",
    ),  # how fast, and where the time goes
}

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "conformer_jax"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
OURS = "conformer_jax"


def imports_of(path):
    """Absolute names of all imported modules, wherever in the file the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def ours(name):
    """Modules of the package that a file imports, as `models.masking` or `errors`."""
    modules = {path.removesuffix(".py").replace("/", ".") for path in FILES}
    short = {i.removeprefix(OURS + ".") for i in IMPORTS[name] if i.startswith(OURS + ".")}
    return {module for module in short if module in modules}


def roots(name):
    return {module.split(".")[0] for module in IMPORTS[name]}


def in_folder(folder):
    return [name for name in FILES if name.startswith(folder + "/")]


def test_the_reader_of_imports_sees_them(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import a.b as c\ndef f():\n    from d.e import g\n")
    assert imports_of(file) == {"a.b", "d.e", "d.e.g"}
    assert "models.wav2vec2" in ours("steps/masked_contrast.py")
    assert len(FILES) > 20


def room_of(module):
    """The room of `training.loop`; of a command '', which nothing may import."""
    first = module.split(".")[0]
    return first if first in ROOMS else ""


@pytest.mark.parametrize("name", FILES)
def test_a_room_imports_only_rooms_below_it(name):
    here = room_of(name.removesuffix(".py").replace("/", "."))
    allowed = {here, *ROOMS[here]} - {""} if here else set(ROOMS)
    assert {room_of(module) for module in ours(name)} <= allowed


def test_the_table_names_every_room_and_no_room_stands_on_one_above_it():
    folders = {path.split("/")[0] for path in FILES if "/" in path}
    assert folders | {"errors", "ranges", "reading", "fields"} == set(ROOMS)
    for i, (room, below) in enumerate(ROOMS.items()):
        assert set(below) <= set(list(ROOMS)[:i]), room


def test_the_picture_and_the_readme_show_every_room_and_every_command():
    picture = (ROOT / "docs/images/house.svg").read_text()
    listing = (ROOT / "README.md").read_text().partition("## The house")[2]
    commands = {path.removesuffix(".py") for path in FILES if "/" not in path} - {"__init__"}
    for name in commands | set(ROOMS):
        assert re.search(rf"\b{name}\b", picture), name
        assert re.search(rf"\b{name}\b", listing), name


def test_no_file_imports_itself_in_a_circle():
    """Inside a room, too; wherever in the file the import stands."""
    paths = {name.removesuffix(".py").replace("/", "."): name for name in FILES}
    left = {name: {paths[module] for module in ours(name)} for name in FILES}
    while free := [name for name, below in left.items() if not below]:
        for name in free:
            del left[name]
        for below in left.values():
            below.difference_update(free)
    assert not left


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("measuring/hlo.py", set()),
        ("measuring/trace.py", set()),
        ("measuring/profiling.py", {"measuring.hlo", "measuring.trace"}),
    ],
)
def test_what_reads_programs_and_traces_knows_nothing_of_the_model(name, allowed):
    assert ours(name) <= allowed


def test_what_the_steps_are_made_of_knows_no_step_and_no_model():
    for part in ("losses", "metrics", "state", "optimizer", "augment"):
        assert ours(f"steps/{part}.py") == set()
    assert "steps.finetune" not in ours("steps/pretrain.py")
    assert "steps.pretrain" not in ours("steps/finetune.py")


@pytest.mark.parametrize("name", in_folder("models"))
def test_models_use_jax_flax_and_numpy_only(name):
    allowed = {OURS, "jax", "flax", "numpy", *sys.stdlib_module_names}
    if name == "models/features.py":
        allowed.add("librosa")
    assert roots(name) <= allowed


def test_data_does_not_import_jax():
    assert in_folder("data")
    for name in in_folder("data"):
        assert not roots(name) & {"jax", "flax", "optax", "orbax"}, name


def test_tensorflow_is_imported_by_the_input_pipeline_and_the_builders_only():
    """exporting/tflite.py asks for it by name, where that format is wanted."""
    users = {name for name in FILES if "tensorflow" in roots(name)}
    assert "data/input_pipeline.py" in users
    assert {n for n in users if not n.startswith("data/datasets/")} == {"data/input_pipeline.py"}


def test_only_the_loader_that_picks_it_imports_the_input_pipeline():
    users = {name for name in FILES if "data.input_pipeline" in ours(name)}
    assert users <= {"data/host_loader.py"}


def test_the_loop_knows_no_model():
    assert not {module for module in ours("training/loop.py") if module.startswith("models.")}
    assert not ours("training/loop.py") & {"steps.pretrain", "steps.finetune"}


def test_the_report_reads_what_runs_left_and_builds_no_model():
    read = {"training.diagnostics", "training.progress", "training.workdir", "steps.metrics"}
    read |= {
        "evaluation.predictions",
        "evaluation.calibration",
        "data.sources",
        "data.folds",
        "models.features",
        "data.mixture",
        "training.saved_files",
        "errors",
        "fields",  # defaults of what an earlier version did not know
    }
    for name in in_folder("reporting"):
        others = {module for module in ours(name) if not module.startswith("reporting")}
        assert others <= read, name


@pytest.mark.parametrize("name", FILES)
def test_no_file_outgrows_one_sitting(name):
    assert len(FILES[name].read_text().splitlines()) <= 400


def functions_of(path):
    """(name, lines) of every function of a file, nested ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", FILES)
def test_a_function_fits_a_screen(name):

    long = {f for f, lines in functions_of(FILES[name]) if lines > 60}
    assert not long


def test_main_stays_short():
    assert len(FILES["main.py"].read_text().splitlines()) < 80


@pytest.mark.parametrize("name", FILES)
def test_no_pickle(name):
    assert not roots(name) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert "allow_pickle=True" not in FILES[name].read_text()


WITHOUT_TENSORFLOW = """
import sys

sys.modules["tensorflow"] = None  # any import of it now fails

import importlib
import pathlib

root, workdir = sys.argv[1:]
sys.path.insert(0, root)
package = pathlib.Path(root, "conformer_jax")
for path in sorted(package.rglob("*.py")):
    name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
    if "input_pipeline" not in name and ".datasets" not in name and "__init__" not in name:
        importlib.import_module(name)

from configs import pretrain
from conformer_jax.training import loop

config = pretrain.get_config("smoke")
config.train.update(num_steps=3, log_every=1, eval_every=3)
config.checkpoint.every_steps = 3
config.conformer.kernel_sizes = (5,)
result = loop.train_and_evaluate(config, workdir)
assert result.train["finite"] == 1.0, result.train
print("held-out loss", result.held_out["contrastive_loss"])
"""


def test_all_but_the_pipeline_imports_and_trains_without_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(ROOT), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
        cwd=tmp_path,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "held-out loss" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
