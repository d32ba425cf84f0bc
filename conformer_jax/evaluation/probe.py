"""What a frozen encoder is worth: a linear probe and the nearest neighbours of its embeddings.

The embedding is the classifier's pooled vector, so config.classifier.pooling and .layers choose it.
A probe hears every training clip once, its middle (or the mean of its crops), unaugmented.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from conformer_jax.errors import UserError
from conformer_jax.steps import losses

_TOLERANCE = 1e-4  # of the gradient's norm: L-BFGS stops
NONE_READABLE = "no clip could be read: see bad_audio.csv in the workdir"
_ROWS = 1024  # clips whose neighbours are looked for at once


def embed(compiled, state, batches, num_clips: int, stop=None) -> dict[str, np.ndarray] | None:
    """`embed_readable`; UserError where no clip could be read."""
    found = embed_readable(compiled, state, batches, num_clips, stop)
    if found == {}:
        raise UserError(NONE_READABLE)
    return found


def embed_readable(compiled, state, batches, num_clips: int, stop=None):
    """Embeddings of all clips of a source, in its order; on every process those of all.

    Args:
      compiled: the Program of a task with a classifier.
      state: its TrainState.
      batches: of this process, with every clip once, in any order and of any lengths.
      num_clips: n, of the source.
      stop: () -> whether to stop, asked before each batch; None: never.

    Returns:
      `embedding` [n, E] and `labels` [n, C] float32; `valid` [n], 0 where a clip could not be
      read, and then all else is 0, too. {} where none could be; None where it was stopped.
    """
    whole = {}
    for batch in batches:
        if stop is not None and stop():
            batches.close()
            return None
        found = jax.device_get(compiled.embed_step(state, compiled.put_batch(batch)))
        rows = found["valid"] > 0
        index = found.pop("index")[rows]
        for name, values in found.items():
            if name not in whole:
                whole[name] = np.zeros((num_clips, *values.shape[1:]), values.dtype)
            whole[name][index] = values[rows]
    return whole if whole and whole["valid"].any() else {}


def fit(known, settings, *, neighbours: bool, multi_label: bool):
    """The nearest neighbours, or else the linear probe, of `known` from `embed`.

    Args:
      known: training clips.
      settings: config.probe.
      neighbours: whether neighbours vote.
      multi_label: config.classifier.multi_label.

    Returns:
      Neighbours or Linear; called with embeddings [m, E] it gives logits [m, C] float32.
    """
    if neighbours:
        rows = known["valid"] > 0
        return find_neighbours(
            known["embedding"][rows],
            known["labels"][rows],
            neighbors=settings.neighbors,
            temperature=settings.temperature,
            multi_label=multi_label,
        )
    return _fit_linear(known, settings, multi_label)


def _fit_linear(known, settings, multi_label):
    rows = known["valid"] > 0
    return fit_linear(
        known["embedding"][rows],
        known["labels"][rows],
        multi_label=multi_label,
        l2=settings.l2,
        max_iterations=settings.max_iterations,
    )


class Linear(NamedTuple):
    """kernel [E, C], bias [C] float32."""

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, x) -> np.ndarray:
        """Embeddings [m, E] -> logits [m, C]."""
        return x @ self.kernel + self.bias


def fit_linear(x, labels, *, multi_label: bool, l2: float, max_iterations: int) -> Linear:
    """Logistic regression on standardised embeddings, by L-BFGS.

    Its loss is a proper one, so that the sigmoid of a logit (the softmax, where there is one label)
    is itself a probability, held from being too sure by l2; nothing is fitted to it afterwards, for
    which a class would need held-out clips that most have not. How well that holds is measured on
    the held-out clips (calibration.py), and the report shows it.

    Minimises the mean cross-entropy (binary ones, summed over the classes, where several labels
    are possible) plus l2 / 2 times the squared weights.

    Args:
      x: [n, E].
      labels: [n, C] of 0 and 1.

    Returns:
      what applies to `x` as it is: the standardisation is folded in.

    Raises:
      UserError: an embedding is not finite.
    """
    x = np.asarray(x, np.float64)
    mean, deviation = standardisation(x)
    standard = ((x - mean) / deviation).astype(np.float32)
    kernel, bias = jax.device_get(
        _minimise(standard, np.asarray(labels, np.float32), l2, multi_label, max_iterations)
    )
    kernel = kernel / deviation[:, None]
    return Linear(kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32))


def standardisation(x):
    """Mean and deviation [E] of embeddings [n, E]; infinite for one that hardly varies (of a dead
    unit), which would be blown up to noise."""
    if not np.isfinite(x).all():
        raise UserError("embeddings hold NaN or infinity: the encoder has diverged")
    mean, deviation = x.mean(0), x.std(0)
    return mean, np.where(deviation > 1e-4 * max(deviation.max(), 1e-12), deviation, np.inf)


@functools.partial(jax.jit, static_argnames=("multi_label", "max_iterations"))
def _minimise(x, labels, l2, multi_label, max_iterations):
    def objective(params):
        kernel, bias = params
        logits = jnp.matmul(x, kernel, precision="highest") + bias
        if multi_label:
            loss = losses.binary_cross_entropy(logits, labels) * labels.shape[1]
        else:
            loss = losses.cross_entropy(logits, labels, smoothing=0.0)
        return loss.mean() + 0.5 * l2 * jnp.square(kernel).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def go_on(carry):
        _, _, step, norm = carry
        return (step < max_iterations) & (norm > _TOLERANCE)

    def iterate(carry):
        params, opt_state, step, _ = carry
        value, grad = value_and_grad(params, state=opt_state)
        updates, opt_state = optimizer.update(
            grad, opt_state, params, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(params, updates), opt_state, step + 1, optax.tree.norm(grad)

    params = jnp.zeros((x.shape[1], labels.shape[1])), jnp.zeros(labels.shape[1])
    start = params, optimizer.init(params), 0, jnp.inf
    return jax.lax.while_loop(go_on, iterate, start)[0]


class Neighbours(NamedTuple):
    """Training clips that vote.

    mean, scale [E]: of the standardisation, scale 0 where an embedding hardly varies; known [n, E]:
    standardised and of length 1; labels [n, C] of 0 and 1; all float32.
    """

    mean: np.ndarray
    scale: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    neighbors: int
    temperature: float
    multi_label: bool

    def __call__(self, x) -> np.ndarray:
        """Embeddings [m, E] -> logits [m, C] float32."""
        return _as_logits(self.votes(x), self.multi_label)

    def votes(self, x) -> np.ndarray:
        """Embeddings [m, E] -> votes for each class as a share of all, [m, C] float32."""
        # In parts: all similarities of two large sets would not fit into memory.
        parts = range(0, len(x), _ROWS)
        return np.concatenate([self._votes(x[i : i + _ROWS]) for i in parts])

    def _votes(self, rows):
        k = min(self.neighbors, len(self.known))
        similarity = _unit((rows - self.mean) * self.scale) @ self.known.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        # Relative to the nearest: the shares stay, and exp cannot overflow.
        close = np.take_along_axis(similarity, nearest, axis=1)
        votes = np.exp((close - close.max(1, keepdims=True)) / self.temperature)
        of_class = np.einsum("mk,mkc->mc", votes, self.labels[nearest])
        return (of_class / votes.sum(1, keepdims=True)).astype(np.float32)


def find_neighbours(
    train, labels, *, neighbors: int, temperature: float, multi_label: bool
) -> Neighbours:
    """The k nearest training clips, each with exp(cosine / temperature) votes.

    Wu et al. 2018 (arXiv 1805.01978), section 3.4. Embeddings are standardised first: their
    coordinates differ in scale.

    Args:
      train: [n, E]; labels: [n, C] of 0 and 1.

    Raises:
      UserError: an embedding is not finite.
    """
    mean, deviation = standardisation(train)
    scale = 1 / deviation
    arrays = (mean, scale, _unit((train - mean) * scale), labels)
    return Neighbours(
        *(np.asarray(x, np.float32) for x in arrays), neighbors, temperature, multi_label
    )


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _as_logits(votes, multi_label):
    """What softmax, or sigmoid where there are several labels, turns into the votes again."""
    votes = np.clip(votes, 1e-6, 1 - 1e-6)
    return np.log(votes) - np.log1p(-votes) if multi_label else np.log(votes)


def start_head(state, known, settings, *, multi_label: bool):
    """The state with the linear probe as its head (config.classifier.init, .refit).

    Args:
      state: TrainState of a classifier.
      known: every training clip, from `embed`.
      settings: config.probe.
      multi_label: config.classifier.multi_label.
    """
    kernel, bias = _fit_linear(known, settings, multi_label)
    if jax.process_count() > 1:  # not a bit may differ between them
        kernel, bias = multihost_utils.broadcast_one_to_all((kernel, bias))
    head = jax.tree.map(
        # From the host: several processes cannot move arrays between their devices.
        lambda old, new: jax.device_put(new, old.sharding),
        state.params["head"],
        {"kernel": kernel, "bias": bias},
    )
    return state.with_params({**state.params, "head": head})
