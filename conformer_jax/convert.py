"""python -m conformer_jax.convert FROM TO

Turns the authors' prototype (torchaudio 2.8, conformer_wav2vec2) into an encoder file, and back.
"""

import argparse
import json
import os
import pathlib
import re
import sys

from conformer_jax.command import using

_SUFFIXES = (".safetensors", ".npz")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.convert",
        description="Turn a state dict of torchaudio 2.8's conformer_wav2vec2, of any size, into "
        "an encoder file for config.init_from and conformer_jax.load; or a trained encoder of "
        "ours into such a state dict. Every layer of both is computed and compared.",
    )
    add = made.add_argument
    add("origin", metavar="FROM", help="state dict (.safetensors, .npz, .pt where torch is "
        "installed), or what conformer_jax.load takes")  # fmt: skip
    add("output", metavar="TO", help="file to write: .safetensors, or of a state dict .npz, too")
    add("--heads", type=int, metavar="N", help="of the attention, which a state dict does not say; "
        "default: 8 at width 256, 12 at width 768")  # fmt: skip
    add("--stride", type=int, default=4, metavar="N", help="frames stacked to a token, likewise; "
        "default: 4")  # fmt: skip
    add("--statistics", metavar="FILE", help="JSON with mean and deviation of each mel bin that "
        "the state dict was trained with, such as <manifest>.statistics.json; default: none, "
        "features as they are")  # fmt: skip
    add("--overwrite", action="store_true", help="replace TO if it exists")
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _convert(args))


def _convert(args) -> int:
    from conformer_jax.errors import UserError

    output = pathlib.Path(args.output)
    if output.suffix not in _SUFFIXES:
        raise UserError(f"{output}: its name must end in {' or '.join(_SUFFIXES)}")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}")
    using.check_apart(output, args.origin)
    using.check_output("TO", output, overwrite=args.overwrite)
    if (state := _state_dict(args.origin)) is None:
        return _to_theirs(args.origin, output)
    return _to_ours(state, args, output)


def _to_ours(state, args, output) -> int:
    from conformer_jax import fields
    from conformer_jax.errors import UserError
    from conformer_jax.exporting import prototype
    from conformer_jax.inference import trained
    from conformer_jax.training import encoder_file, probe_file

    if output.suffix != encoder_file.SUFFIX:
        raise UserError(f"{output}: an encoder file's name ends in {encoder_file.SUFFIX}")
    found = prototype.to_ours(state, heads=args.heads, stride=args.stride)
    config = fields.get_config().to_dict()
    for name in ("stride", "feature_dim", "width", "num_heads", "feed_forward_width"):
        config["conformer"][name] = getattr(found.spec, name)
    config["conformer"]["kernel_sizes"] = found.spec.kernel_sizes
    mean, deviation = _statistics(args.statistics, found.num_mels)
    config["features"] |= {"num_mels": found.num_mels, "mean": mean, "deviation": deviation}
    fields.check(config)
    tree = trained.tree(found.encoder)
    _compare(state, tree, found.spec, found.num_mels)
    rounded = sum(array.size for array in found.encoder.values())
    encoder_file.save(
        output, tree, {"config": config, "step": 0, "versions": probe_file.versions()}
    )
    kept = len(found.encoder)
    print(f"{kept} of {len(state)} tensors converted, {rounded:,} parameters, rounded to bfloat16")
    for name in found.left_out:
        why = "of a head" if name.startswith("aux") else "of the pre-training objective"
        print(f"left out: {name}, {why}: an encoder file has none")
    if args.statistics is None:
        print("features are not normalised: a state dict does not say how its own were; give "
              "--statistics=FILE if you know")  # fmt: skip
    print(f"Wrote {output}: for --config.init_from={output}, and conformer_jax.load")
    return 0


def _to_theirs(origin, output) -> int:
    import numpy as np
    import safetensors.numpy

    from conformer_jax.exporting import prototype
    from conformer_jax.inference import trained

    found = trained.find(origin)
    model = trained.make_classifier(found.meta)
    tensors, left = _tensors(origin, found)
    state = prototype.to_theirs(tensors, model.encoder_spec)
    encoder = trained.tree({n: x for n, x in tensors.items() if n.startswith("encoder/")})
    _compare(state, encoder["encoder"], model.encoder_spec, model.features.num_mels)
    temporary = output.with_name(output.name + ".tmp")
    if output.suffix == ".npz":
        with open(temporary, "wb") as file:
            np.savez(file, **state)
    else:
        safetensors.numpy.save_file(state, temporary)
    os.replace(temporary, output)
    print(f"{len(state)} tensors converted, {sum(x.size for x in state.values()):,} parameters")
    for name in left:
        print(f"left out: {name}, for which the prototype has no place")
    heads, stride = model.encoder_spec.num_heads, model.encoder_spec.stride
    print(f"Wrote {output}: {heads} heads, {stride} frames a token, which no state dict says; its "
          f"features must be normalised as the model's are")  # fmt: skip
    return 0


def _tensors(origin, found):
    """Of the encoder, with those of pre-training where the prototype has a place for them; and the
    names of what is left out."""
    from conformer_jax.training import checkpoint, digest

    encoder = {n: x for n, x in found.tensors.items() if n.startswith("encoder/")}
    left = sorted(found.tensors.keys() - encoder.keys())
    if pathlib.Path(origin).is_dir() and (pathlib.Path(origin) / "checkpoints").is_dir():
        saved, _ = checkpoint.read_model(origin)
        rest = digest.flat({n: x for n, x in saved.items() if n not in ("encoder", "head")})
        linear = {"mask_embedding", "target_projection/kernel", "target_projection/bias"}
        if rest.keys() == linear:
            return encoder | rest, left
        left += sorted(rest)
    return encoder, sorted(set(left))


def _state_dict(origin) -> dict | None:
    """Arrays by name; None of what is ours."""
    import numpy as np
    import safetensors

    from conformer_jax.errors import UserError
    from conformer_jax.training import model_file

    path = pathlib.Path(origin)
    if path.suffix not in (".npz", ".pt", ".pth", ".safetensors") or not path.is_file():
        return None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "numpy") as file:
                if model_file.is_one(path) or "conformer_jax" in (file.metadata() or {}):
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return _of_torch(path)


def _of_torch(path) -> dict:
    from conformer_jax.errors import UserError

    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a file of torch, which is not installed: pip install torch, or save the "
            f"state dict by safetensors.torch.save_file"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:  # of torch's many kinds
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split(". ")[0]
        reason = (reason.splitlines() or [type(error).__name__])[0][:150]
        raise UserError(f"{path} holds no state dict that can be read safely: {reason}") from error


def _statistics(file, num_mels):
    """(mean, deviation) of each mel bin."""
    from conformer_jax.errors import UserError

    if file is None:
        return [0.0] * num_mels, [1.0] * num_mels
    try:
        content = json.loads(pathlib.Path(file).read_bytes())
        mean, deviation = (list(map(float, content[name])) for name in ("mean", "deviation"))
        if not len(mean) == len(deviation) == num_mels:
            raise ValueError(f"{num_mels} mel bins are needed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no feature statistics: {error}") from error
    return mean, deviation


def _compare(state, encoder, spec, num_mels):
    """Prints the parity of every layer; a UserError where there is none."""
    import numpy as np

    from conformer_jax.errors import UserError
    from conformer_jax.exporting import prototype_reference as reference

    features = np.random.default_rng(0).normal(size=(2, 15 * spec.stride + 1, num_mels))
    theirs = reference.layers(state, features, heads=spec.num_heads, stride=spec.stride)
    found = reference.differences(reference.ours(encoder, features, spec), theirs)
    for name, value in found.items():
        print(f"  {value:9.2g}  {name}")
    if not max(found.values()) <= reference.LARGEST:
        worst = max(found, key=found.get)
        raise UserError(f"nothing is written: {worst} differs by {found[worst]:.2g}")


if __name__ == "__main__":
    sys.exit(main())
