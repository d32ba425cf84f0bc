"""Which device JAX computes on, in a sentence."""

import os
import shutil


def describe() -> str:
    """The device, and a word where it is the CPU although the machine has something faster."""
    import jax

    found = jax.devices()
    kind = found[0].device_kind
    if found[0].platform != "cpu":
        more = f" ({len(found)} of them)" if len(found) > 1 else ""
        return f"computing on {kind}{more}, JAX {jax.__version__}"
    said = f"computing on the CPU, {os.cpu_count()} cores, JAX {jax.__version__}"
    if shutil.which("nvidia-smi"):
        return (
            f"{said}: FELL BACK from a GPU that JAX cannot use; install the extra 'cuda12' where "
            f"`nvidia-smi` says CUDA 12, 'cuda' where it says 13, and restart"
        )
    if any(name in os.environ for name in ("TPU_ACCELERATOR_TYPE", "TPU_NAME")):
        return f"{said}: FELL BACK from a TPU that JAX cannot use; install the extra 'tpu'"
    return f"{said}: no GPU and no TPU was found, so training is slow"
