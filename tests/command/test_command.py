"""How a run ends that has too little memory."""

import jax
import pytest

from conformer_jax.command import command
from conformer_jax.errors import TOO_LITTLE_MEMORY
from conformer_jax.training import distributed, host_memory, progress


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        MemoryError(),
        jax.errors.JaxRuntimeError("INTERNAL: std::bad_alloc"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 48 bytes."),
    ],
)
def test_too_little_memory_ends_in_its_line(error, monkeypatch, capfd):
    monkeypatch.setattr(progress, "set_up_logging", lambda active=True: None)
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(distributed, "initialize", lambda *flags: None)

    def work():
        raise error

    with pytest.raises(SystemExit) as stop:
        command.execute(work, "runs/x", ())
    assert stop.value.code not in (0, None)
    assert capfd.readouterr().err.strip().splitlines()[-1].endswith(TOO_LITTLE_MEMORY)
