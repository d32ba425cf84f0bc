"""python -m conformer_jax.bundle WORKDIR FOLDER

Writes what was trained as a folder to hand on, with a model card.
"""

import argparse
import pathlib
import sys

from conformer_jax.command import using


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.bundle",
        description="Write what was trained as a folder to hand on: config.json, model.safetensors "
        "and README.md, a model card. conformer_jax.load(FOLDER) reads it.",
    )
    made.add_argument("model", metavar="WORKDIR", help="of a run, or a .safetensors file")
    made.add_argument("folder", metavar="FOLDER", help="to be written")
    made.add_argument("--licence", default="", metavar="NAME", help="of the weights, for the card, "
                      "such as cc-by-4.0")  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _bundle(args))


def _bundle(args) -> int:
    from conformer_jax.inference import bundle, trained

    found = trained.find(args.model)
    folder = pathlib.Path(args.folder)
    card = bundle.card(
        found.meta,
        title=folder.resolve().name,
        licence=args.licence,
        figures=_figures(pathlib.Path(args.model)),
        heard=_heard(args.model),
    )
    bundle.write(folder, *found, card, overwrite=args.overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"Wrote {folder}: {size / 1e6:.1f} MB; fill in the last part of {folder}/README.md")
    return 0


def _figures(workdir) -> dict[str, str]:
    """Of the newest evaluation in the run's predictions, with 95 % bootstrap intervals."""
    file = workdir / "predictions.npz"
    if not file.exists():
        return _logged(workdir)
    from conformer_jax.evaluation import predictions
    from conformer_jax.steps import metrics

    found = predictions.load(file)
    figures = metrics.figures(found.logits, found.labels)
    values = lambda scores, labels: list(metrics.figures(scores, labels).values())
    low, high = metrics.bootstrap(values, found.logits, found.labels, resamples=200, seed=0)
    said = {"clips": str(len(found.ids))}
    return said | {
        name: f"{value:.3f} ({a:.3f} to {b:.3f})"
        for (name, value), a, b in zip(figures.items(), low, high, strict=True)
    }


def _heard(model) -> dict[str, str]:
    """Which clips it was trained on, by the record of the run or of the encoder's file."""
    from conformer_jax.errors import UserError
    from conformer_jax.training import clips

    try:
        known = clips.of_encoder(model)
    except UserError:  # a file that is no encoder's
        known = None
    if known is None:
        return {"clips": "not recorded"}
    more = "" if known.whole else ", and others of which there is no record"
    said = {"clips": f"{len(known.clips)}, its encoder's pre-training included{more}"}
    workdir = pathlib.Path(model)
    record = clips.read(workdir) if workdir.is_dir() else None
    if record is not None:
        listing = record.listing
        said["of its own run"] = (
            f"{int((~listing.held_out).sum())} clips trained on, {int(listing.held_out.sum())} "
            "held out"
        )
    last = _last_evaluation(workdir)
    if last.get("heard_of"):
        said["held-out clips that its encoder had heard before"] = (
            f"{int(last['heard'])} of {int(last['heard_of'])}"
            + (": its figures flatter it" if last["heard"] else "")
        )
    return said


def _logged(workdir) -> dict[str, str]:
    """Of a run without labels: its last evaluation."""
    last = _last_evaluation(workdir)
    wanted = ("contrastive_loss", "contrastive_accuracy", "chance_accuracy")
    return {name: f"{last[name]:.3f}" for name in wanted if isinstance(last.get(name), float)}


def _last_evaluation(workdir) -> dict:
    from conformer_jax.training import progress

    file = workdir / "metrics.jsonl"
    records = progress.read_records(file) if file.exists() else []
    return ([r for r in records if r.get("split") == "eval"] or [{}])[-1]


if __name__ == "__main__":
    sys.exit(main())
