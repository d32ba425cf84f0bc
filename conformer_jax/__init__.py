"""Self-supervised Conformers for non-speech audio in JAX."""


def load(origin):
    """A trained model, ready to tag and to embed sound: `inference.model.Model`.

    Args:
      origin: workdir of a run (fine-tuned, probe, or pre-trained: without labels), a `.safetensors`
        file of ours, a folder that `python -m conformer_jax.bundle` wrote, 'pretrained:tiny', or
        'hf:owner/name' for such a folder on the Hugging Face Hub (the extra `hub`).

    Raises:
      UserError: there is nothing there, or it is damaged; in one line.
    """
    # Here: JAX takes seconds to import, and the commands need none of this.
    from conformer_jax.inference import model

    return model.load(origin)


def device() -> str:
    """Which device JAX computes on, in a sentence; it says so where it fell back to the CPU."""
    from conformer_jax.command import device

    return device.describe()
