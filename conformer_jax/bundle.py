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


def _logged(workdir) -> dict[str, str]:
    """Of a run without labels: its last evaluation."""
    from conformer_jax.training import progress

    file = workdir / "metrics.jsonl"
    if not file.exists():
        return {}
    records = progress.read_records(file)
    last = ([r for r in records if r.get("split") == "eval"] or [{}])[-1]
    wanted = ("contrastive_loss", "contrastive_accuracy", "chance_accuracy")
    return {name: f"{last[name]:.3f}" for name in wanted if isinstance(last.get(name), float)}


if __name__ == "__main__":
    sys.exit(main())
