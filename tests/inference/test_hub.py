"""Bundles of the Hugging Face Hub, which a folder stands in for."""

import sys
import types

import pytest
from inference.conftest import NAMES, toy

import conformer_jax
from conformer_jax.errors import UserError
from conformer_jax.inference import bundle


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The calls that were made; the repository 'me/sounds' is there."""
    bundle.write(tmp_path / "snapshot", *toy(), bundle.card(toy()[0], title="sounds"))
    (tmp_path / "empty").mkdir()
    calls = []

    def snapshot_download(repository, *, revision, allow_patterns):
        calls.append((repository, revision, allow_patterns))
        if repository == "me/gone":
            raise ConnectionError("404 Client Error\nRepository Not Found")
        return str(tmp_path / ("snapshot" if repository == "me/sounds" else "empty"))

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_a_bundle_is_fetched_and_nothing_else(stand_in):
    assert conformer_jax.load("hf:me/sounds").label_names == NAMES
    conformer_jax.load("hf:me/sounds@v1.0")
    files = ["config.json", "model.safetensors", "README.md"]
    assert stand_in == [("me/sounds", None, files), ("me/sounds", "v1.0", files)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:me/gone", "hf:me/gone cannot be fetched: 404 Client Error"),
        ("hf:me/other", "hf:me/other is no bundle"),
        ("hf:sounds", "write hf:owner/name"),
        ("hf:me/../x", "write hf:owner/name"),
    ],
)
def test_what_is_not_there_is_one_line(name, words, stand_in):
    with pytest.raises(UserError, match=words) as caught:
        conformer_jax.load(name)
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'conformer_jax\[hub\]'"):
        conformer_jax.load("hf:me/sounds")


def test_the_stand_in_is_called_as_the_library_is():
    library = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    import inspect

    names = inspect.signature(library.snapshot_download).parameters
    assert {"repo_id", "revision", "allow_patterns"} <= set(names)
    assert next(iter(names)) == "repo_id"
