"""Which curves of a run are drawn, and what a healthy one looks like."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart of a run: metrics that are logged under `names`, each with a name to show."""

    title: str
    unit: str
    names: dict[str, str]
    about: str


_SPEED = Panel(
    "Speed",
    "clips a second",
    {"clips_per_s": ""},
    "Healthy: level. Where it sags, reading audio or another program holds the training up.",
)
_GRADIENT = Panel(
    "Gradient norm",
    "global, before clipping",
    {"gradient_norm": ""},
    "How hard the loss pulls at the parameters. Healthy: it settles after the warm-up; peaks that "
    "keep growing mean that the learning rate is too high.",
)
_LEARNING_RATE = Panel(
    "Learning rate",
    "of AdamW",
    {"learning_rate": ""},
    "As configured: a linear warm-up, then a cosine. Here to compare the other curves with.",
)
PRETRAIN = (
    Panel(
        "Labelled clips told by neighbours",
        "share that is right",
        {"neighbors_accuracy": "all layers", "neighbors_accuracy_last": "last block"},
        "What the encoder is worth for these labels, of which none reaches the training. Healthy: "
        "it rises and levels off; where it falls while the loss does, too, take fewer steps.",
    ),
    Panel(
        "Contrastive accuracy",
        "share of masked tokens",
        {"contrastive_accuracy": ""},
        "How often the model tells the hidden token from the distractors. Healthy: it leaves "
        "chance within a few hundred steps, climbs to more than twice of it, then levels off; "
        "held out keeps up with training.",
    ),
    Panel(
        "Contrastive loss",
        "nats",
        {"contrastive_loss": ""},
        "What the model is trained on. Healthy: it falls below chance early, then ever more "
        "slowly, and does not rise again.",
    ),
    Panel(
        "Cosine similarity",
        "-1 to 1",
        {"similarity_positive": "to target", "similarity_negative": "to distractors"},
        "How alike a prediction is to its target and to the distractors. Healthy: the two part, "
        "the target on top; while they run together nothing is learned, whatever the accuracy.",
    ),
    Panel(
        "Spread of the targets",
        "0 alike, 1 in all directions",
        {"target_deviation": ""},
        "Healthy: it stays far above 0. Near 0 all targets have become alike, the task has "
        "collapsed and the loss means nothing.",
    ),
    _GRADIENT,
    _LEARNING_RATE,
    _SPEED,
)
CLIP = (
    Panel(
        "Retrieval at 1, held out",
        "share of views",
        {"retrieval_at_1": ""},
        "How often the nearest of all held-out views is the other view of the same clip. Healthy: "
        "it climbs far above chance and levels off; where it falls while the loss of training "
        "still does, the clips are learned by heart.",
    ),
    Panel(
        "Accuracy among a batch",
        "share of views",
        {"clip_accuracy": ""},
        "The same among the clips of one training batch. Healthy: it climbs for most of the run; "
        "near 1 early on, the views are too easy to match.",
    ),
    Panel(
        "Clip loss",
        "nats",
        {"clip_loss": ""},
        "What the model is trained on. Healthy: it leaves chance early and levels off between it "
        "and the floor, held out no more than 1 above training.",
    ),
    Panel(
        "Cosine of views",
        "-1 to 1",
        {
            "clip_similarity_positive": "of one clip",
            "clip_similarity_negative": "of different clips",
            "clip_similarity_deviation": "their deviation",
        },
        "How alike two views are. Healthy: those of one clip rise, those of others stay near 0, "
        "with a deviation that falls.",
    ),
    Panel(
        "Spread of the embeddings",
        "0 alike, 1 in all directions",
        {"embedding_deviation": ""},
        "Healthy: it stays near 1. Where it falls, all clips become alike: collapse.",
    ),
    Panel(
        "Effective rank, held out",
        "dimensions in effect",
        {"effective_rank": ""},
        "Of what is compared. Healthy: it rises or stays. Where it falls while the loss falls, few "
        "dimensions carry all (dimensional collapse).",
    ),
    Panel(
        "Pooled rank, held out",
        "dimensions in effect",
        {"pooled_rank": ""},
        "The same of the encoder's vectors, which a probe reads. Healthy: it dips as the learning "
        "rate rises, then climbs; near 3 the encoder has collapsed.",
    ),
    Panel(
        "Uniformity, held out",
        "-4 even, 0 all alike",
        {"uniformity": ""},
        "How evenly the embeddings lie on the sphere (Wang & Isola 2020). Healthy: below -1.5.",
    ),
    Panel(
        "Local dimension, held out",
        "of the encoder's vectors",
        {"local_dimension": ""},
        "Healthy: it rises or stays level; a steady fall comes before collapse.",
    ),
    Panel(
        "Digital silence in the views",
        "share of the frames",
        {"view_silence": ""},
        "Healthy: little. Files that are padded with it are told by how much they have.",
    ),
    Panel(
        "Clips that make a pair",
        "share of a batch",
        {"clips_paired": ""},
        "Healthy: all. A clip of which a view is nothing but digital silence makes none.",
    ),
)
FINETUNE = (
    Panel(
        "Loss",
        "nats a clip",
        {"loss": ""},
        "Healthy: training falls steadily. Held out falls with it and may rise late, when the "
        "model grows too sure of its mistakes; that alone is no harm while accuracy holds.",
    ),
    Panel(
        "Accuracy",
        "share of clips",
        {"accuracy": ""},
        "Healthy: both leave chance early. With few labels training comes near 1 and held out "
        "levels off below it; the distance between them is what more labels could close.",
    ),
    Panel(
        "mAP, held out",
        "mean average precision over classes",
        {"mAP": ""},
        "How well the clips of each class are ranked before all others, 1 at best. Healthy: it "
        "climbs and levels off; where it falls again, train for fewer steps.",
    ),
    _GRADIENT,
    _LEARNING_RATE,
    _SPEED,
)
