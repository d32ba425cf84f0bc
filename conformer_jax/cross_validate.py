"""python -m conformer_jax.cross_validate --config=configs/finetune.py:esc50 [--workdir=DIR]

K-fold cross-validation over the column `fold` of config.data.manifest: every fold is held out once
and the others are trained on. The folds share one compiled program (with config.init_from '' each
measures feature statistics of its own and compiles its own), and a probe hears every clip once.
An interrupted one goes on, with the same clips in the same folds: finished ones are not run again.
Writes `<workdir>/folds.json` after every fold.
"""

import functools
import logging
import math
import os
import pathlib

import numpy as np
from absl import app, flags

from conformer_jax.command import command, overrides
from conformer_jax.data import labels, prepared
from conformer_jax.data.content import of_rows
from conformer_jax.data.folds import folder_name
from conformer_jax.data.manifest import read_manifest
from conformer_jax.data.packed import each
from conformer_jax.errors import UserError
from conformer_jax.evaluation import verdict

_FIGURES = ("accuracy", "mAP", "AUC", "d_prime", "lwlrap")


def cross_validate(config, workdir) -> dict:
    """Runs config.task once for each fold, with its control where config.compare_with_scratch.

    Args:
      config: the full config; data.eval_folds and .train_folds are set here.
      workdir: gets `fold_<name>/`, each a run of its own, named by `data.folds`; and folds.json.

    Returns:
      what is in folds.json: 'name' of what was done, what `summarise` makes of its folds,
      'control', the same of the control, or None, and 'missing', the folds not done yet: [].

    Raises:
      UserError: no folds; of fine-tuning that goes on, they have changed since it was begun; or
        anything that the user can mend.
    """
    from conformer_jax.command import run
    from conformer_jax.training import distributed, frozen
    from conformer_jax.training import workdir as workdirs

    where = config.data.manifest or config.data.prepared
    if not where:
        raise UserError(
            "cross-validation needs --config.data.manifest, with a column 'fold', or "
            "--config.data.prepared"
        )
    if config.task == "pretrain":
        raise UserError(
            "config.task = 'pretrain' has no folds: take a config of configs/finetune.py"
        )
    folds, only_negatives = _folds_of(config)
    workdir, found, compiled = pathlib.Path(workdir), {}, None
    if config.task == "finetune":  # probes are asked anew
        distributed.on_first(functools.partial(_same_folds, workdir, folds, config))
    counts = {"heard": 0, "heard_of": 0, "copies": 0}
    embeddings = frozen.Embeddings()
    for i, fold in enumerate(folds):
        logging.info("fold %s (%d of %d)", fold, i + 1, len(folds))
        one = config.copy_and_resolve_references()
        one.name = f"{config.name}_{folder_name(fold)}"
        one.data.update(
            train_folds=tuple(other for other in folds + only_negatives if other != fold),
            eval_folds=(fold,),
        )
        rows, compiled = run.with_control(one, workdir / folder_name(fold), compiled, embeddings)
        for count in counts:
            counts[count] += int(rows[0][1].get(count, 0))
        for name, record in rows:
            figures = {f: record[f] for f in _FIGURES if record.get(f) is not None}
            found.setdefault(name, {})[fold] = figures
        summary = {**_with_control(found), "missing": folds[i + 1 :]}
        if counts["heard_of"]:  # recorded
            summary |= {name: counts[name] for name in ("heard", "heard_of")}
        if counts["copies"]:
            summary["copies"] = counts["copies"]
        distributed.on_first(
            functools.partial(workdirs.write_json, workdir / "folds.json", summary)
        )
    return summary


def _folds_of(config):
    """The folds to hold out, and those that are only trained on: no clip there has a label."""
    where = config.data.manifest or config.data.prepared
    if config.data.manifest:
        rows = read_manifest(where)
        used = labels.used(rows, config.classifier.multi_label, config.data.unlabelled) or rows
        of_used = [row.fold for row in used]
        of_labelled = [row.fold for row in used if row.labels] or of_used
    else:
        found = prepared.folds(prepared.open_folder(where))
        negatives = config.classifier.multi_label and config.data.unlabelled == "negatives"
        of_labelled = [fold for fold, labelled in found if labelled]
        of_used = [fold for fold, labelled in found if labelled or negatives]
    if without := of_used.count(""):
        logging.warning("WARNING %d clip(s) without a fold are left out", without)
    folds = sorted(set(of_labelled) - {""})
    if len(folds) < 2:
        raise UserError(
            f"{where} has {len(folds)} fold(s), two are the least: fill its column 'fold', or "
            f"let `python -m conformer_jax.manifest DIR --folds=5` do it"
        )
    others = sorted(set(of_used) - {"", *folds})
    if others:
        logging.warning(
            "WARNING no clip has a label in %s: always trained on, never held out",
            ", ".join(f"fold {fold}" for fold in others),
        )
    return folds, others


def _same_folds(workdir, folds, config):
    """Raises UserError where a fold was begun with clips on other sides than they are of now; warns
    of one that does not say on which they were."""
    from conformer_jax.training import checkpoint, clips

    begun = {}
    for fold in folds:
        path = workdir / folder_name(fold)
        if not checkpoint.read_meta(path):
            continue
        if record := clips.read(path):
            begun[fold] = clips.sides_of(record.listing)
        else:
            logging.warning(
                "WARNING %s is missing or damaged, so whether clips have changed folds since is "
                "not known: if they may have, delete %s, and that fold is done again",
                path / clips.FILE,
                path,
            )
    dealt = _dealt(config) if begun else []
    for fold, was in begun.items():
        changed = [
            name for content, name, now in dealt if was.get(content, fold in now) != (fold in now)
        ]
        if changed:
            raise UserError(
                f"{len(changed)} clips, such as {changed[0]}, have other folds in "
                f"{config.data.manifest or config.data.prepared} than when "
                f"{workdir / folder_name(fold)} was begun, so that the folds would not add up: "
                f"begin in another --workdir, or put the folds back"
            )


def _dealt(config):
    """(content, name, what eval_folds may call it by) of every clip that is used and has a fold."""
    data, multi_label = config.data, config.classifier.multi_label
    if data.manifest:
        rows = labels.used(read_manifest(data.manifest), multi_label, data.unlabelled)
        rows = of_rows(rows, data.manifest)
        return [(row.content, row.name, (row.fold,)) for row in rows if row.fold]
    found, all_used = [], multi_label and data.unlabelled == "negatives"
    for split, index in prepared.open_folder(data.prepared).index.items():
        used = ((np.diff(index.label_starts) > 0) | all_used).tolist()
        of_clip, contents = index.folds[index.fold].tolist(), index.content.tolist()
        names = each(index.ids, index.id_starts, np.arange(len(of_clip)))
        for content, name, fold, counts in zip(contents, names, of_clip, used, strict=True):
            if fold and counts:
                found.append((content, name.decode(), (fold, split)))
    return found


def _with_control(found):
    """`summarise` of what was done, with that of its control: name -> fold -> figures."""
    summary, *control = [{"name": n, **summarise(of_folds)} for n, of_folds in found.items()]
    return {**summary, "control": control[0] if control else None}


def summarise(folds: dict[str, dict[str, float]]) -> dict:
    """Mean over the folds, their deviation, and a 95 % interval of the mean.

    The interval is Student's t on the figures of K folds, cut where a figure can go no further.
    They share training clips, so it is narrower than that of K independent ones would be (Bengio
    & Grandvalet 2004).

    Args:
      folds: fold -> figures.

    Returns:
      {'folds': as given, 'mean': figures, 'deviation': figures, 'interval95': name -> [low, high]};
      of one fold the last two are empty.
    """
    # Here: scipy.stats takes a second to import.
    from scipy.stats import t

    count, mean, deviation, interval = len(folds), {}, {}, {}
    for name in set.intersection(*(set(figures) for figures in folds.values())):
        values = [figures[name] for figures in folds.values()]
        mean[name] = math.fsum(values) / count
        if count == 1:
            continue
        squares = math.fsum((value - mean[name]) ** 2 for value in values)
        deviation[name] = math.sqrt(squares / (count - 1))
        half = float(t.ppf(0.975, count - 1)) * deviation[name] / math.sqrt(count)
        interval[name] = [mean[name] - half, mean[name] + half]
        if name != "d_prime":  # shares and areas
            interval[name] = [max(interval[name][0], 0.0), min(interval[name][1], 1.0)]
    return {"folds": folds, "mean": mean, "deviation": deviation, "interval95": interval}


def table(summary: dict) -> str:
    """The summary as text, a line a row and figure."""
    from conformer_jax.command import run

    rows = [row for row in (summary, summary["control"]) if row]
    width = max(19, *(len(row["name"]) for row in rows))
    lines = [f"{'mean over the folds':<{width}}  figure       mean  deviation  95 % interval"]
    for found in rows:
        name = found["name"]
        for figure in (f for f in _FIGURES if f in found["mean"]):
            low, high = found["interval95"][figure]
            lines.append(
                f"{name:<{width}}  {figure:<10}  {found['mean'][figure]:5.3f}  "
                f"{found['deviation'][figure]:9.3f}  {low:.3f} to {high:.3f}"
            )
    lines += run.flatters(summary)
    if control := summary["control"]:
        ours, others = (
            [of_fold["accuracy"] for of_fold in part["folds"].values()]
            for part in (summary, control)
        )
        lines.append(f"By accuracy: {verdict.over_repeats(ours, others, 'folds', overlap=True)}")
    return "\n".join(lines)


def main(argv):
    """Runs all folds."""
    del argv
    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", f"{config.name}_folds")

    def work():
        return f"{table(cross_validate(config, workdir))}\nWritten: {workdir}/folds.json"

    command.execute(work, workdir, PROCESSES)


if __name__ == "__main__":
    CONFIG = overrides.define_config_flag()
    WORKDIR = flags.DEFINE_string("workdir", None, "runs/<config name>_folds by default.")
    PROCESSES = command.define_process_flags()
    app.run(
        main,
        flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG, "configs/finetune.py:probe"),
    )
