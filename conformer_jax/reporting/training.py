"""The curves of one run: what was logged, healthy ranges shaded, and what to make of it."""

import contextlib
import math

from conformer_jax import fields
from conformer_jax.data import mixture
from conformer_jax.errors import UserError
from conformer_jax.reporting.charts import Chart, Series, line_chart
from conformer_jax.reporting.markup import Markup, join, number, paragraphs, percent, tag
from conformer_jax.reporting.panels import CLIP, FINETUNE, PRETRAIN, Panel
from conformer_jax.training import diagnostics, saved_files


def curves(run) -> Markup:
    """All charts of a run, and a sentence of judgement for pre-training."""
    panels = (*CLIP, *PRETRAIN) if run.task == "pretrain" else FINETUNE
    charts = [chart for panel in panels if (chart := _chart(run, panel))]
    return join(verdict(run), tag("div", *map(line_chart, charts), class_="plots"))


def codebook(run) -> Markup:
    """Use of the codebook's entries; empty for a run without one."""
    names = sorted({name for record in run.records for name in record})
    groups = [name.rsplit("_", 1)[1] for name in names if name.startswith("code_perplexity_")]
    if not groups:
        return Markup()
    entries = run.config.quantizer.num_entries if run.config is not None else None
    of_all = f" of {entries}" if entries else ""
    panels = (
        Panel(
            "Codebook perplexity",
            f"entries in effect{of_all}",
            {f"code_perplexity_{group}": f"group {group}" for group in groups},
            "As many entries as would be in use if all were used equally often. Healthy: it "
            "starts near the size of the codebook, falls as codes take on meaning, and comes to "
            "rest in the shaded range; near 1 the codebook has collapsed.",
        ),
        Panel(
            "Entries ever picked",
            "share of the codebook",
            {f"code_used_{group}": f"group {group}" for group in groups},
            "Healthy: most entries are picked now and then. A share that keeps shrinking comes "
            "before collapse.",
        ),
        Panel(
            "Diversity loss",
            "0: all entries in equal use, near 1: a single one",
            {"diversity_loss": ""},
            "What pushes the entries to be used equally. Healthy: below 1, with the contrastive "
            "loss falling at the same time.",
        ),
        Panel(
            "Gumbel temperature",
            "of the choice of codes",
            {"gumbel_temperature": ""},
            "As configured: choices are soft at first and harden as it falls.",
        ),
    )
    charts = [chart for panel in panels if (chart := _chart(run, panel))]
    return tag("div", *map(line_chart, charts), class_="plots")


def verdict(run) -> Markup:
    """Whether a pre-training run looks healthy, by the rules of its closing summary."""
    if run.task != "pretrain" or run.config is None or not _newest(run):
        return Markup()
    record = _newest(run) | diagnostics.final_record(run.last("train"), run.last("eval"))
    record = diagnostics.numbers(record)
    guess = diagnostics.guess_of(run.config)
    found = diagnostics.problems(guess, record)
    found += diagnostics.memorising(guess, run.last("train"), run.last("eval"))
    if not found:
        return tag(
            "p",
            tag("strong", "Looks healthy."),
            " Every diagnostic ended in its range.",
            class_="verdict good",
        )
    return tag(
        "div",
        tag("p", tag("strong", "Does not look healthy:")),
        tag("ul", *(tag("li", problem) for problem in found)),
        class_="verdict bad",
    )


def _newest(run):
    """The newest record that the healthy ranges can start from."""
    guess = diagnostics.guess_of(run.config)
    if not guess.masked and guess.clip is None:  # nothing is known of what is healthy
        return None
    wanted = ("clip_chance",) if guess.clip is not None else ()
    if guess.masked:
        wanted += ("chance_accuracy", "similarity_negative")
    found = (r for r in reversed(run.records) if all(r.get(name) is not None for name in wanted))
    return next(found, None)


def _chart(run, panel):
    series = []
    for colour, (name, shown) in enumerate(panel.names.items()):
        for split, label in (("train", "training"), ("eval", "held out")):
            points = run.series(name, split)
            if not points:
                continue
            only, dots = len(panel.names) == 1, split == "eval"
            told = name.startswith("neighbors_")  # of clips that are not the held-out ones
            label = label if only else shown if told else f"{shown}, {label}"
            series.append(Series(label, points, colour + (dots and only), dots=dots))
    if not series:
        return None
    steps = [record["step"] for record in run.records]
    return Chart(
        panel.title,
        panel.unit,
        panel.about,
        tuple(series),
        band=_band(run, next(iter(panel.names))),
        levels=_levels(run, next(iter(panel.names))),
        x_range=(min(steps), max(steps)),
    )


def _band(run, name):
    if run.task != "pretrain" or run.config is None or (newest := _newest(run)) is None:
        return None
    name = "code_perplexity" if name.startswith("code_perplexity") else name
    healthy = diagnostics.healthy_ranges(diagnostics.guess_of(run.config), newest).get(name)
    if healthy is None or math.isnan(healthy.low):
        return None
    return healthy.low, healthy.high, "healthy"


def _levels(run, name):
    """What guessing scores."""
    newest = run.last("eval") or run.last("train")
    guess = diagnostics.guess_of(run.config) if run.config is not None else None
    if name == "clip_loss" and guess is not None and guess.clip is not None:
        if not guess.clip.is_nt_xent:
            return ()
        return (("chance", guess.clip.chance), ("floor", guess.clip.floor))
    if name == "contrastive_loss" and run.config is not None:
        return (("chance", math.log(1 + run.config.wav2vec2.num_distractors)),)
    key = {
        "contrastive_accuracy": "chance_accuracy",
        "clip_accuracy": "clip_chance",
        "retrieval_at_1": "retrieval_chance",
        "neighbors_accuracy": "neighbors_chance",
        "accuracy": "chance_accuracy",
        "mAP": "chance_mAP",
    }.get(name)
    return (("chance", newest[key]),) if key and newest.get(key) is not None else ()


_TASKS = {
    "finetune": "fine-tuning",
    "linear_probe": "linear probe of the frozen encoder",
    "mlp_probe": "HEAR's shallow network on the frozen encoder",
    "knn": "nearest neighbours in the frozen encoder's space",
}


def _pretraining(config):
    objective = config.get("objective", "wav2vec2")  # runs of before had no other
    target = f"target {config.target}"
    known = {"wav2vec2": target, "clip": "clip contrast", "both": f"{target} and clip contrast"}
    return f"pre-training, {known.get(objective, objective)}"


def _cited(run):
    """Which clips a run on a prepared corpus has used, in a line; None where nobody knows any more.

    A checkpoint says what it was trained on; a probe has none, and its corpus may have been
    prepared again since.
    """
    with contextlib.suppress(UserError, OSError, ValueError):
        if cited := (saved_files.newest_meta(run.path / "checkpoints") or {}).get("corpus"):
            return cited
    with contextlib.suppress(UserError, LookupError):
        return mixture.cite(run.config.data) or None
    return None


def facts(run) -> Markup:
    """What the run was and where it ended, as a list of terms."""
    config, train, held_out = run.config, run.last("train"), run.last("eval")
    steps = max((r["step"] for r in run.records), default=None)
    found = {}
    if config is not None:
        pretrain = run.task == "pretrain"
        found["Task"] = _pretraining(config) if pretrain else _TASKS[run.task]
        encoder = config.conformer
        found["Encoder"] = f"{len(encoder.kernel_sizes)} blocks of width {encoder.width}"
        if not pretrain:
            found["Starts from"] = config.init_from or "scratch"
        data = config.data
        found["Sound"] = data.manifest or data.tfds_name or data.prepared or "the synthetic corpus"
        for part in mixture.parts(data.mixture):
            found["Sound"] += f", {part.share:.3g} of every batch from {part.path}"
        if (data.prepared or data.mixture) and (cited := _cited(run)) is not None:
            found["To cite"] = cited
        if steps:
            hours = steps * data.batch_size * fields.heard_s(config) / 3600
            found["Heard"] = f"{number(hours)} hours, repeats included"
        if steps is not None and run.task in ("pretrain", "finetune"):
            found["Steps"] = f"{steps:,} of {config.train.num_steps:,}"
    elif steps is not None:
        found["Steps"] = f"{steps:,}"
    for title, name, chance in (
        ("Labelled clips told by neighbours", "neighbors_accuracy", "neighbors_chance"),
        ("Retrieval at 1, held out", "retrieval_at_1", "retrieval_chance"),
        ("Contrastive accuracy, held out", "contrastive_accuracy", "chance_accuracy"),
        ("Accuracy, held out", "accuracy", "chance_accuracy"),
        ("mAP, held out", "mAP", "chance_mAP"),
    ):
        if held_out.get(name) is not None:
            guess = held_out.get(chance)
            by = f" (chance {guess:.3f})" if guess is not None else ""
            found[title] = f"{held_out[name]:.3f}{by}"
    if held_out.get("heard") is not None:
        count, of = held_out["heard"], held_out.get("heard_of") or 0
        flatters = ": these figures flatter it" if count else ""
        found["Held-out clips that the encoder has heard"] = f"{count:.0f} of {of:.0f}{flatters}"
    if held_out.get("copies"):
        told = f"{held_out['copies']:.0f}: these figures flatter the model"
        found["Held-out clips that are copies or parts of what is trained on"] = told
    if train.get("finite", 1.0) != 1.0:
        found["Steps skipped"] = f"{percent(1 - train['finite'])} of the last stretch: not finite"
    pairs = (join(tag("dt", name), tag("dd", value)) for name, value in found.items())
    return join(
        tag("p", tag("code", run.path), class_="path"),
        tag("dl", *(tag("div", pair) for pair in pairs), class_="facts") if found else None,
    )


def left_out(run) -> Markup:
    """A sentence for everything that a run could show and does not."""
    return tag("div", paragraphs(*run.left_out), class_="left-out") if run.left_out else Markup()
