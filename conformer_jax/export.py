"""python -m conformer_jax.export MODEL --format=stablehlo|onnx|tflite --output=FILE

Writes a trained model for other programs: audio in, probabilities and embeddings out.
"""

import argparse
import pathlib
import sys

from conformer_jax.command import using

FORMATS = ("stablehlo", "onnx", "tflite")
_HELP = {
    "model": "workdir of a fine-tuned run or of a probe, a bundle, a .safetensors file, or "
    "pretrained:tiny (embeddings alone)",
    "format": "stablehlo: any batch and length, for JAX on CPU, CUDA and TPU. onnx: any batch and "
    "length, for onnxruntime. tflite: one batch and length, for LiteRT; needs TensorFlow",
    "output": "file to write; it is there only if what was written agrees with the model",
    "outputs": "what comes out; default: all that the model has",
    "sound": "recording of 10 s or more to compare on; default: synthetic sound",
    "opset": "of ONNX; default: 18",
    "batch": "clips at once, of TFLite; default: 1",
    "seconds": "length of a clip, of TFLite; default: as in training",
    "quantize": "ONNX alone: weights in 8 bits, a smaller file; needs --manifest, on which both "
    "are judged",
    "manifest": "clips with labels, as in training",
    "folds": "values of its column fold to judge on, such as 1 or 4,5; default: all",
    "page": "ONNX alone: also write a folder with a page that tags sound in a browser",
    "runtime": "folder of the npm package onnxruntime-web, which the page needs: it is copied",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.export",
        description="Write a trained model for other programs. In: audio, float32 [batch, "
        "samples], and num_samples, int32 [batch]. Out: probabilities and embeddings. What was "
        "written is run beside the model on clips of five lengths, and kept if they agree.",
    )
    add = made.add_argument
    add("model", metavar="MODEL", help=_HELP["model"])
    add("--format", choices=FORMATS, required=True, help=_HELP["format"])
    add("--output", metavar="FILE", required=True, help=_HELP["output"])
    add("--overwrite", action="store_true", help="replace the file, or the page, if it exists")
    add("--outputs", choices=("all", "probabilities", "embeddings"), default="all",
        help=_HELP["outputs"])  # fmt: skip
    add("--sound", metavar="FILE", help=_HELP["sound"])
    add("--opset", type=int, metavar="N", help=_HELP["opset"])
    add("--batch", type=int, metavar="N", help=_HELP["batch"])
    add("--seconds", type=float, metavar="S", help=_HELP["seconds"])
    add("--quantize", choices=("int8",), help=_HELP["quantize"])
    add("--manifest", metavar="FILE", help=_HELP["manifest"])
    add("--folds", default="", metavar="FOLDS", help=_HELP["folds"])
    add("--page", metavar="FOLDER", help=_HELP["page"])
    add("--onnxruntime-web", metavar="DIR", dest="runtime", help=_HELP["runtime"])
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _export(args))


def _export(args) -> int:
    _check(args)
    _check_files(args)
    from conformer_jax.exporting import accuracy, compare, export, page, portable

    wanted = portable.OUTPUTS if args.outputs == "all" else (args.outputs,)
    model = portable.take(args.model, wanted)
    if args.page:
        page.check(model, args.page, args.runtime)
    clips = None
    if args.quantize:
        if "probabilities" not in model.outputs:
            _refuse("--quantize=int8 is judged by labels, and this export has no probabilities")
        portable.need("onnxruntime")
        folds = tuple(fold.strip() for fold in args.folds.split(",") if fold.strip())
        clips = accuracy.Clips(model, args.manifest, folds)
    audio = _sound(args.sound, model.sample_rate)
    options = _options(args, model)
    with export.exported(model, args.output, options, audio) as (path, result):
        if not model.label_names:
            print(f"{args.model} is an encoder without labels: embeddings alone")
        _say(result, args.format)
        if clips:
            int8 = export.int8_of(path)
            read = lambda one: export.read(one, args.format)
            apart = compare.run(model, read(int8), compare.cases(model, audio)).largest
            print(f"int8: largest difference {apart:.2g}; {len(clips.audio)} clips of "
                  f"{args.manifest}:")  # fmt: skip
            if clips.bad:
                print(f"  {len(clips.bad)} more could not be read, such as {clips.bad[0]}")
            for name, file in (("before", path), ("after", int8)):
                figures = clips.figures(read(file))
                size = file.stat().st_size / 1e6
                print(f"  {name:6}  accuracy {figures['accuracy']:.4f}  mAP {figures['mAP']:.4f}"
                      f"  {size:.1f} MB")  # fmt: skip
    size = pathlib.Path(args.output).stat().st_size / 1e6
    print(f"Wrote {args.output}: {size:.1f} MB")
    if args.page:
        title = pathlib.Path(args.model).resolve().name
        whole = page.write(model, args.output, args.page, args.runtime, title)
        if not whole:
            print(f"{args.page}/{page.RUNTIME} lacks {', '.join(page.RUNTIME_FILES)}: of the npm "
                  f"package onnxruntime-web, folder dist (docs/export.md)")  # fmt: skip
        print(f"Look at it: python -m http.server --directory {args.page} 8000")
    return 0


def _check(args):
    """Refuses options that do not go together, before anything is read."""
    only = {
        "onnx": ("opset", "quantize", "page"),
        "tflite": ("batch", "seconds"),
    }
    for format, names in only.items():
        for name in names:
            if getattr(args, name) is not None and args.format != format:
                _refuse(f"--{name} is for --format={format} alone")
    if args.quantize and not args.manifest:
        _refuse("--quantize=int8 needs --manifest=FILE: what it costs is to be seen on clips with "
                "labels")  # fmt: skip
    if args.manifest and not args.quantize:
        _refuse("--manifest is for --quantize=int8: nothing else is judged on it")
    if args.runtime and not args.page:
        _refuse("--onnxruntime-web is for --page=FOLDER")
    if args.batch is not None and not 1 <= args.batch <= 1024:
        _refuse(f"--batch={args.batch}: 1 to 1024")
    if args.seconds is not None and not 0.1 <= args.seconds <= 3600:
        _refuse(f"--seconds={args.seconds}: 0.1 to 3600")


def _check_files(args):
    """What is there is replaced only where the user says so, and what is read never."""
    files = [args.output] if args.format == "onnx" else [args.output, args.output + ".json"]
    for file in files:
        using.check_apart(file, args.model, args.sound, args.manifest)
        using.check_output("output", file, overwrite=args.overwrite)
    if args.page:
        page = pathlib.Path(args.page, "index.html")
        if page.exists() and not args.overwrite:
            _refuse(f"{page} exists: --overwrite replaces it")


def _refuse(reason):
    from conformer_jax.errors import UserError

    raise UserError(reason)


def _options(args, model):
    from conformer_jax.exporting import export

    given = {"opset": args.opset, "batch": args.batch}
    given = {name: value for name, value in given.items() if value is not None}
    seconds = model.window_s if args.seconds is None else args.seconds
    return export.Options(
        args.format,
        samples=round(seconds * model.sample_rate),
        int8=args.quantize is not None,
        **given,
    )


def _sound(path, rate):
    """10 s to compare on."""
    from conformer_jax.data import audio
    from conformer_jax.data.sound_file import BadAudio
    from conformer_jax.exporting import compare

    if path is None:
        return compare.sound(rate)
    try:
        found = audio.read_audio(path, rate, 10 * rate, None)
    except BadAudio as error:
        _refuse(f"{path}: {error}")
    if len(found) < 10 * rate:
        _refuse(f"{path} is shorter than 10 s: --sound= wants a longer one")
    return found


def _say(result, format):
    for name, value in result.differences.items():
        print(f"  {value:9.2g}  {name}")
    print(f"largest difference from the model: {result.largest:.2g}")
    print(f"a clip of {result.clip_s:g} s: {1e3 * result.seconds:.1f} ms in {format}, "
          f"{1e3 * result.jax_seconds:.1f} ms in JAX, on this CPU")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
