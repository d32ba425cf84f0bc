"""What healthy clip contrast looks like, and plain words for what is not.

Chance and floor of the loss are computed. The other limits were set from simulated similarities and
what is common practice, and moved to where the runs of docs/results.md lie.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Range:
    """A healthy range of a logged metric at the end of a run, and what to do outside it."""

    low: float
    high: float
    advice: str


@dataclasses.dataclass(frozen=True)
class ClipGuess:
    """What guessing depends on in clip contrast: N; tau; whether the loss is NT-Xent."""

    batch_size: int
    temperature: float
    is_nt_xent: bool

    @property
    def chance(self) -> float:
        """NT-Xent where all views are alike."""
        return math.log(2 * self.batch_size - 1)

    @property
    def floor(self) -> float:
        """NT-Xent where the views of a clip are the same and all others at right angles."""
        return math.log1p((2 * self.batch_size - 2) * math.exp(-1 / self.temperature))

    @property
    def near_chance(self) -> float:
        """A loss above is near chance."""
        return self.chance - 0.3

    @property
    def near_floor(self) -> float:
        """A loss below is near the floor."""
        return self.floor + 0.15


# Shares of the steps: from when on a loss near chance is late, and until when one near the floor is
# early.
_LATE, _EARLY = 0.15, 0.5
# What was drawn for a batch.
_OF_VIEWS = {
    "clips_paired": Range(
        0.9,
        1.0,
        "many clips made no pair since a view of them was digital silence: look at the audio",
    ),
    "view_silence": Range(
        0.0,
        0.25,
        "that share of the views is digital silence, such as files are padded with: how much "
        "of it a file has gives the pair away; cut it off (python -m conformer_jax.prepare "
        "any --trim=60)",
    ),
}


def healthy_ranges(guess: ClipGuess, record: dict) -> dict[str, Range]:
    """Metric name -> range; `record` is a logged one, of training or of the held-out clips."""
    low, high = guess.near_floor, guess.near_chance
    rows = 2 * (record.get("clips_judged") or 1e9)  # no more dimensions than views
    ranges = {
        "clip_accuracy": Range(
            min(10 * record.get("clip_chance", 0.0), 0.3),
            0.97,
            "near chance nothing is learned yet; near 1 the views are too easy to match: raise "
            "views.mixup, views.equaliser or views.hidden_time, and look for clips twice in the "
            "corpus",
        ),
        "retrieval_at_1": Range(
            0.3,
            1.0,
            "the two views of a held-out clip do not find each other: train longer, or with "
            "another optimizer.learning_rate",
        ),
        "clip_similarity_positive": Range(
            record.get("clip_similarity_negative", 0.0) + 0.15,
            0.93,
            "below it two views of a clip are hardly more alike than those of different clips: "
            "train longer, where it does not rise with a lower optimizer.learning_rate; above it "
            "the views are too easy to match, as without views.height, .mixup and .equaliser",
        ),
        "uniformity": Range(
            -4.5,
            -1.5,
            "the embeddings draw together, which ends in collapse: lower optimizer.learning_rate "
            "or clip.temperature",
        ),
        "embedding_deviation": Range(
            0.5,
            1.05,
            "the embeddings have collapsed towards one direction: lower optimizer.learning_rate "
            "or lengthen optimizer.warmup_share",
        ),
        "effective_rank": Range(
            min(15.0, 0.2 * rows),
            max(rows, 15.0),
            "the embeddings use few dimensions (dimensional collapse): make the views less easy "
            "(views.mixup, views.equaliser) or lower optimizer.learning_rate",
        ),
        "pooled_rank": Range(
            min(6.0, 0.1 * rows),
            max(rows, 6.0),
            "what the encoder makes of clips lies in few dimensions: lower "
            "optimizer.learning_rate or lengthen optimizer.warmup_share",
        ),
        **_OF_VIEWS,
    }
    if guess.is_nt_xent and low < high:
        ranges["clip_loss"] = Range(
            low,
            high,
            "near chance the model does not learn: train longer or with another "
            "optimizer.learning_rate; near its floor the views are too easy to match, or clips "
            "are twice in the corpus",
        )
    return ranges


def timely(guess: ClipGuess, record: dict, done: float) -> list[str]:
    """A sentence where the loss is not where it should be by now.

    Args:
      record: the newest of training.
      done: share of the steps.
    """
    loss = record.get("clip_loss")
    if loss is None or not guess.is_nt_xent or not guess.near_floor < guess.near_chance:
        return []
    if done >= _LATE and loss > guess.near_chance:
        return [
            f"clip_loss is {loss:.3g} after {done:.0%} of the steps, near chance "
            f"({guess.chance:.3g}): the model does not learn; try another optimizer.learning_rate, "
            f"or views that hide less"
        ]
    if done < _EARLY and loss < guess.near_floor:
        return [
            f"clip_loss is {loss:.3g} after {done:.0%} of the steps, near its floor "
            f"({guess.floor:.3g}): the views are too easy to match (raise views.mixup, "
            f"views.equaliser or views.hidden_time), or clips are twice in the corpus"
        ]
    return []


def memorising(guess: ClipGuess, train: dict, held_out: dict) -> list[str]:
    """A sentence where training is far ahead of the held-out clips."""
    ahead = (held_out.get("clip_loss") or 0.0) - (train.get("clip_loss") or math.inf)
    if not guess.is_nt_xent or not ahead > 1.0:
        return []
    return [
        f"clip_loss is {ahead:.2f} higher on the held-out clips than in training, healthy is up "
        f"to 1: the clips are learned by heart; take fewer steps or more clips"
    ]


# Further lines of the summary, of what was logged.
_FURTHER = (
    {
        "clip_accuracy": "accuracy among a batch {:.3f}",
        "clip_similarity_positive": "cosine of a clip's views {:.2f}",
        "clip_similarity_negative": "of different clips' {:.2f}",
        "clip_similarity_deviation": "with a deviation of {:.2f}",
    },
    {
        "uniformity": "uniformity {:.2f} (-4 even, 0 alike)",
        "embedding_deviation": "spread {:.2f} of 1",
        "pooled_rank": "effective rank of what a probe reads {:.0f}",
        "local_dimension": "local dimension {:.1f}",
    },
)


def summary(guess: ClipGuess, held_out: dict) -> str:
    """Where a finished run ended, in a few lines."""
    if "clips_judged" not in held_out:
        return (
            "held-out clips: no figures, since fewer than two of different files make a pair: hold "
            "out more (data.eval_share), and look for silence, or for a run that diverged"
        )
    chance = f" (chance {guess.chance:.2f})" if guess.is_nt_xent else ""
    first = (
        f"held-out clips: a view finds its other among {2 * held_out['clips_judged']:.0f} in "
        f"{held_out['retrieval_at_1']:.1%} of cases (chance {held_out['retrieval_chance']:.2%}); "
        f"loss {held_out['clip_loss']:.3f}{chance}; effective rank of the embeddings "
        f"{held_out['effective_rank']:.0f}"
    )
    return "\n".join([first, *_further(held_out)])


def _further(held_out):
    for line in _FURTHER:
        told = [w.format(held_out[name]) for name, w in line.items() if name in held_out]
        if told:
            yield ", ".join(told)
