"""The authors' prototype (torchaudio 2.8, `conformer_wav2vec2`) and ours: names and layouts.

Every tensor of the one is a tensor of the other, transposed or reshaped; torch keeps Linear as
[out, in] and Conv1d as [out, in / groups, kernel].
"""

import re
from typing import NamedTuple

import numpy as np

from conformer_jax.errors import UserError
from conformer_jax.models.conformer import SIZES, EncoderSpec

_HEADS = {spec.width: spec.num_heads for spec in SIZES.values()}
_PRETRAINING = {  # ours, of the prototype's
    "mask_embedding": "mask_generator.mask_embedding",
    "target_projection/kernel": "negative_sampler.preprocessor.weight",
    "target_projection/bias": "negative_sampler.preprocessor.bias",
}
_HEAD = ("aux.weight", "aux.bias")  # of a prototype that was fine-tuned
_STRANGE = {
    "conv_layers": "a feature extractor of convolutions on the waveform, where ours takes log-mel",
    "running_mean": "BatchNorm in its convolution, where ours has GroupNorm of one group",
    "transformer": "a Transformer encoder, where ours is a Conformer",
    "post_norm": "norms in other places than ours",
    "positional": "a positional encoding, which ours does not have",
}


class Converted(NamedTuple):
    """encoder: {name: float32} of ours; spec; num_mels; left_out: names with no place there."""

    encoder: dict
    spec: EncoderSpec
    num_mels: int
    left_out: tuple[str, ...]


def pairs(spec: EncoderSpec) -> list[tuple[str, str, str]]:
    """(our name, the prototype's, layout) of every tensor of the encoder.

    layout: 'same', 'linear', 'pointwise', 'depthwise', 'qkv', 'qkv_bias' or 'out'.
    """
    found = []

    def dense(ours, theirs, layout="linear"):
        found.append((f"{ours}/kernel", f"{theirs}.weight", layout))
        found.append((f"{ours}/bias", f"{theirs}.bias", "same"))

    def norm(ours, theirs):
        found.append((f"{ours}/scale", f"{theirs}.weight", "same"))
        found.append((f"{ours}/bias", f"{theirs}.bias", "same"))

    dense("stack", "feature_extractor.linear_layer")
    norm("token_norm", "encoder.feature_projection.layer_norm")
    dense("projection", "encoder.feature_projection.projection")
    for i in range(len(spec.kernel_sizes)):
        ours, theirs = f"block_{i}", f"encoder.conformer.{i}"
        for mine, yours in (("feed_forward_in", "ffn1"), ("feed_forward_out", "ffn2")):
            norm(f"{ours}/{mine}/norm", f"{theirs}.{yours}.sequential.0")
            dense(f"{ours}/{mine}/expand", f"{theirs}.{yours}.sequential.1")
            dense(f"{ours}/{mine}/contract", f"{theirs}.{yours}.sequential.4")
        mine, yours = f"{ours}/convolution", f"{theirs}.conv_module"
        norm(f"{mine}/norm", f"{yours}.layer_norm")
        dense(f"{mine}/pointwise_in", f"{yours}.sequential.0", "pointwise")
        found.append((f"{mine}/depthwise_kernel", f"{yours}.sequential.2.weight", "depthwise"))
        found.append((f"{mine}/depthwise_bias", f"{yours}.sequential.2.bias", "same"))
        norm(f"{mine}/group_norm", f"{yours}.sequential.3")
        dense(f"{mine}/pointwise_out", f"{yours}.sequential.5", "pointwise")
        mine, yours = f"{ours}/attention", f"{theirs}.self_attn"
        norm(f"{mine}/norm", f"{theirs}.self_attn_layer_norm")
        found.append((f"{mine}/qkv/kernel", f"{yours}.in_proj_weight", "qkv"))
        found.append((f"{mine}/qkv/bias", f"{yours}.in_proj_bias", "qkv_bias"))
        dense(f"{mine}/out", f"{yours}.out_proj", "out")
        norm(f"{ours}/norm", f"{theirs}.final_layer_norm")
    return found


def to_ours(state: dict, *, heads: int | None = None, stride: int = 4) -> Converted:
    """A state dict as our encoder.

    Args:
      state: {name: array}, of pre-training ('wav2vec2.encoder...') or of the encoder alone.
      heads: of the attention, of which a state dict knows nothing; None for those of our sizes.
      stride: log-mel frames stacked to a token, likewise.

    Raises:
      UserError: another architecture, or a tensor that is missing, left over or of another shape.
    """
    known = {name.removeprefix("wav2vec2."): array for name, array in state.items()}
    _refuse_strangers(known)
    spec, num_mels = _spec(known, heads, stride)
    encoder, used = {}, set()
    for ours, theirs, layout in pairs(spec):
        if theirs not in known:
            raise UserError(f"the state dict lacks {theirs}: is it whole?")
        used.add(theirs)
        array = np.asarray(known[theirs], np.float32)
        shape = _shape(ours, spec, num_mels)
        # A view is not what safetensors would write.
        encoder[ours] = np.ascontiguousarray(_checked(theirs, _ours(array, layout, spec), shape))
        if not np.isfinite(encoder[ours]).all():
            raise UserError(f"{theirs} holds numbers that are not finite")
    left_out = set(known) - used
    unknown = sorted(left_out - set(_PRETRAINING.values()) - set(_HEAD))
    if unknown:
        raise UserError(
            f"the state dict has {len(unknown)} tensors that conformer_wav2vec2 does not have "
            f"({', '.join(unknown[:3])}): it is of another model"
        )
    return Converted(encoder, spec, num_mels, tuple(sorted(left_out)))


def to_theirs(params: dict, spec: EncoderSpec) -> dict:
    """Our tensors as a state dict.

    Args:
      params: {name: array}, 'encoder/...', and of pre-training with linear targets also
        mask_embedding and target_projection; then the names are those of pre-training.
      spec: of the encoder.

    Raises:
      UserError: a tensor that is missing or has no place.
    """
    pretraining = set(_PRETRAINING) <= params.keys()
    prefix, state, used = "wav2vec2." if pretraining else "", {}, set()
    for ours, theirs, layout in pairs(spec):
        state[prefix + theirs] = _theirs(params[f"encoder/{ours}"], layout, spec)
        used.add(f"encoder/{ours}")
    if pretraining:
        for ours, theirs in _PRETRAINING.items():
            state[theirs] = np.asarray(params[ours]).T
            used.add(ours)
    if left := sorted(params.keys() - used):
        raise UserError(f"no place in the prototype for {', '.join(left[:3])}")
    return {name: np.ascontiguousarray(x, np.float32) for name, x in state.items()}


def _refuse_strangers(known):
    for part, said in _STRANGE.items():
        strange = [name for name in known if part in name]
        if strange:
            raise UserError(f"this state dict ({strange[0]}) has {said}: it cannot be converted")


def _spec(known, heads, stride):
    blocks = {int(m[1]) for name in known if (m := re.match(r"encoder\.conformer\.(\d+)\.", name))}
    if not blocks or blocks != set(range(len(blocks))):
        raise UserError(
            "the state dict has no blocks encoder.conformer.0, .1, ...: it is no conformer_wav2vec2"
        )
    try:
        feature_dim, stacked = known["feature_extractor.linear_layer.weight"].shape
        width = known["encoder.feature_projection.projection.weight"].shape[0]
        inner = known["encoder.conformer.0.ffn1.sequential.1.weight"].shape[0]
        depthwise = "encoder.conformer.{}.conv_module.sequential.2.weight"
        kernels = tuple(known[depthwise.format(i)].shape[-1] for i in range(len(blocks)))
    except KeyError as error:
        raise UserError(f"the state dict lacks {error.args[0]}: is it whole?") from None
    if heads is None and width not in _HEADS:
        raise UserError(f"of width {width} there is no usual number of heads: give --heads=N")
    if stacked % stride:
        raise UserError(f"--stride={stride} does not divide {stacked}, the stacked mel bins")
    try:
        spec = EncoderSpec(
            stride=stride,
            feature_dim=feature_dim,
            width=width,
            num_heads=heads or _HEADS[width],
            feed_forward_width=inner,
            kernel_sizes=kernels,
        )
    except ValueError as error:
        raise UserError(f"the prototype's sizes do not fit: {error}") from error
    return spec, stacked // stride


def _shape(ours, spec, num_mels):
    """Of a tensor of ours."""
    width, inner, heads = spec.width, spec.feed_forward_width, spec.num_heads
    first = ours.partition("/")[0]
    of_kernel = {
        "stack": (num_mels * spec.stride, spec.feature_dim),
        "projection": (spec.feature_dim, width),
        "expand": (width, inner),
        "contract": (inner, width),
        "pointwise_in": (width, 2 * width),
        "pointwise_out": (width, width),
        "qkv": (width, 3, heads, width // heads),
        "out": (heads, width // heads, width),
    }
    module, leaf = ours.split("/")[-2:]
    if leaf == "kernel":
        return of_kernel[module]
    if leaf == "depthwise_kernel":
        return (spec.kernel_sizes[int(first.removeprefix("block_"))], width)
    if module == "qkv":
        return of_kernel[module][1:]
    if leaf == "bias" and module in of_kernel:
        return of_kernel[module][-1:]
    return (spec.feature_dim,) if first == "token_norm" else (width,)


def _ours(array, layout, spec):
    heads, width = spec.num_heads, spec.width
    size = width // heads
    try:
        return {
            "same": lambda: array,
            "linear": lambda: array.T,
            "pointwise": lambda: array[:, :, 0].T,
            "depthwise": lambda: array[:, 0].T,
            "qkv": lambda: array.T.reshape(width, 3, heads, size),
            "qkv_bias": lambda: array.reshape(3, heads, size),
            "out": lambda: array.T.reshape(heads, size, width),
        }[layout]()
    except (ValueError, IndexError):
        return array  # its shape is refused


def _theirs(array, layout, spec):
    array, width = np.asarray(array), spec.width
    return {
        "same": lambda: array,
        "linear": lambda: array.T,
        "pointwise": lambda: array.T[:, :, None],
        "depthwise": lambda: array.T[:, None],
        "qkv": lambda: array.reshape(width, 3 * width).T,
        "qkv_bias": lambda: array.reshape(-1),
        "out": lambda: array.reshape(width, width).T,
    }[layout]()


def _checked(name, array, shape):
    if array.shape != shape:
        raise UserError(f"{name} becomes {array.shape}, where {shape} is needed: another model?")
    return array
