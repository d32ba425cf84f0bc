"""python -m conformer_jax.study --config=configs/study.py:label_efficiency [--workdir=DIR]

Runs every arm of a question for every seed: pre-training where the arm changes it (shared by the
arms that do not), then fine-tuning. All of it resumes: what is finished is not run again. Writes
`<workdir>/study.json`, and for label efficiency `label_efficiency.json` and `.png`.
"""

import csv
import functools
import hashlib
import json
import logging
import os
import pathlib
import statistics

from absl import app, flags

from conformer_jax.command import command, overrides
from conformer_jax.data.content import of_rows
from conformer_jax.data.holdout import split_rows
from conformer_jax.data.labels import usable
from conformer_jax.data.manifest import part_suffix, read_manifest
from conformer_jax.errors import UserError

_FIGURES = ("accuracy", "mAP")


def study(config, workdir) -> list[dict]:
    """Runs the arms of a config of configs/study.py.

    Args:
      config: see there.
      workdir: gets the runs, `pretrain_<key>/` and `<key>/seed_<n>/`, and the results.

    Returns:
      one record for each arm and seed: arm, seed, digest (of the config that it is of), share (of
      the labels), init, clips (labelled ones trained on), accuracy, mAP.

    Raises:
      UserError: anything that the user can mend.
    """
    if "arms" not in config:
        raise UserError(f"{config.name} is no study: take a config of configs/study.py")
    workdir, records, compiled = pathlib.Path(workdir), [], None
    workdir.mkdir(parents=True, exist_ok=True)
    before = _still_valid(config, _records_before(workdir))
    for name, changes in config.arms:
        _check(name, changes)
        for seed in config.seeds:
            logging.info("arm '%s', seed %d", name, seed)
            record, compiled = _run_arm(config, workdir, name, dict(changes), int(seed), compiled)
            records.append(record)
            _write_with_those_before(config, workdir, records, before)
    return records


def _run_arm(config, workdir, name, changes, seed, compiled):
    """Runs one arm with one seed.

    Returns:
      its record; its Program, to hand to the next as `compiled`.
    """
    from conformer_jax.training import frozen, loop, opening

    one = _changed(config.finetune, changes, "finetune.", name)
    one.seed = seed
    origin = _pretrained(config, changes, one, workdir, name)
    scratch = changes.get("scratch", False)
    if scratch:
        # The statistics of the other arms: the arms differ in the encoder alone.
        one = opening.with_statistics(one, _statistics_of(origin))
    one.init_from = "" if scratch else str(origin)
    run = loop.train_and_evaluate if one.task == "finetune" else frozen.evaluate
    result = run(one, workdir / _key(name) / f"seed_{seed}", compiled)
    record = {
        "arm": name,
        "seed": seed,
        "digest": _digest(config, name, changes, seed),
        "share": one.data.label_share,
        "init": "scratch" if scratch else "pretrained",
        "clips": result.num_clips,
        **{figure: result.held_out[figure] for figure in _FIGURES},
    }
    return record, result.program


def _write_with_those_before(config, workdir, records, before):
    """On process 0: the records so far, and those of an earlier run that are not redone yet."""
    from conformer_jax.training import distributed

    done = {(record["arm"], record["seed"]) for record in records}
    left = [r for r in before if (r["arm"], r["seed"]) not in done]
    distributed.on_first(lambda: _write(config, workdir, records + left))


def _check(arm, changes):
    """Raises UserError for a change that no run would see."""
    for name, _ in changes:
        section, _, field = name.partition(".")
        known = section in ("pretrain", "finetune") and field not in ("", "seed", "init_from")
        if not known and name not in ("scratch", "with_training_folds"):
            raise UserError(
                f"config.arms, '{arm}': {name!r} is not 'pretrain.<field>', 'finetune.<field>', "
                f"'scratch' or 'with_training_folds' (seeds are config.seeds, the encoder is that "
                f"of config.finetune.init_from)"
            )


def _records_before(workdir):
    """Of an earlier run of the study; they stay until its arms are run again."""
    file = workdir / "study.json"
    try:
        records = json.loads(file.read_bytes())["records"]
        if not all(_is_record(record) for record in records):
            raise ValueError("no records of arms")
        return records
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        logging.warning("WARNING %s is damaged (%s): its arms are run again", file, error)
        return []


def _is_record(record):
    kinds = {"arm": str, "seed": int, "init": str, "clips": int, "share": int | float}
    kinds |= dict.fromkeys(_FIGURES, int | float)
    return isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    )


def _still_valid(config, records):
    """Those of `records` whose arm is as it was; frozen arms have no checkpoint to say so."""
    arms, kept = dict(config.arms), []
    for record in records:
        name, seed = record.get("arm"), record.get("seed")
        wanted = _digest(config, name, dict(arms[name]), seed) if name in arms else None
        if wanted is not None and record.get("digest") == wanted:
            kept.append(record)
        else:
            logging.warning(
                "WARNING the record of arm '%s', seed %s, is of another config or version: dropped",
                name,
                seed,
            )
    return kept


def _digest(config, name, changes, seed):
    """Of all that enters an arm's record, but for what config.finetune.init_from holds."""
    from conformer_jax.training import workdir as workdirs

    parts = [seed, {k: v for k, v in changes.items() if "." not in k}]
    parts.append(workdirs.fixed_fields(_changed(config.finetune, changes, "finetune.", name)))
    if _needs_pretraining(config, changes):
        parts.append(workdirs.fixed_fields(_changed(config.pretrain, changes, "pretrain.", name)))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _needs_pretraining(config, changes):
    """Whether the arm's encoder is trained by the study."""
    own = any(name.startswith("pretrain.") for name in changes)
    return own or changes.get("with_training_folds", False) or not config.finetune.init_from


def _changed(config, changes, prefix, arm):
    """A copy of a task's config with the arm's fields of it set."""
    copy = config.copy_and_resolve_references()
    for name, value in changes.items():
        if name.startswith(prefix):
            *sections, field = name.removeprefix(prefix).split(".")
            try:
                # Not update_from_flattened_dict, which passes over a field that there is not.
                section = functools.reduce(lambda part, s: part[s], sections, copy)
                if field not in section:
                    raise KeyError(f"there is no field {field!r}")
                section[field] = value
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"config.arms, '{arm}', {name}: {error}") from error
    return copy


def _pretrained(config, changes, finetune, workdir, arm):
    """The workdir of the arm's pre-training, which is run where it is not finished."""
    from conformer_jax.training import distributed, loop

    own = {name: value for name, value in changes.items() if name.startswith("pretrain.")}
    with_folds = changes.get("with_training_folds", False)
    if not _needs_pretraining(config, changes):
        return pathlib.Path(config.finetune.init_from)
    one = _changed(config.pretrain, changes, "pretrain.", arm)
    if finetune.data.manifest and not one.data.manifest:
        raise UserError(
            "config.pretrain.data.manifest is not set, and the synthetic corpus would teach little "
            "of config.finetune.data.manifest: set it, or give --config.finetune.init_from"
        )
    paths = _joined_paths(one, finetune) if with_folds else []
    run = workdir / ("pretrain_" + _key(json.dumps([own, paths], sort_keys=True)))
    if with_folds:
        one.data.manifest = distributed.on_first(lambda: _write_manifest(paths, run))
    logging.info("pre-training in %s", run)
    loop.train_and_evaluate(one, run)
    return run


def _joined_paths(pretrain, finetune):
    """The unlabelled corpus and the clips that fine-tuning trains on, none that it holds out; a
    path, or (path, start, end), each."""
    data = finetune.data
    if not data.manifest:
        raise UserError("this arm needs --config.finetune.data.manifest, too")
    if pretrain.data.mixture:
        raise UserError(
            "this arm keeps out of pre-training what fine-tuning holds out, of one manifest alone: "
            "leave config.pretrain.data.mixture out"
        )
    rows = usable(
        read_manifest(data.manifest),
        data.manifest,
        finetune.classifier.multi_label,
        data.unlabelled,
    )
    rows = of_rows(rows, data.manifest)
    kept, held_out = split_rows(
        rows, data.manifest, data.train_folds, data.eval_folds, data.eval_share
    )
    unlabelled = of_rows(read_manifest(pretrain.data.manifest), pretrain.data.manifest)
    unheard = {digest for row in held_out for digest in (row.content, row.whole)}  # by any name
    return list(
        dict.fromkeys(
            (row.path, row.start, row.end) if part_suffix(row.start, row.end) else row.path
            for row in unlabelled + kept
            if not unheard & {row.content, row.whole}
        )
    )


def _write_manifest(paths, run):
    run.mkdir(parents=True, exist_ok=True)
    path = run / "corpus.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [(one,) if isinstance(one, str) else one for one in paths]
        csv.writer(file).writerows([("path", "start", "end"), *rows])
    return str(path)


def _statistics_of(origin):
    """Feature statistics of the run that the other arms start from."""
    from conformer_jax.training import checkpoint
    from conformer_jax.training.statistics import Statistics

    meta = checkpoint.read_meta(origin)
    if meta is None:
        raise UserError(f"{origin} holds no checkpoint: check --config.finetune.init_from")
    saved = meta["config"]["features"]
    return Statistics(tuple(saved["mean"]), tuple(saved["deviation"]))


def _key(text):
    """A name for a folder."""
    words = "".join(c if c.isalnum() else "_" for c in text)[:40]
    return f"{words}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _write(config, workdir, records):
    from conformer_jax.training import workdir as workdirs

    tuned = config.finetune
    how = f"{tuned.train.num_steps} steps" if tuned.task == "finetune" else tuned.task
    caption = f"{config.name}: {tuned.name}, {how}"
    files = {"study.json": {"name": config.name, "records": records, "caption": caption}}
    if len({record["share"] for record in records}) > 1:
        files["label_efficiency.json"] = {"records": records, "caption": caption}
        draw_label_efficiency(records, caption, workdir / "label_efficiency.png")
    for name, content in files.items():
        workdirs.write_json(workdir / name, content)


def draw_label_efficiency(records, caption, path):
    """Accuracy against the share of labels, the mean over seeds and every seed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.8))
    for init, label in (("pretrained", "pre-trained"), ("scratch", "from scratch")):
        of_init = [record for record in records if record["init"] == init]
        shares = sorted({record["share"] for record in of_init})
        values = [[r["accuracy"] for r in of_init if r["share"] == share] for share in shares]
        (line,) = axis.plot(shares, [statistics.fmean(v) for v in values], marker="o", label=label)
        for share, of_share in zip(shares, values, strict=True):
            axis.plot([share] * len(of_share), of_share, ".", color=line.get_color(), alpha=0.4)
    axis.set(
        xlabel="share of the labels", ylabel="accuracy, held out", title=caption, ylim=(0, None)
    )
    axis.title.set_fontsize(9)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(records) -> str:
    """The arms as text: mean and deviation over the seeds."""
    width = max(len(record["arm"]) for record in records)
    lines = [f"{'arm':<{width}}  seeds  clips  accuracy          mAP"]
    for arm in dict.fromkeys(record["arm"] for record in records):
        of_arm = [record for record in records if record["arm"] == arm]
        cells = []
        for figure in _FIGURES:
            values = [record[figure] for record in of_arm]
            deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{deviation}")
        lines.append(
            f"{arm:<{width}}  {len(of_arm):>5}  {of_arm[0]['clips']:>5}  {cells[0]:<16}  {cells[1]}"
        )
    return "\n".join(lines)


def main(argv):
    """Runs the study."""
    del argv
    config = CONFIG.value
    workdir = WORKDIR.value or os.path.join("runs", config.name)

    def work():
        return f"{table(study(config, workdir))}\nWritten: {workdir}/study.json"

    command.execute(work, workdir, PROCESSES)


if __name__ == "__main__":
    CONFIG = overrides.define_config_flag()
    WORKDIR = flags.DEFINE_string("workdir", None, "runs/<config name> by default.")
    PROCESSES = command.define_process_flags()
    app.run(main, flags_parser=lambda argv: overrides.parse_flags(argv, CONFIG, "configs/study.py"))
