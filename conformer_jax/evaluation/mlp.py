"""HEAR's judgement of a frozen encoder: a shallow network on its embeddings, chosen from a grid.

Turian et al. 2022 (arXiv 2203.03022), appendix: one or two hidden layers of 1024 units, ReLU,
dropout 0.1, Adam, four learning rates, batches of 1024, early stopping on a validation split. Ours:
embeddings are standardised where theirs passes a batch norm, the layers start by He's rule, and the
validation split is a fifth of each class of the training clips (training/frozen.py draws it).
"""

import functools
import itertools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from conformer_jax.errors import UserError
from conformer_jax.evaluation.probe import standardisation
from conformer_jax.steps import losses, metrics

DEPTHS, RATES = (1, 2), (3.2e-3, 1e-3, 3.2e-4, 1e-4)
VALIDATION_SHARE = 0.2
_BATCH, _DROPOUT, _CHECK_EVERY = 1024, 0.1, 3


class Mlp(NamedTuple):
    """mean, scale [E]: of the standardisation; layers: (kernel, bias) of each; found: in words."""

    mean: np.ndarray
    scale: np.ndarray
    layers: tuple
    found: str

    def __call__(self, x) -> np.ndarray:
        """Embeddings [m, E] -> logits [m, C] float32."""
        x = ((np.asarray(x, np.float64) - self.mean) * self.scale).astype(np.float32)
        return np.asarray(_logits(self.layers, x, None))


def fit(x, labels, settings, *, multi_label: bool, seed: int, judges) -> Mlp:
    """The network of the grid that is best on the validation split.

    Args:
      x: [n, E]; labels: [n, C] of 0 and 1.
      settings: config.probe; its fields hidden_width, grid_points, max_epochs and patience.
      multi_label: mAP judges, and binary cross-entropy is minimised; else accuracy.
      seed: of the first weights, the batches and the dropout.
      judges: int [m], which clips are the validation split, not all; where none are, one is drawn.

    Raises:
      UserError: an embedding is not finite; there are fewer than two clips, or the validation split
        judges nothing.
    """
    labels = np.asarray(labels, np.float32)
    if len(labels) < 2:
        raise UserError(
            f"{len(labels)} labelled clip(s) to train on: config.task = 'mlp_probe' needs two at "
            f"least, since a fifth of them judges; add clips"
        )
    mean, deviation = standardisation(np.asarray(x, np.float64))
    standard = ((x - mean) / deviation).astype(np.float32)
    held = np.zeros(len(labels), bool)
    held[judges if len(judges) else np.random.default_rng(seed).integers(len(labels))] = True
    known, judged = (standard[~held], labels[~held]), (standard[held], labels[held])
    best = (-np.inf, None, "")
    for number, (rate, depth) in enumerate(_grid(settings.grid_points)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        figure, layers, epochs = _train(known, judged, settings, rate, depth, key, multi_label)
        said = f"{depth} hidden layers, learning rate {rate:g}, {epochs} epochs"
        logging.info("validation %s %.3f: %s", "mAP" if multi_label else "accuracy", figure, said)
        if figure > best[0]:
            best = figure, layers, said
    if best[1] is None:
        raise UserError(
            f"none of the {len(judged[0])} training clips that judge the networks has a label, or "
            f"no network is finite: config.task = 'mlp_probe' needs more labelled clips"
        )
    return Mlp(mean, 1 / deviation, jax.device_get(best[1]), best[2])


def _grid(points):
    """(learning rate, depth), spread over the rates first."""
    return [(rate, depth) for depth, rate in itertools.product(DEPTHS, RATES)][:points]


def _train(known, judged, settings, rate, depth, key, multi_label):
    """(best figure, its layers, its epoch)."""
    x, labels = known
    first, key = jax.random.split(key)
    widths = (x.shape[1], *(settings.hidden_width,) * depth, labels.shape[1])
    layers = _first(first, widths)
    state = (layers, optax.adam(rate).init(layers))
    best, best_layers, at, stale = -np.inf, layers, 0, 0
    for epoch in range(1, settings.max_epochs + 1):
        state = _epoch(state, x, labels, jax.random.fold_in(key, epoch), rate, multi_label)
        if epoch % _CHECK_EVERY and epoch < settings.max_epochs:
            continue
        scores = np.asarray(_logits(state[0], judged[0], None))
        found = (
            metrics.figures(scores, judged[1])["mAP"]
            if multi_label
            else metrics.accuracy(scores, judged[1])
        )
        if found > best:
            best, best_layers, at, stale = found, state[0], epoch, 0
        else:
            stale += 1
        if stale >= settings.patience:
            break
    return float(best), best_layers, at


def _first(key, widths):
    layers = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        shape = (before, after)
        kernel = jax.nn.initializers.he_normal()(jax.random.fold_in(key, i), shape)
        layers.append((kernel, jnp.zeros(after)))
    return tuple(layers)


def _logits(layers, x, key):
    """x [m, E] -> [m, C]; with a key the hidden units are dropped."""
    for i, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if i < len(layers) - 1:
            x = jax.nn.relu(x)
            if key is not None:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - _DROPOUT, x.shape)
                x = jnp.where(keep, x / (1 - _DROPOUT), 0)
    return x


@functools.partial(jax.jit, static_argnames="multi_label")
def _epoch(state, x, labels, key, rate, multi_label):
    """All clips once, in batches; the last is filled up with clips of weight 0."""
    count = len(x)
    size = min(_BATCH, count)
    batches = -(-count // size)
    order = jax.random.permutation(key, count)
    places = jnp.resize(order, batches * size).reshape(batches, size)
    weights = (jnp.arange(batches * size) < count).astype(jnp.float32).reshape(batches, size)

    def objective(layers, rows, weight, number):
        logits = _logits(layers, x[rows], jax.random.fold_in(key, number))
        if multi_label:
            loss = losses.binary_cross_entropy(logits, labels[rows])
        else:
            loss = losses.cross_entropy(logits, labels[rows], smoothing=0.0)
        return (loss * weight).sum() / weight.sum()

    def step(state, batch):
        layers, moments = state
        gradient = jax.grad(objective)(layers, *batch)
        change, moments = optax.adam(rate).update(gradient, moments)
        return (optax.apply_updates(layers, change), moments), None

    return jax.lax.scan(step, state, (places, weights, jnp.arange(batches)))[0]
