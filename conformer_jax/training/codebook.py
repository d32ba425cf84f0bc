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

_TOKENS = 20_000  # that are grouped; of a larger codebook as many again as it has entries
_PASSES = 10


def from_clips(config, state, batches):
    """The state with a codebook in which each group's entries are the centres of its share of the
    tokens that the encoder makes at the start (SoundStream, Zeghidour et al. 2021, section III-C).

    Codes are then in use from the first step, evenly, and lie where tokens are.

    Args:
      config: of the run.
      state: TrainState of an objective with a codebook.
      batches: () -> iterator over batches of clips, the same on whatever process calls it.

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
    found = distributed.on_first(
        lambda: [
            centres(tokens, settings.num_entries, config.seed + group).tolist()
            for group, tokens in enumerate(
                np.split(_tokens(state.model, makes, batches()), settings.num_groups, axis=1)
            )
        ]
    )
    old = state.params["quantizer"]["codebook"]
    book = jax.device_put(np.asarray(found, np.float32), old.sharding)
    quantizer = {**state.params["quantizer"], "codebook": book}
    return state.with_params({**state.params, "quantizer": quantizer})


def centres(tokens, count: int, seed: int) -> np.ndarray:
    """`count` centres [count, d] of tokens [n, d]; tokens come twice where there are too few."""
    rng = np.random.default_rng(seed)
    most = max(_TOKENS, 4 * count)
    tokens = tokens[rng.permutation(len(tokens))[:most]]
    distinct = np.unique(tokens, axis=0)  # silence is often the same
    start = np.resize(distinct[rng.permutation(len(distinct))], (count, tokens.shape[1]))
    with warnings.catch_warnings():  # a centre that loses all its tokens stays where it is
        warnings.simplefilter("ignore")
        return kmeans2(tokens, start, iter=_PASSES, minit="matrix")[0]


def _tokens(model, makes, batches):
    """[n, feature_dim] float32 of all readable clips."""

    @jax.jit
    def run(audio, num_samples):
        features, valid_frames = log_mel(audio, num_samples, model.features)
        encoder = Encoder(model.encoder_spec)
        return encoder.apply({"params": makes}, features, valid_frames, method="tokens")

    found = []
    for batch in batches:
        tokens, valid = run(batch["audio"], batch["num_samples"])
        counts = np.asarray(valid) & (batch["valid"] > 0)[:, None]
        found.append(np.asarray(tokens, np.float32)[counts])
    if not sum(map(len, found)):
        raise UserError("no clip could be read to start the codebook from: see bad_audio.csv")
    return np.concatenate(found)
