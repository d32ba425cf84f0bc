"""For X-ARES: an encoder as its protocol wants it, a torch.nn.Module; needs torch.

    python -m xares.run --max-jobs 1 conformer_jax/wrappers/xares.py src/tasks/*.py

CONFORMER_JAX_MODEL names the model, by default pretrained:tiny.
"""

import os

import numpy as np

from conformer_jax.inference import model as models

try:
    import torch
except ImportError:  # whoever looks at this file need not have it; the kit does
    torch = None


class ConformerJaxEncoder(torch.nn.Module if torch else object):
    """audio [B, T] -> [B, T', D], a vector every `hop_size_in_ms`."""

    def __init__(self, origin=None):
        super().__init__()
        self._model = models.load(
            origin or os.environ.get("CONFORMER_JAX_MODEL", "pretrained:tiny")
        )
        self.sampling_rate = int(self._model.sample_rate)
        second = self._model.embed(np.zeros(self.sampling_rate, np.float32), self.sampling_rate)
        self.output_dim = int(second.frames.shape[1])
        self.hop_size_in_ms = float(round(1e3 * np.diff(second.frame_times)[0], 3))

    def forward(self, audio):
        """float [B, T] or [T] at `sampling_rate` Hz -> float32 [B, T', D]."""
        sounds = np.atleast_2d(audio.detach().cpu().numpy())
        frames = [self._model.embed(sound, self.sampling_rate).frames for sound in sounds]
        return torch.from_numpy(np.stack(frames)).to(audio.device)
