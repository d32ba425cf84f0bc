"""What healthy pre-training looks like, and plain words for what is not.

The ranges were read off the runs in docs/results.md.
"""

import dataclasses
import math

import numpy as np

from conformer_jax.steps import pretrain
from conformer_jax.training import clip_diagnostics
from conformer_jax.training.clip_diagnostics import ClipGuess, Range

# What is watched while a run goes on: it does not come back by itself.
WATCHED = (
    "target_deviation",
    "code_perplexity",
    "finite",
    "embedding_deviation",
    "clips_paired",
    "view_silence",
)
_FROM = 0.2  # share of the steps from which on it is watched
# Falls of `neighbors_accuracy` that count, in standard errors of the difference of two steps.
_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Guess:
    """What guessing depends on in pre-training: K; V of each group, None without a codebook.

    masked: whether tokens are told apart; clip: of the clips, None where these are not.
    """

    num_distractors: int
    num_entries: int | None
    masked: bool = True
    clip: ClipGuess | None = None


def guess_of(config) -> Guess | None:
    """From the full config; None of another task than pre-training."""
    if config.task != "pretrain":
        return None
    masked = pretrain.tells(config, "tokens")
    entries = config.quantizer.num_entries if masked and config.target == "gumbel" else None
    clip = None
    if pretrain.tells(config, "clips"):
        clip = ClipGuess(
            config.data.batch_size, config.clip.temperature, config.clip.loss == "nt_xent"
        )
    return Guess(config.wav2vec2.num_distractors, entries, masked, clip)


def healthy_ranges(guess: Guess, record: dict) -> dict[str, Range]:
    """Metric name -> range, of a pre-training run.

    `record` is a logged one: the accuracy of guessing and the similarity to the distractors, which
    two of the ranges start from, depend on the clips and on the use of the codebook. A range that
    starts from what was not finite has NaN.
    """
    ranges = {
        "finite": Range(
            0.99,
            1.0,
            "steps were skipped because loss or gradients were not finite: lower "
            "optimizer.learning_rate or look for broken audio",
        )
    }
    measured = record.get("chance_accuracy") is not None
    record = numbers(record)
    if guess.masked and measured:
        ranges |= _of_masked(guess, record)
    if guess.clip is not None:
        ranges |= clip_diagnostics.healthy_ranges(guess.clip, record)
    return ranges


def numbers(record: dict) -> dict:
    """A record with NaN for what was not finite, which metrics.jsonl holds as None."""
    return {name: math.nan if value is None else value for name, value in record.items()}


def _of_masked(guess, record):
    ranges = {
        "contrastive_loss": Range(
            0.0,
            math.log(1 + guess.num_distractors) - 0.2,
            "the loss is still near chance: train longer; where it has stopped falling, lower "
            "optimizer.learning_rate, where it falls slowly, raise it",
        ),
        "contrastive_accuracy": Range(
            2.0 * record["chance_accuracy"],
            0.97,
            "near 0 nothing is learned yet, near 1 the task is too easy: then raise "
            "masking.span_length or check the audio for silence",
        ),
        "similarity_positive": Range(
            record["similarity_negative"] + 0.02,
            1.0,
            "predictions are no nearer to their targets than to the distractors, so nothing is "
            "learned yet, whatever the accuracy says (few codes in use make it look good): train "
            "longer, with a lower optimizer.learning_rate if the codebook perplexity falls",
        ),
        "target_deviation": Range(
            0.3,
            1.0,
            "the targets have collapsed to one direction: lower optimizer.learning_rate, "
            "lengthen optimizer.warmup_share, or try the other target",
        ),
    }
    if guess.num_entries is not None:
        ranges["code_perplexity"] = Range(
            0.1 * guess.num_entries,
            guess.num_entries,
            "the codebook has collapsed to few entries: start it from clips "
            "(quantizer.logits='distance', quantizer.init='clusters'), raise "
            "losses.diversity_weight or lower optimizer.learning_rate",
        )
    return ranges


def readable(means: dict) -> dict:
    """Scalars for the log: counts of codebook entries become perplexities."""
    use = means.get("code_use")
    if use is None:
        return means
    return {k: v for k, v in means.items() if k != "code_use"} | code_metrics(use)


def code_metrics(code_use: np.ndarray) -> dict[str, float]:
    """Use of the codebook over a stretch of training.

    Args:
      code_use: [G, V], share of the masked tokens that picked each entry.

    Returns:
      `code_perplexity_<g>` (1 to V) and `code_used_<g>` (share of entries ever picked) of every
      group, and the lowest perplexity as `code_perplexity`.
    """
    result = {}
    for group, share in enumerate(code_use):
        entropy = -(share * np.log(np.maximum(share, 1e-12))).sum()
        result[f"code_perplexity_{group}"] = float(np.exp(entropy))
        result[f"code_used_{group}"] = float((share > 0).mean())
    lowest = min(result[f"code_perplexity_{group}"] for group in range(len(code_use)))
    return result | {"code_perplexity": lowest}


def problems(guess: Guess, record: dict, metrics=None) -> list[str]:
    """One sentence for every metric of `record` outside its healthy range.

    Args:
      guess: of the run.
      record: one logged record, name -> value.
      metrics: only look at these.
    """
    if guess.masked and record["chance_accuracy"] == 0:
        return ["nothing was masked: the clips are too short; raise data.clip_s"]
    found = []
    for name, healthy in healthy_ranges(guess, record).items():
        value = record.get(name)
        if value is None or (metrics is not None and name not in metrics):
            continue
        if math.isnan(healthy.low):  # what it starts from says so itself
            continue
        if not healthy.low <= value <= healthy.high:
            found.append(
                f"{name} is {value:.3g}, healthy is {healthy.low:.3g} to {healthy.high:.3g}: "
                f"{healthy.advice}"
            )
    return found


def watched(guess: Guess, record: dict, done: float) -> list[str]:
    """Sentences on a run that goes on; most ranges hold only at its end.

    Args:
      guess: of the run.
      record: the newest of training.
      done: share of the steps.
    """
    found = problems(guess, record, WATCHED) if done > _FROM else []
    if guess.clip is not None:
        found += clip_diagnostics.timely(guess.clip, record, done)
    return found


def memorising(guess: Guess, train: dict, held_out: dict) -> list[str]:
    """A sentence where clips were learned by heart, and one where labelled clips were told better
    before; train, held_out: the last records."""
    found = overtrained(held_out)
    if guess.clip is not None:
        found += clip_diagnostics.memorising(guess.clip, train, held_out)
    return found


def overtrained(record: dict) -> list[str]:
    """A sentence where the labelled clips were told better by an earlier step; `record`: of an
    evaluation."""
    best, now = record.get("neighbors_best"), record.get("neighbors_accuracy")
    if best is None or now is None:
        return []
    error = math.sqrt(2 * best * (1 - best) / record["neighbors_clips"])
    if not best - now > _ERRORS * max(error, 0.01):
        return []
    return [
        f"neighbors_accuracy is {now:.3f} and was {best:.3f} at step "
        f"{record['neighbors_best_step']:.0f}: going on does not serve these labels; take fewer "
        f"steps (train.num_steps), more sound, or another objective"
    ]


def best_so_far(records: list[dict], step: int, record: dict) -> dict[str, float]:
    """What an evaluation at `step` adds to its record: the best of it and of those before.

    Args:
      records: evaluations before, oldest first; those that told other clips count nowhere.
      record: of this one.
    """
    name, same = "neighbors_accuracy", ("neighbors_clips", "neighbors_chance")
    if not math.isfinite(record.get(name) or math.nan):
        return {}
    told = [r for r in records if r.get(name) and all(r.get(s) == record[s] for s in same)]
    every = [*((r["step"], r[name]) for r in told), (step, record[name])]
    best_step, best = max(every, key=lambda pair: pair[1])
    return {"neighbors_best": best, "neighbors_best_step": float(best_step)}


def final_record(train: dict, held_out: dict) -> dict:
    """What a finished run is judged by: the held-out clips, but for the spread of the targets and
    the share of clips that make a pair.

    That is a batch's own, and a few held-out clips spread less than a batch of training.
    """
    of_training = ("target_deviation", "clips_paired", "view_silence")
    spread = {name: value for name, value in train.items() if name in of_training}
    return {**train, **held_out, **spread}


def summary(guess: Guess, train: dict, held_out: dict) -> str:
    """Whether a finished pre-training run looks healthy, in a few lines of plain words.

    Args:
      guess: of the run.
      train: last logged record; held_out: last evaluation.
    """
    train, held_out = numbers(train), numbers(held_out)
    lines = []
    if guess.clip is not None:
        lines.append(clip_diagnostics.summary(guess.clip, held_out))
    if guess.masked:
        lines += _summary_of_masked(guess, held_out)
    lines += _summary_of_labelled(held_out)
    found = problems(guess, final_record(train, held_out))
    found += memorising(guess, train, held_out)
    if found:
        lines.append("The run does not look healthy:")
    elif not guess.masked and guess.clip is None:
        lines.append("Whether the run is healthy is not known, but that all its steps were finite.")
    elif guess.clip is not None and "clips_judged" not in held_out:
        lines.append("Whether the run is healthy is not known: no held-out clip was judged.")
    else:
        lines.append("The run looks healthy.")
    return "\n".join(lines + [f"  - {problem}" for problem in found])


def _summary_of_masked(guess, held_out):
    chance = math.log(1 + guess.num_distractors)
    lines = [
        f"held-out contrastive accuracy {held_out['contrastive_accuracy']:.3f} (chance "
        f"{held_out['chance_accuracy']:.3f}), loss {held_out['contrastive_loss']:.3f} (chance "
        f"{chance:.3f}); targets spread {held_out['target_deviation']:.2f} of 1"
    ]
    if "code_perplexity" in held_out:
        used = min(value for name, value in held_out.items() if name.startswith("code_used_"))
        lines.append(
            f"codebook perplexity {held_out['code_perplexity']:.0f} of "
            f"{guess.num_entries}, {used:.0%} of the entries used"
        )
    return lines


def _summary_of_labelled(record: dict) -> list[str]:
    """A line on the labelled clips at the end of a run, if there are any."""
    told = record.get("neighbors_accuracy")
    if told is None:
        return []
    if math.isnan(told):
        return ["labelled clips: no figure, since embeddings are not finite"]
    return [
        f"labelled clips that their nearest neighbours name: {told:.3f} (by the last block alone "
        f"{record['neighbors_accuracy_last']:.3f}, guessing {record['neighbors_chance']:.3f})"
    ]
