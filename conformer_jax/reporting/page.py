"""The page: sections in order, table of contents, style sheet and script, all in one file."""

import base64
import dataclasses
import datetime
import hashlib
import importlib.metadata
import importlib.resources

from conformer_jax.reporting import classes, mistakes, studies, training
from conformer_jax.reporting.markup import Markup, details, join, table, tag


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    content: Markup
    parts: tuple["Section", ...] = ()


def render(runs, found_studies, unusable=(), *, num_mistakes: int) -> str:
    """The whole page as HTML.

    Args:
      runs, found_studies, unusable: of runs.read_all.
      num_mistakes: worst mistakes shown of each run.
    """
    sections = [*_left_out(unusable), *_comparisons(runs)]
    sections += [run_section(run, num_mistakes) for run in runs]
    sections += [s for study in found_studies for s in study_sections(study, num_mistakes)]
    names = [run.name for run in runs if not run.is_control] + [s.name for s in found_studies]
    return whole("Report: " + ", ".join(dict.fromkeys(names)), sections)


def whole(title: str, sections: list[Section]) -> str:
    """A page of these sections, with contents, as HTML."""
    body = [_render(section, f"s{i}", 2) for i, section in enumerate(sections, 1)]
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z").lstrip("0")
    about = (
        f"Made by conformer_jax {_version()} on {made}. This page is one file and needs no "
        "network. A chart shows its values to the pointer, or to the arrow keys once it has the "
        "focus."
    )
    return _document(
        title,
        join(
            tag("a", "Skip to the content", href="#content", class_="skip"),
            tag(
                "div",
                tag("header", tag("h1", title), tag("p", about)),
                tag(
                    "nav",
                    tag("h2", "Contents", id="contents"),
                    _contents(sections),
                    aria_labelledby="contents",
                ),
                tag("main", *body, id="content", tabindex="-1"),
                class_="page",
            ),
        ),
    )


def run_section(run, num_mistakes: int) -> Section:
    """All that there is on one run; what is missing is said."""
    parts = []
    if run.records:
        parts.append(Section("Curves", training.curves(run)))
    if codes := training.codebook(run):
        parts.append(Section("Use of the codebook", codes))
    if run.predictions is not None:
        several = bool((run.predictions.labels.sum(1) > 1).any())
        counts = classes.confusions(run.predictions)
        matrix = classes.confusion_matrix(run.predictions.label_names, counts, several=several)
        parts.append(Section("Classes", classes.average_precisions(run.predictions)))
        parts.append(Section("Confusions", matrix))
        if num_mistakes:
            parts.append(_mistakes(mistakes.worst(run, num_mistakes)))
    if run.bad_audio:
        listed = table("Files left out of the run", ["file", "reason"], run.bad_audio, words=(0, 1))
        files = details(f"{len(run.bad_audio)} files", listed)
        parts.append(Section("Files that could not be read", files))
    return Section(run.name, join(training.facts(run), training.left_out(run)), tuple(parts))


def study_sections(study, num_mistakes: int) -> list[Section]:
    """Label efficiency, arms and cross-validation, where the folder has them."""
    found = []
    if study.efficiency is not None:
        found.append(
            Section(f"{study.name}: label efficiency", studies.label_efficiency(study.efficiency))
        )
    if study.arms is not None:
        found.append(Section(f"{study.name}: arms compared", studies.arms(study.arms)))
    if study.folds is not None:
        content = studies.folds(study.folds, study.fold_runs)
        with_predictions = [run for run in study.fold_runs if run.predictions is not None]
        worst = [m for run in with_predictions for m in mistakes.worst(run, num_mistakes)]
        worst = sorted(worst, key=lambda mistake: -mistake.badness)[:num_mistakes]
        parts = (_mistakes(worst),) if with_predictions and num_mistakes else ()
        found.append(Section(f"{study.name}: cross-validation", content, parts))
    return found


def _left_out(unusable):
    listed = tag("ul", *(tag("li", reason) for reason in unusable))
    return [Section("Folders that are left out", listed)] if unusable else []


def _comparisons(runs):
    groups = {
        "Pre-training runs compared": [run for run in runs if run.task == "pretrain"],
        "Runs with labels compared": [run for run in runs if run.task != "pretrain"],
    }
    return [
        Section(title, studies.comparison(group))
        for title, group in groups.items()
        if sum(bool(run.records) for run in group) > 1
    ]


def _mistakes(found):
    about = (
        "Held-out clips on which the model was most sure of something wrong, as evaluation heard "
        "them: the middle of a longer recording. In brackets, the probability that the model gave."
    )
    return Section("Worst mistakes", join(tag("p", about), mistakes.gallery(found)))


def _render(section, anchor, level):
    parts = (_render(p, f"{anchor}-{i}", level + 1) for i, p in enumerate(section.parts, 1))
    return tag(
        "section",
        tag(f"h{level}", section.title, id=anchor),
        section.content,
        *parts,
        aria_labelledby=anchor if level == 2 else None,  # a landmark each; not too many
    )


def _contents(sections, anchor="s"):
    entries = []
    for i, section in enumerate(sections, 1):
        link = tag("a", section.title, href=f"#{anchor}{i}")
        below = _contents(section.parts, f"{anchor}{i}-") if section.parts else None
        entries.append(tag("li", link, below))
    return tag("ul", *entries)


def _document(title, body):
    files = importlib.resources.files("conformer_jax.reporting")
    style, script = ((files / name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The browser itself then refuses the network, and any script but this one.
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    page = tag(
        "html", tag("head", head), tag("body", body, tag("script", Markup(script))), lang="en"
    )
    return f"<!doctype html>\n{page}\n"


def _version():
    try:
        return importlib.metadata.version("conformer_jax")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout)"
