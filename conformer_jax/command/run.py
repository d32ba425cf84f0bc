"""One config from its start to its closing words."""

import collections
import functools
import logging
import pathlib
import shlex

import numpy as np

from conformer_jax.data import prepared, prepared_split
from conformer_jax.data.audio import DataError
from conformer_jax.data.holdout import fold_names
from conformer_jax.data.labels import Labels, joined
from conformer_jax.data.manifest import read_manifest
from conformer_jax.errors import UserError
from conformer_jax.evaluation import predictions, verdict
from conformer_jax.training import curves, diagnostics, distributed, frozen, loop, progress


def run(config, workdir) -> str:
    """Trains and evaluates what the config says; returns the closing summary.

    Raises:
      UserError: anything that the user can mend.
    """
    return _pretrain(config, workdir) if config.task == "pretrain" else _labelled(config, workdir)


def _pretrain(config, workdir):
    result = loop.train_and_evaluate(config, workdir)
    lines = [
        diagnostics.summary(diagnostics.guess_of(config), result.train, result.held_out),
        *flatters(result.held_out),
        f"Curves: {workdir}/curves.png, checkpoints: {workdir}/checkpoints",
        _bad_audio(workdir),
        _next(config, workdir),
    ]
    return "\n".join(line for line in lines if line)


def _labelled(config, workdir):
    rows, _ = with_control(config, workdir)
    if len(rows) > 1 and config.task == "finetune":
        distributed.on_first(lambda: _draw_both(config, pathlib.Path(workdir)))
    held_out = rows[0][1]
    left = {"Curves": "curves.png", "predictions": "predictions.npz"}
    there = [f"{what}: {workdir}/{name}" for what, name in left.items() if _is_there(workdir, name)]
    lines = [
        table([*rows, ("chance", _chance(held_out))]),
        _verdict(workdir, control=len(rows) > 1, multi_label=config.classifier.multi_label),
        *flatters(held_out),
        _synthetic(config),
        ", ".join(there),
        _bad_audio(workdir),
        f"Next: python -m conformer_jax.report {shlex.quote(str(workdir))}",
        f"Next, on a recording: python -m conformer_jax.predict {shlex.quote(str(workdir))} "
        f"RECORDING --page=heard.html"
        if config.task != "mlp_probe"  # which keeps no model
        else "",
    ]
    return "\n".join(line for line in lines if line)


def _synthetic(config):
    """A line where a probe, which no demo asks for, has heard no sound of the user's."""
    data = config.data
    if config.task == "finetune" or data.manifest or data.tfds_name or data.prepared:
        return ""
    return "These clips are of the synthetic corpus: --config.data.manifest=FILE takes yours."


def _is_there(workdir, name):
    return pathlib.Path(workdir, name).exists()


def with_control(config, workdir, prepared=None, embeddings=None):
    """Fine-tunes or probes; where config.compare_with_scratch, also the control.

    The control differs in nothing but that its encoder starts from scratch: same clips, same
    steps, same seed, same feature statistics. It lies in `<workdir>/scratch` and shares the
    compiled program. A probe shares `embeddings` (frozen.Embeddings) with the other folds.

    Returns:
      rows of (name, held-out record); the Program.
    """
    evaluate = loop.train_and_evaluate
    if config.task != "finetune":
        evaluate = functools.partial(frozen.evaluate, embeddings=embeddings)
    result = evaluate(config, workdir, prepared)
    done = {
        "finetune": "fine-tuned",
        "linear_probe": "linear probe",
        "mlp_probe": "HEAR's network",
        "knn": f"{config.probe.neighbors} nearest neighbors",
    }[config.task]
    origin = "pre-trained" if config.init_from else "from scratch"
    rows = [(f"{origin}, {done}", result.held_out)]
    if config.compare_with_scratch and config.init_from:
        control = result.config.copy_and_resolve_references()
        control.update(name=config.name + "_scratch", init_from="", compare_with_scratch=False)
        how = "from scratch" if config.task == "finetune" else "with an encoder never trained"
        logging.info("now the same %s, for comparison", how)
        scratch = evaluate(control, pathlib.Path(workdir) / "scratch", result.program)
        same = "same budget" if config.task == "finetune" else done
        rows.append((f"from scratch, {same}", scratch.held_out))
    return rows, result.program


def _draw_both(config, workdir):
    """The run's curves once more, the control's beside them."""
    own, scratch = (
        progress.read_records(folder / "metrics.jsonl") for folder in (workdir, workdir / "scratch")
    )
    try:
        curves.draw(curves.heading_of(config), own, workdir / "curves.png", scratch)
    except OSError as error:
        logging.warning("curves.png not written: %s", error)


def _verdict(workdir, *, control, multi_label):
    """What the table means, from the predictions of the run and of its control."""
    folder = pathlib.Path(workdir)
    folders = [folder, folder / "scratch"] if control else [folder]
    try:
        found = [predictions.load(part / "predictions.npz") for part in folders]
    except UserError:  # lost since: the figures come from the log
        return ""
    return verdict.of_run(*found, multi_label=multi_label)


def _chance(record):
    """What guessing scores, of all labels and, where that differs, of those that training had."""
    start = "chance_"
    return {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}


def table(rows) -> str:
    """Rows of (name, record with accuracy and mAP) as text, and once more without labels that
    training did not have, where there are any."""
    ends = [("", ""), (", of labels trained on", "_known")]
    rows = [
        (name + words, {figure: record[figure + end] for figure in ("accuracy", "mAP")})
        for words, end in ends
        for name, record in rows
        if f"accuracy{end}" in record
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'on the held-out clips':<{width}}  accuracy    mAP"]
    lines += [
        f"{name:<{width}}  {record['accuracy']:8.3f}  {record['mAP']:5.3f}" for name, record in rows
    ]
    return "\n".join(lines)


def flatters(record) -> list[str]:
    """What stands below a table of figures that are better than they should be, if they are."""
    told = []
    if record.get("heard"):
        told.append(
            f"The encoder has heard {record['heard']:.0f} of the {record['heard_of']:.0f} held-out "
            f"clips in its pre-training: these figures flatter it"
        )
    if record.get("copies"):
        told.append(
            f"{record['copies']:.0f} held-out clips are copies of what is trained on, or parts of "
            f"the same recordings: these figures flatter the model"
        )
    return told


def _next(config, workdir):
    """The command to type next, with what it cannot know by itself."""
    if not config.next_command:
        return ""
    command, data = config.next_command, config.data
    variant = command.partition("configs/finetune.py:")[2]
    if str(workdir) != (f"runs/pretrain_{variant}" if variant else "runs/pretrain"):
        command += f" --config.init_from={shlex.quote(str(workdir))}"
    differ, most = _labels(data)
    if not differ and (data.manifest or data.prepared):
        return f"Next, with a manifest of labelled clips: {command} --config.data.manifest=LABELLED"
    for field in ("manifest", "prepared", "tfds_name", "tfds_dir"):
        if data[field]:
            command += f" --config.data.{field}={shlex.quote(data[field])}"
    if most > 1:
        command += " --config.classifier.multi_label=True"
    for field in ("train_folds", "eval_folds"):  # what pre-training has not heard
        if folds := fold_names(data[field]):
            command += f" --config.data.{field}={shlex.quote(str(folds))}"
    if not fold_names(data.eval_folds) and (data.manifest or data.prepared or data.tfds_name):
        command += f" --config.data.eval_share={data.eval_share:g}"
    return f"Next: {command}"


def _labels(data):
    """Whether clips to train on would have labels that differ, and some to evaluate on a label; and
    how many a clip has at most. Of what cannot be looked at: yes, and one.
    """
    folds, eval_folds = fold_names(data.train_folds), fold_names(data.eval_folds)
    try:
        if data.manifest:
            rows = read_manifest(data.manifest)
            held_out = [row for row in rows if row.fold in eval_folds]
            train = [
                row for row in rows if (row.fold in folds if folds else row.fold not in eval_folds)
            ]
            if eval_folds and not any(row.labels for row in held_out):
                return False, 0
            sets = collections.Counter(frozenset(row.labels) for row in train if row.labels)
            others = sets.total() - max(sets.values(), default=0)
            most = max((len(row.labels) for row in train + held_out), default=0)
            return others > (0 if eval_folds else 1), most  # a share would take one of two
        if data.prepared:
            return _labels_of_prepared(data, folds, eval_folds)
    except DataError:  # lost since
        pass
    return True, 1


def _labels_of_prepared(data, folds, eval_folds):
    opened = prepared.open_folder(data.prepared)
    try:
        chosen = prepared_split.choose(
            opened, folds, eval_folds, data.eval_share, labelled_only=True
        )
    except DataError:  # too few to train and evaluate on
        return False, 0
    train, held_out = (
        joined(
            [
                Labels(opened.index[split].labels, opened.index[split].label_starts).take(records)
                for split, records in part.items()
            ]
        )
        for part in chosen
    )
    differ = len(set(train.counts.tolist())) > 1
    if not differ:
        sets = np.sort(train.numbers.reshape(len(train.counts), -1), axis=1)
        differ = bool((sets != sets[0]).any())
    return differ, max(train.counts.max(), held_out.counts.max())


def _lines(path):
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _bad_audio(workdir):
    """Of several processes each lists what it could not read."""
    lists = sorted(pathlib.Path(workdir).glob("bad_audio*.csv"))
    bad = {line.partition(",")[0] for path in lists for line in _lines(path)[1:]}
    where = ", ".join(map(str, lists))
    return f"{len(bad)} audio file(s) could not be used: see {where}" if lists else ""
