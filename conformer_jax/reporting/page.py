"""The report's page: its sections in order."""

from conformer_jax.reporting import classes, document, mistakes, reliability, studies, training
from conformer_jax.reporting.document import Section
from conformer_jax.reporting.markup import details, join, table, tag


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
    title = "Report: " + ", ".join(dict.fromkeys(names))
    note = " A chart shows its values to the pointer, or to the arrow keys once it has the focus."
    return document.render(title, document.made() + note, sections)


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
        told = reliability.section(run.predictions, multi_label=_multi_label(run, several))
        parts.append(Section("Probabilities", told))
        if num_mistakes:
            parts.append(_mistakes(mistakes.worst(run, num_mistakes)))
    if run.bad_audio:
        listed = table("Files left out of the run", ["file", "reason"], run.bad_audio, words=(0, 1))
        files = details(f"{len(run.bad_audio)} files", listed)
        parts.append(Section("Files that could not be read", files))
    return Section(run.name, join(training.facts(run), training.left_out(run)), tuple(parts))


def _multi_label(run, several):
    """As the run was configured; as its clips are where that cannot be read."""
    try:
        return bool(run.config.classifier.multi_label)
    except (AttributeError, KeyError):
        return several


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
