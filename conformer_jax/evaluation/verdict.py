"""Whether a figure says anything, in words: better than guessing, better than a random encoder.

One label a clip is judged by accuracy, several by mAP, on the same clips for both. 'Better' means
at a level of 2.5 % (of the two-sided 5 %). Where nothing is shown, 'not better' says that a gain of
0.05 is ruled out, and 'too few clips to tell' that it is not.
"""

import math

import numpy as np

from conformer_jax.steps import metrics

_LEVEL = 0.025  # on each side
_MATTERS = 0.05  # of accuracy or mAP
_RESAMPLES = 400
_FEW_POSITIVES = 10  # over all classes: a bootstrap of the mAP is worth nothing
_BETTER, _WORSE, _NOT_BETTER, _UNKNOWN = "better", "worse", "not better", "unknown"


def of_run(found, control=None, *, multi_label: bool) -> str:
    """The verdict on a run, one or two sentences.

    Args:
      found: Predictions of the run.
      control: of the same from a random encoder, on the same clips; None where there is none.
      multi_label: config.classifier.multi_label.
    """
    labels = found.labels > 0
    if multi_label:
        said = _sentence(_mean_precision_by_chance(found.logits, labels), "random scores")
    else:
        constant = labels[:, labels.sum(0).argmax()]
        said = _sentence(_by_answers(_right(found), constant), "always the commonest class")
    if control is None or not np.array_equal(found.ids, control.ids):
        return said
    if multi_label:
        against = _by_mean_precision(found.logits, control.logits, labels)
    else:
        against = _by_answers(_right(found), _right(control))
    return f"{said} {_sentence(against, 'a random encoder')}"


def over_repeats(ours, others, unit: str, *, overlap: bool = False) -> str:
    """The verdict by figures of folds or seeds against those of a random encoder, one sentence.

    Student's t of the paired differences. Folds share training clips: with `overlap` the variance
    of their mean is (1 / K + 1 / (K - 1)) times that of one, and not 1 / K (Nadeau & Bengio 2003).

    Args:
      ours, others: K figures each, of the same folds or seeds.
      unit: 'folds' or 'seeds'.
    """
    from scipy.stats import t  # Here: it takes a second to import.

    differences = np.subtract(ours, others, dtype=np.float64)
    count = len(differences)
    if count < 2 or min(*ours, *others) >= 1:  # nothing can be better than all of few clips right
        return _sentence(_UNKNOWN, "a random encoder", unit)
    variance = differences.var(ddof=1) * (1 / count + (1 / (count - 1) if overlap else 0))
    half = float(t.ppf(1 - _LEVEL, count - 1)) * math.sqrt(variance)
    decision = _decide(differences.mean() - half, differences.mean() + half)
    return _sentence(decision, "a random encoder", unit)


def _sentence(decision, other, unit="clips"):
    if decision == _UNKNOWN:
        return f"Too few {unit} to tell whether it is better than {other}."
    return f"{decision.capitalize()} than {other}."


def _decide(low, high):
    """By an interval of the difference."""
    if low > 0:
        return _BETTER
    if high < 0:
        return _WORSE
    return _NOT_BETTER if high < _MATTERS else _UNKNOWN


def _right(found):
    return found.labels[np.arange(len(found.labels)), found.logits.argmax(1)] > 0


def _by_answers(ours, others):
    """Of bool [n] each. Better and worse by the exact sign test of the clips that tell (McNemar
    1947); the rest by the interval of Agresti & Min (2005), which holds for few clips, too."""
    gained, lost = int((ours & ~others).sum()), int((~ours & others).sum())
    told = gained + lost
    less = min(gained, lost)
    # At most `less` of `told` fair coins; in logarithms, since 2 ** told overflows.
    tail = sum(
        math.exp(
            math.lgamma(told + 1)
            - math.lgamma(k + 1)
            - math.lgamma(told - k + 1)
            - told * math.log(2)
        )
        for k in range(less + 1)
    )
    if told and tail <= _LEVEL:
        return _BETTER if gained > lost else _WORSE
    n, gained, lost = len(ours) + 2, gained + 0.5, lost + 0.5
    mean = (gained - lost) / n
    deviation = math.sqrt((gained + lost) / n - mean**2)
    return _NOT_BETTER if mean + 1.96 * deviation / math.sqrt(n) < _MATTERS else _UNKNOWN


def _mean_precision_by_chance(scores, labels):
    """Of scores and bool labels [n, C]: how the mAP lies among those of shuffled clips."""
    achieved = metrics.mean_average_precision(scores, labels)
    chance = metrics.chance(labels)["chance_mAP"]
    rng = np.random.default_rng(0)
    shuffled = np.sort(
        [
            metrics.mean_average_precision(scores[rng.permutation(len(scores))], labels)
            for _ in range(_draws(scores.size))
        ]
    )
    # The shuffled ones and the achieved one are equally likely to be the greatest.
    if ((shuffled >= achieved).sum() + 1) / (len(shuffled) + 1) <= _LEVEL:
        return _BETTER
    if ((shuffled <= achieved).sum() + 1) / (len(shuffled) + 1) <= _LEVEL:
        return _WORSE
    reach = np.quantile(shuffled, 1 - _LEVEL) - chance  # what chance alone can bring
    return _NOT_BETTER if reach < _MATTERS else _UNKNOWN


def _by_mean_precision(ours, others, labels):
    """Of scores and bool labels [n, C]: the bootstrap of the difference of mAP over the clips."""
    if labels.sum() < _FEW_POSITIVES:
        return _UNKNOWN

    def difference(both, labels):
        ours, others = np.split(both, 2, axis=1)
        labels = labels[:, : ours.shape[1]]
        return metrics.mean_average_precision(ours, labels) - metrics.mean_average_precision(
            others, labels
        )

    low, high = metrics.bootstrap(
        difference,
        np.concatenate([ours, others], 1),
        np.concatenate([labels, labels], 1),
        resamples=_draws(2 * ours.size),
        seed=0,
        confidence=1 - 2 * _LEVEL,
    )
    return _decide(float(low), float(high))


def _draws(size):
    """Fewer of a large set, whose interval is narrow; at least so many that 2.5 % can be told."""
    return int(np.clip(4e7 / size, 80, _RESAMPLES))
