"""A trained model behind HEAR's API (https://hearbenchmark.com/hear-api.html).

    from conformer_jax import hear

    model = hear.load_model("runs/probe")  # '' for the encoder that comes along
    vectors = hear.get_scene_embeddings(audio, model)  # [n, E]
    frames, milliseconds = hear.get_timestamp_embeddings(audio, model)  # [n, T, D], [n, T]

Arrays in, arrays out; torch tensors in, torch tensors out.
"""

import sys

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.inference import model as models


class HearModel:
    """What `load_model` returns; where torch is installed it is a torch.nn.Module, too, which the
    kit asks for.

    Attributes:
      sample_rate: Hz that audio has to have.
      scene_embedding_size, timestamp_embedding_size: E and D.
      loaded: the conformer_jax.load that it stands for.
    """

    def __init__(self, loaded):
        super().__init__()
        self.loaded = loaded
        self.sample_rate = int(loaded.sample_rate)
        self.scene_embedding_size = int(loaded.width)
        second = loaded.embed(np.zeros(self.sample_rate, np.float32), self.sample_rate)
        self.timestamp_embedding_size = int(second.frames.shape[1])

    def forward(self, audio):
        """Scene embeddings, as torch calls a module."""
        return get_scene_embeddings(audio, self)


def load_model(model_file_path: str = "") -> HearModel:
    """The model of what `conformer_jax.load` takes, '' for pretrained:tiny.

    Raises:
      UserError: there is none.
    """
    loaded = models.load(model_file_path or "pretrained:tiny")
    torch = _torch()
    if torch is None:
        return HearModel(loaded)
    return type("HearModel", (HearModel, torch.nn.Module), {})(loaded)


def get_scene_embeddings(audio, model: HearModel):
    """audio [n_sounds, n_samples], -1 to 1 at the model's rate -> float32 [n_sounds, E]."""
    sounds, answer = _checked(audio)
    vectors = [model.loaded.embed(sound, model.sample_rate).clip for sound in sounds]
    return answer(np.stack(vectors).astype(np.float32))


def get_timestamp_embeddings(audio, model: HearModel):
    """As `get_scene_embeddings` -> float32 [n_sounds, T, D]; the middle of each of the T frames in
    milliseconds, float32 [n_sounds, T]."""
    sounds, answer = _checked(audio)
    found = [model.loaded.embed(sound, model.sample_rate) for sound in sounds]
    frames = np.stack([one.frames for one in found]).astype(np.float32)
    times = np.stack([1e3 * one.frame_times for one in found]).astype(np.float32)
    return answer(frames), answer(times)


def _checked(audio):
    """float32 [n, samples], and what makes the answer of the kind that was given.

    Raises:
      UserError: another shape.
    """
    torch = _torch() if "torch" in sys.modules else None
    if torch is not None and isinstance(audio, torch.Tensor):
        device = audio.device
        sounds, answer = audio.detach().cpu().numpy(), lambda x: torch.from_numpy(x).to(device)
    else:
        sounds, answer = np.asarray(audio), lambda x: x
    if sounds.ndim != 2 or not sounds.size:
        raise UserError(f"audio of shape {sounds.shape}: give [n_sounds, n_samples]")
    return sounds, answer


def _torch():
    try:
        import torch
    except ImportError:
        return None
    return torch
