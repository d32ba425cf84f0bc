"""Several runs at once: side by side, over shares of the labels, over folds."""

import collections

import numpy as np

from conformer_jax.reporting.charts import Chart, Series, line_chart
from conformer_jax.reporting.classes import bar, confusion_matrix, confusions
from conformer_jax.reporting.markup import Markup, details, join, number, table, tag
from conformer_jax.training.workdir import differing_fields

_INITS = {"pretrained": "pre-trained", "scratch": "from scratch"}
_UP = "Higher and sooner is better; a line that still climbs at its end wants more steps."
_DOWN = "Lower and sooner is better; a line that still falls at its end wants more steps."
_FITTED = (
    "How fast each run fits what it is trained on; lower is better only where the held-out figures "
    "are better, too."
)
# Fields of a config that follow from others.
_NOT_A_CHOICE = {"name", "next_command", "features.mean", "features.deviation"}
# title, unit, name in the log, name of what guessing scores there, how to read it
_COMPARED = {
    "pretrain": (
        ("Retrieval at 1", "share of views", "retrieval_at_1", "retrieval_chance", _UP),
        ("Clip loss", "nats", "clip_loss", None, _DOWN),
        (
            "Contrastive accuracy",
            "share of masked tokens",
            "contrastive_accuracy",
            "chance_accuracy",
            _UP,
        ),
        ("Contrastive loss", "nats", "contrastive_loss", None, _DOWN),
    ),
    "labels": (
        ("Accuracy", "share of clips", "accuracy", "chance_accuracy", _UP),
        ("mAP", "mean over classes", "mAP", "chance_mAP", _UP),
    ),
}
_NOTES = {
    "pretrain": "Losses and accuracies of pre-training compare between runs of the same objective, "
    "target and batch size, the same number of distractors and the same clips only.",
    "labels": "Fair where the runs differ in one thing only; below is what they differ in.",
}


def comparison(runs) -> Markup:
    """Final figures of runs beside each other, their curves, and what differs.

    All of them pre-train, or none.
    """
    bars = []
    kind = "pretrain" if runs[0].task == "pretrain" else "labels"
    for title, _, name, chance, _ in _COMPARED[kind]:
        last = [(run.name, run.last("eval")) for run in runs]
        rows = [(run, e[name], e.get(chance)) for run, e in last if e.get(name) is not None]
        if chance and len(rows) > 1:
            bars.append(_bars(f"{title}, held out, at the last step", rows))
    return join(
        tag("p", _NOTES[kind]),
        tag("div", *bars, class_="side-by-side") if bars else None,
        _curves(runs, kind),
        _differences(runs),
    )


def _curves(runs, kind):
    """What was logged several times, of all runs in one chart each."""
    charts = []
    for title, unit, name, _, about in _COMPARED[kind]:
        for split, shown in (("validation", "validation"), ("eval", "held out")):
            lines = [(run.name, run.series(name, split)) for run in runs]
            if max(len(points) for _, points in lines) > 1:
                charts.append(_overlay(f"{title}, {shown}", unit, about, lines, dots=True))
    lines = [(run.name, run.series("loss", "train")) for run in runs]
    if any(points for _, points in lines):
        charts.append(_overlay("Training loss", "nats", _FITTED, lines, dots=False))
    return tag("div", *charts, class_="plots") if charts else None


def _bars(title, rows):
    return table(
        f"{title}; the thin line is chance",
        ["run", "value"],
        [[name, bar(value, chance)] for name, value, chance in rows],
        words=(0, 1),
    )


def _overlay(title, unit, about, lines, *, dots):
    series = [
        Series(name, points, colour, dots) for colour, (name, points) in enumerate(lines) if points
    ]
    return line_chart(Chart(title, unit, about, tuple(series)))


def _differences(runs):
    known = [run for run in runs if run.config is not None]
    if len(known) < 2:
        return None
    configs = [run.config.to_dict() for run in known]
    fields = sorted(
        {line.split(": ")[0] for c in configs[1:] for line in differing_fields(configs[0], c)}
        - _NOT_A_CHOICE
    )
    rows = [[tag("code", field), *(_value(c, field) for c in configs)] for field in fields]
    if not rows:
        return tag("p", "Their configs are the same.")
    head = ["field", *(run.name for run in known)]
    inside = table("Fields of config.json that differ", head, rows, words=range(len(head)))
    return details(f"What differs in their configs: {len(rows)} field(s)", inside)


def _value(config, field):
    for name in field.split("."):
        if not isinstance(config, dict) or name not in config:
            return "absent"
        config = config[name]
    text = str(config)
    return text if len(text) <= 60 else text[:57] + "…"


def label_efficiency(study: dict) -> Markup:
    """Accuracy and mAP over the share of labels, pre-trained and from scratch.

    Args:
      study: label_efficiency.json, {'records': [{'share', 'init', 'seed', 'accuracy', 'mAP',
        'clips'}], 'caption'}.
    """
    cells = collections.defaultdict(list)
    for record in study["records"]:
        cells[record["init"], record["share"]].append(record)
    shares = sorted({share for _, share in cells})
    charts = [
        _efficiency_chart(cells, shares, f"{title}, held out", unit, name)
        for title, unit, name, *_ in _COMPARED["labels"]
    ]
    rows = []
    for share in shares:
        known = [r for (_, s), records in cells.items() if s == share for r in records]
        clips = next((r["clips"] for r in known if r.get("clips") is not None), None)
        row = [f"{100 * share:.3g}\u00a0%", "not known" if clips is None else number(clips)]
        for init in _INITS:
            records = cells.get((init, share), [])
            row += [_mean_and_deviation([r[name] for r in records]) for name in ("accuracy", "mAP")]
        rows.append([*row, max(len(cells.get((init, share), [])) for init in _INITS)])
    head = ["labels", "clips"]
    head += [f"{name}, {init}" for init in _INITS.values() for name in ("accuracy", "mAP")]
    return join(
        tag("p", study["caption"]) if study.get("caption") else None,
        tag("div", *charts, class_="plots"),
        table("Mean and standard deviation over seeds", [*head, "seeds"], rows),
    )


def arms(study: dict) -> Markup:
    """The arms of a study, each with its mean and deviation over the seeds.

    Args:
      study: study.json, {'records': [{'arm', 'seed', 'clips', 'accuracy', 'mAP'}], 'caption'}.
    """
    rows = []
    for arm in dict.fromkeys(record["arm"] for record in study["records"]):
        records = [record for record in study["records"] if record["arm"] == arm]
        figures = {name: [r[name] for r in records] for name in ("accuracy", "mAP")}
        rows.append(
            [arm, bar(float(np.mean(figures["accuracy"])))]
            + [_mean_and_deviation(values) for values in figures.values()]
            + [len(records)]
        )
    head = ["arm", "accuracy", "with deviation", "mAP", "seeds"]
    return join(
        tag("p", study["caption"]) if study.get("caption") else None,
        table("Mean and standard deviation over seeds, held out", head, rows, words=(0, 1)),
    )


def _efficiency_chart(cells, shares, title, unit, name):
    series = []
    for colour, (init, shown) in enumerate(_INITS.items()):
        values = [(s, [r[name] for r in cells[init, s]]) for s in shares if (init, s) in cells]
        if values:
            series.append(
                Series(
                    shown,
                    tuple((s, float(np.mean(v))) for s, v in values),
                    colour,
                    spread=tuple((s, min(v), max(v)) for s, v in values if len(v) > 1),
                    scattered=tuple((s, one) for s, v in values for one in v),
                )
            )
    about = (
        "Lines: mean over seeds; dots: single seeds; shaded: from the lowest to the highest. "
        "Healthy: the pre-trained line lies above, most of all where labels are few, and the "
        "two meet as labels become plenty."
    )
    return line_chart(
        Chart(
            title,
            unit,
            about,
            tuple(series),
            x_name="share of the labels, logarithmic",
            ticks=tuple(shares),
            percent=True,
        )
    )


def _figure(values, name):
    return f"{values[name]:.3f}" if name in values else "not measured"


def _mean_and_deviation(values):
    if not values:
        return "not measured"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def folds(study: dict, fold_runs) -> Markup:
    """Cross-validation: a table, one of its control, and the confusions of all folds together.

    Args:
      study: folds.json, {'name', 'folds': {name: {metric: value}}, 'mean', 'deviation',
        'interval95', 'control': the same of the control or None, 'missing': folds not done}.
      fold_runs: the runs of the folds that are there, also of those that are not done.
    """
    done = {f"fold {fold}" for fold in study["folds"]}
    parts = [
        tag(
            "p",
            "Each fold is held out once and the model is trained on the others; the mean over "
            "the folds is the figure to report.",
        ),
        _missing(study, fold_runs),
        _fold_table(study) if done else None,
    ]
    if study.get("heard_of"):
        flatters = ": these figures flatter it" if study.get("heard") else ""
        told = f"The encoder has heard {study.get('heard')} of the {study['heard_of']} clips"
        parts.append(tag("p", f"{told}{flatters}."))
    if study.get("copies"):
        told = f"{study['copies']} held-out clips are copies of what is trained on, or parts of the"
        parts.append(tag("p", f"{told} same recordings: these figures flatter the model."))
    if study.get("control"):
        parts.append(_fold_table(study["control"]))
    if fold_runs and (curves := _curves(fold_runs, "labels")):
        parts += [tag("h3", "Curves of the folds"), curves]
    with_predictions = [r for r in fold_runs if r.name in done and r.predictions is not None]
    labels = [run.predictions.label_names for run in with_predictions]
    how_many = len(labels) if study.get("missing") else "all"
    if not labels:
        parts.append(tag("p", "Confusions: no fold has its predictions.npz."))
    elif any(names != labels[0] for names in labels):
        parts.append(tag("p", "Confusions: the folds do not have the same classes."))
    else:
        parts += [tag("h3", f"Confusions, {how_many} folds together"), _pooled(with_predictions)]
    return join(*parts)


def _missing(study, fold_runs):
    """A sentence where folds are missing, else None."""
    if study["folds"] and not study.get("missing"):
        return None
    left = ", ".join(study.get("missing", ())) or "some folds"
    begun = [r.name for r in fold_runs if r.name.removeprefix("fold ") not in study["folds"]]
    return tag(
        "p",
        tag("strong", f"Not finished: {left} missing"),
        f" ({', '.join(begun)} begun)" if begun else "",
        ". The same command goes on; the figures below are of the folds that are done.",
    )


def _fold_table(study):
    names = list(study["mean"])
    rows = [
        [f"fold {fold}", *(_figure(values, name) for name in names)]
        for fold, values in study["folds"].items()
    ]
    rows.append([tag("strong", "mean"), *(tag("strong", _figure(study["mean"], n)) for n in names)])
    rows.append(["deviation", *(_figure(study.get("deviation", {}), n) for n in names)])
    if study.get("interval95"):
        ends = (study["interval95"].get(name) for name in names)
        cells = ["not measured" if e is None else f"{e[0]:.3f} to {e[1]:.3f}" for e in ends]
        rows.append(["95 % interval of the mean", *cells])
    title = "Held-out figures of every fold"
    title += f": {study['name']}" if study.get("name") else ""
    return table(title, ["", *names], rows)


def _pooled(runs):
    counts = sum(confusions(run.predictions) for run in runs)
    several = any((run.predictions.labels.sum(1) > 1).any() for run in runs)
    return confusion_matrix(runs[0].predictions.label_names, counts, several=several)
