"""A folder with one page that tags sound in a browser, by onnxruntime-web."""

import html
import importlib.resources
import json
import pathlib
import shutil

from conformer_jax.errors import UserError
from conformer_jax.exporting.portable import Portable

MODEL, RUNTIME = "model.onnx", "onnxruntime-web"
# What the page loads of the npm package's folder dist/: the build for the CPU.
RUNTIME_FILES = (
    "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)


def check(model: Portable, folder, runtime) -> None:
    """Before anything is exported.

    Raises:
      UserError: no labels to show, a folder with other things, or no onnxruntime-web where said.
    """
    if "probabilities" not in model.outputs:
        raise UserError("a page shows tags, and this export has no probabilities: probe first")
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --page= names a folder")
    known = {"index.html", "page.js", MODEL, RUNTIME}
    others = (
        sorted(p.name for p in folder.iterdir() if p.name not in known) if folder.exists() else []
    )
    if others:
        raise UserError(f"{folder} holds other files ({others[0]}): choose another --page=")
    if runtime is not None:
        _dist(runtime)


def write(model: Portable, onnx, folder, runtime=None, title: str = "") -> bool:
    """Writes the folder.

    Args:
      model: what was exported.
      onnx: its file.
      folder: made where it is absent.
      runtime: folder of the npm package onnxruntime-web, whose files are copied; None leaves them
        to the user.
      title: of the page.

    Returns:
      whether the files of onnxruntime-web are in the folder.
    """
    folder = pathlib.Path(folder)
    (folder / RUNTIME).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx, folder / MODEL)
    assets = importlib.resources.files("conformer_jax") / "exporting"
    described = json.dumps(model.described(), ensure_ascii=False).replace("<", "\\u003c")
    page = (assets / "page.html").read_text(encoding="utf-8")
    page = page.replace("{{title}}", html.escape(title or "Sound tagger"))
    (folder / "index.html").write_text(page.replace("{{model}}", described), encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    (folder / "page.js").write_text(script, encoding="utf-8")
    if runtime is not None:
        for name in RUNTIME_FILES:
            shutil.copyfile(_dist(runtime) / name, folder / RUNTIME / name)
    return all((folder / RUNTIME / name).exists() for name in RUNTIME_FILES)


def _dist(runtime) -> pathlib.Path:
    """The package's folder dist/."""
    for folder in (pathlib.Path(runtime) / "dist", pathlib.Path(runtime)):
        if all((folder / name).is_file() for name in RUNTIME_FILES):
            return folder
    raise UserError(
        f"{runtime} is not the npm package onnxruntime-web (no {RUNTIME_FILES[0]}): "
        f"`npm pack onnxruntime-web`, unpack, and name its folder `package`"
    )
