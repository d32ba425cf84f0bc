"""The notebooks: what is generated is current, and they run from the first cell to the last."""

import os
import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("quickstart", "your_own_sounds")


def notebook(name):
    jupytext = pytest.importorskip("jupytext", reason="needs the extra 'test'")
    return jupytext.read(ROOT / "colab" / f"{name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_its_source_without_outputs(name):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra 'test'")
    stored = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in stored.cells)
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (stored, notebook(name))]
    assert cells[0] == cells[1], f"run `jupytext --to ipynb colab/{name}.py`"
    code = [c.source for c in stored.cells if c.cell_type == "code"]
    assert not any(word in cell for cell in code for word in ("def ", "class ", "lambda"))


@pytest.mark.slow  # a minute each on two quiet cores, five on busy ones
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_a_fresh_kernel(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra 'test'")
    for part in ("conformer_jax", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "colab").mkdir()
    monkeypatch.setenv("CONFORMER_JAX_FAST", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent),
                                                os.environ["PATH"]]))  # fmt: skip
    read = notebook(name)
    client = nbclient.NotebookClient(
        read, timeout=600, resources={"metadata": {"path": str(tmp_path / "colab")}}
    )
    try:
        client.execute()
    finally:  # what the commands said is in the cells
        print(*(o.get("text", "") for c in read.cells for o in c.get("outputs", ())), sep="\n")
    said = "".join(o.get("text", "") for c in read.cells for o in c.get("outputs", ()))
    assert "computing on the CPU" in said
    assert "rror:" not in said, said[-3000:]
    if name == "your_own_sounds":
        assert (tmp_path / "my_model.zip").stat().st_size > 1e6
        assert "day.wav" in said
    else:
        assert (tmp_path / "report.html").exists()
