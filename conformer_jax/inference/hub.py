"""Bundles from the Hugging Face Hub, by huggingface_hub, the extra `hub`."""

import pathlib
import re

from conformer_jax.errors import UserError

PREFIX = "hf:"
_FILES = ["config.json", "model.safetensors", "README.md"]  # all that a bundle is; nothing else
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch(name: str) -> pathlib.Path:
    """The folder of a bundle on this machine, fetched where it is not there yet.

    Args:
      name: 'hf:owner/name', or 'hf:owner/name@revision'.

    Raises:
      UserError: no such repository, no network, or the extra is not installed.
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise UserError(f"{name}: write hf:owner/name, or hf:owner/name@revision")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{name} needs the extra 'hub': pip install 'conformer_jax[hub]'") from None
    repository, revision = found.groups()
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=_FILES
        )
    except Exception as error:  # of httpx, of the hub and of the disk, a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} cannot be fetched: {reason}") from error
    return pathlib.Path(folder)
