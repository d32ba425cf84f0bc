"""A codebook that starts from the clips: the centres of k-means of their tokens."""

import logging
import warnings

import jax
import numpy as np
from jax.experimental import multihost_utils
from scipy.cluster.vq import kmeans2

from conformer_jax.errors import UserError
from conformer_jax.models.conformer import Encoder
from conformer_jax.models.features import log_mel
from conformer_jax.training import distributed

_TOKENS = 20_000  # that are grouped; of a larger codebook four times as many as its entries
_PASSES = 10


def from_clips(config, state, batches):
    """The state with a codebook in which each group's entries are the centres of its share of the
    tokens that the encoder makes at the start (SoundStream, Zeghidour et al. 2021, section III-C).

    Codes are then in use from the first step, evenly, and lie where tokens are.

    Args:
      config: of the run.
      state: TrainState of an objective with a codebook.
      batches: () -> an iterator over batches of clips, the same on whatever process calls it, and
        how many clips they are.

    Raises:
      UserError: no clip could be read.
    """
    # All that makes tokens of features, small; on several processes each has a part.
    makes = {name: state.params["encoder"][name] for name in ("stack", "token_norm")}
    if jax.process_count() > 1:
        makes = multihost_utils.process_allgather(makes, tiled=True)
    makes = jax.device_get(makes)
    logging.info("starting the codebook from clusters of tokens")
    settings = config.quantizer
    most = max(_TOKENS, 4 * settings.num_entries)

    def measured():
        found = tokens(state.model, makes, *batches(), most=most, seed=config.seed)
        parts = np.split(found, settings.num_groups, axis=1)
        return np.stack([centres(part, settings.num_entries, config.seed) for part in parts])

    old = state.params["quantizer"]["codebook"]
    book = distributed.array_of_first(measured, old.shape)
    quantizer = {**state.params["quantizer"], "codebook": jax.device_put(book, old.sharding)}
    return state.with_params({**state.params, "quantizer": quantizer})


def centres(tokens, count: int, seed: int) -> np.ndarray:
    """`count` centres [count, d] float32 of tokens [n, d].

    Where there are fewer tokens, entries lie beside each other.
    """
    rng = np.random.default_rng(seed)
    distinct = np.unique(tokens, axis=0)  # silence is often the same
    if len(distinct) < count:
        logging.warning(
            "WARNING only %d tokens for a codebook of %d entries: lower "
            "config.quantizer.num_entries or raise config.data.statistics_clips",
            *(len(distinct), count),
        )
        distinct = np.resize(distinct, (count, distinct.shape[1]))
        distinct += 1e-3 * rng.standard_normal(distinct.shape)
    start = distinct[rng.permutation(len(distinct))[:count]]
    with warnings.catch_warnings():  # a centre that loses all its tokens stays where it is
        warnings.simplefilter("ignore")
        return kmeans2(tokens, start, iter=_PASSES, minit="matrix")[0].astype(np.float32)


def tokens(model, makes, batches, num_clips: int, *, most: int, seed: int) -> np.ndarray:
    """[n, feature_dim] float32 of a random choice of the tokens of all readable clips.

    Args:
      model: with `features` and `encoder_spec`.
      makes: parameters of the encoder that make tokens of features.
      batches: of `num_clips` clips.
      most: about so many tokens are chosen, where there are more.
      seed: of the choice.

    Raises:
      UserError: no clip could be read.
    """

    @jax.jit
    def run(audio, num_samples):
        features, valid_frames = log_mel(audio, num_samples, model.features)
        encoder = Encoder(model.encoder_spec)
        return encoder.apply({"params": makes}, features, valid_frames, method="tokens")

    found, rng = [], np.random.default_rng(seed)
    for batch in batches:
        made, valid = run(batch["audio"], batch["num_samples"])
        clips = batch["valid"] > 0
        rows = np.asarray(made, np.float32)[np.asarray(valid) & clips[:, None]]
        share = -(-most * int(clips.sum()) // num_clips)
        found.append(rows[rng.permutation(len(rows))[:share]])
    if not sum(map(len, found)):
        raise UserError("no clip could be read to start the codebook from: see bad_audio.csv")
    return np.concatenate(found)
