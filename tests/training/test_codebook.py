"""A codebook that starts from the tokens of clips."""

import numpy as np
import pytest

from configs import pretrain
from conformer_jax.errors import UserError
from conformer_jax.steps import masked_contrast
from conformer_jax.training import checkpoint, codebook, loop, opening, statistics


def test_centres_are_those_of_the_clusters():
    rng = np.random.default_rng(0)
    middles = 10 * rng.standard_normal((5, 3))
    tokens = (middles[:, None] + 0.1 * rng.standard_normal((5, 60, 3))).reshape(-1, 3)
    found = codebook.centres(tokens.astype(np.float32), 20, seed=1)
    assert found.shape == (20, 3)
    nearest = np.linalg.norm(middles[:, None] - found, axis=-1)
    assert (nearest.min(1) < 0.2).all()  # each cluster has some
    assert (nearest.min(0) < 0.5).all()  # and nowhere else are any
    np.testing.assert_array_equal(found, codebook.centres(tokens.astype(np.float32), 20, seed=1))


def test_silence_takes_one_entry_and_too_few_tokens_are_said(caplog):
    tokens = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    tokens[:80] = 0.0
    found = codebook.centres(tokens, 10, seed=0)
    assert (np.abs(found).max(1) < 0.05).sum() == 1
    assert not caplog.records
    few = codebook.centres(tokens[78:83], 10, seed=0)
    assert "WARNING only 4 tokens for a codebook of 10 entries" in caplog.text
    assert len(np.unique(few, axis=0)) == 10
    assert few.shape == (10, 4)
    assert np.isfinite(few).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The state that a run starts from, and its config."""
    workdir = tmp_path_factory.mktemp("run")
    config = pretrain.get_config("smoke")
    config.update(target="gumbel")
    config.quantizer.num_entries = 16
    config.conformer.kernel_sizes = (3,)
    config.synthetic.update(num_train=64, num_eval=8)
    config.train.num_steps = 0
    loop.train_and_evaluate(config, workdir)
    return config, workdir


def test_a_run_starts_with_a_codebook_that_is_in_use(trained):
    """Each token lies near an entry, and nearly all entries are some token's nearest."""
    config, workdir = trained
    params = checkpoint.read_item(workdir / "checkpoints" / "0" / "params")
    book = params["quantizer"]["codebook"]
    assert book.shape == (2, 16, config.conformer.feature_dim // 2)
    config, _, report, data = opening.open_run(config, workdir)
    batches = statistics.clip_batches(config, data.train, report)
    makes = {name: params["encoder"][name] for name in ("stack", "token_norm")}
    model = masked_contrast.make_model(config)
    tokens = codebook.tokens(model, makes, *batches, most=10_000, seed=0)
    few = statistics.clip_batches(config, data.train, report)
    assert 90 <= len(codebook.tokens(model, makes, *few, most=90, seed=0)) < 110 < len(tokens)
    for part, entries in zip(np.split(tokens, 2, axis=1), book, strict=True):
        squares = np.square(part[:, None] - entries).mean(-1)
        use = np.bincount(squares.argmin(1), minlength=16) / len(part)
        use = use[use > 0]
        assert np.exp(-(use * np.log(use)).sum()) > 10  # of 16
        assert squares.min(1).mean() < 0.5 * part.var(0).mean()


def test_clusters_need_distances():
    config = pretrain.get_config("smoke")
    config.update(target="gumbel")
    config.quantizer.logits = "linear"
    with pytest.raises(
        ValueError, match=r"logits = 'linear', but .*set config.quantizer.init='random'"
    ):
        masked_contrast.make_model(config)
    config.update(target="linear")
    masked_contrast.make_model(config)  # where there is no codebook, nothing is said of it


def test_no_readable_clip_is_said(trained):
    config, _ = trained
    batch = {
        "audio": np.zeros((2, 8000), np.int16),
        "num_samples": np.full(2, 8000, np.int32),
        "valid": np.zeros(2, np.float32),
    }
    model = masked_contrast.make_model(config)
    width, inputs = config.conformer.feature_dim, 4 * 64
    makes = {
        "stack": {"kernel": np.zeros((inputs, width)), "bias": np.zeros(width)},
        "token_norm": {"scale": np.ones(width), "bias": np.zeros(width)},
    }
    with pytest.raises(UserError, match=r"no clip could be read to start the codebook"):
        codebook.tokens(model, makes, [batch], 2, most=100, seed=0)
