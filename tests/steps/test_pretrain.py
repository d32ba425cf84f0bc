"""The pre-training steps: pure, keyed, indifferent to padding, and able to learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from conformer_jax.models import masking
from conformer_jax.steps import masked_contrast, optimizer, pretrain
from conformer_jax.training import program

# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
SAMPLES = 8000  # 51 frames, 12 tokens
KEY = jax.random.key(7)


def noise(seed, size=4):
    """Coloured noise that changes every 40 ms, so that tokens can be told apart."""
    rng = np.random.default_rng(seed)
    pieces = rng.standard_normal((size, 13, 640)).cumsum(-1) * rng.uniform(0.001, 0.02, (13, 1))
    pieces += rng.standard_normal(pieces.shape) * rng.uniform(0.0, 0.1, (size, 13, 1))
    return np.clip(pieces.reshape(size, -1)[:, :SAMPLES], -1, 1).astype(np.float32)


def batch_of(seed=0, valid=(1, 1, 1, 1)):
    """As the loaders make it: rows that do not count are zero in every array."""
    valid = np.array(valid, np.float32)
    return {
        "audio": noise(seed, len(valid)) * valid[:, None],
        "num_samples": (SAMPLES * valid).astype(np.int32),
        "valid": valid,
        "index": (np.arange(len(valid)) * valid).astype(np.int32),
    }


class Toy:
    """A state and the two steps, compiled once; `masks` records what each step hides."""

    def __init__(self, target):
        config = pretrain_config.get_config("smoke")
        config.target = target
        config.quantizer.update(logits="linear", init="random")  # there are no clips to start from
        config.conformer.kernel_sizes = (5,)
        config.features.update(mean=(-5.0,) * 64, deviation=(3.0,) * 64)
        config.optimizer.update(learning_rate=1e-2, warmup_share=0.0, ema_decay=0.5)
        config.train.num_steps = 100
        self.config = config
        self.model = program.make_model(config)
        transform, _ = optimizer.make_optimizer(config.optimizer, 200)
        options = program.make_options(config)
        init = lambda key: pretrain.init(self.model, options, transform, key, ema_decay=0.5)
        self.state = jax.jit(init, compiler_options=FAST)(KEY)
        self.masks = []
        self._train = jax.jit(self._recording(pretrain.pretrain_step), compiler_options=FAST)
        self._evaluate = jax.jit(pretrain.pretrain_eval_step, compiler_options=FAST)

    def _recording(self, function):
        def recorded(*args):
            span_mask = masking.span_mask

            def spy(*args, **kwargs):
                masked = span_mask(*args, **kwargs)
                jax.debug.callback(lambda m: self.masks.append(np.asarray(m)), masked)
                return masked

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(masking, "span_mask", spy)
                return function(*args)

        return recorded

    def train(self, state, batch, key=KEY):
        result = jax.block_until_ready(self._train(state, batch, key))
        jax.effects_barrier()
        return result

    def at(self, step):
        return self.state.replace(step=jnp.int32(step))

    def evaluate(self, state, batch, key=KEY):
        pairs = self._evaluate(state, batch, key)
        return {name: np.asarray(a) / max(float(b), 1e-9) for name, (a, b) in pairs.items()}


@functools.cache
def toy_of(target):
    return Toy(target)


@pytest.fixture(params=["linear", "gumbel"])
def toy(request):
    return toy_of(request.param)


@pytest.fixture
def linear():
    return toy_of("linear")


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_step_done_again_gives_the_same_bytes(toy):
    before = jax.tree.map(np.array, toy.state)
    first, again = (toy.train(toy.state, batch_of()) for _ in range(2))
    assert_same(first, again)
    assert_same(toy.state, before)
    np.testing.assert_array_equal(toy.masks[-1], toy.masks[-2])
    assert int(first[0].step) == 1
    assert first[1]["finite"] == (1, 1)
    after, _ = toy.train(first[0], batch_of())  # the warm-up starts at 0: the second step moves
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, toy.state.params)
    assert all(jax.tree.leaves(moved)), moved


def test_steps_and_keys_draw_their_own_masks(toy):
    toy.train(toy.at(3), batch_of())
    toy.train(toy.at(4), batch_of())
    toy.train(toy.at(3), batch_of(), jax.random.key(8))
    third, fourth, other_key = toy.masks[-3:]
    assert (third != fourth).any()
    assert (third != other_key).any()
    assert (third[0] != third[1]).any()  # and so do clips


def test_the_metrics_say_what_was_counted(toy):
    _, pairs = toy.train(toy.state, batch_of())
    masked = toy.masks[-1].sum()
    if toy.config.target == "gumbel":  # where all distractors equal the target, nothing counts
        assert masked - 3 <= pairs["contrastive_loss"][1] <= masked
        masked = pairs["contrastive_loss"][1]
    for name in ("contrastive_loss", "contrastive_accuracy", "similarity_positive"):
        assert pairs[name][1] == masked
    names = {"diversity_loss", "gumbel_temperature", "code_use"}
    if toy.config.target == "linear":
        assert not names & set(pairs)
        np.testing.assert_allclose(pairs["loss"], pairs["contrastive_loss"], rtol=1e-6)
    else:
        use, count = pairs["code_use"]
        np.testing.assert_allclose(use.sum(-1), count)
        diversity = 0.1 * pairs["diversity_loss"][0]
        expected = pairs["contrastive_loss"][0] / masked + diversity
        np.testing.assert_allclose(pairs["loss"][0] / masked, expected, rtol=1e-6)
        temperatures = [
            toy.train(toy.at(step), batch_of())[1]["gumbel_temperature"][0]
            for step in (0, 35, 70, 99)  # 70 % of 100 steps
        ]
        np.testing.assert_allclose(temperatures, [2.0, 1.0, 0.5, 0.5], rtol=1e-5)


def test_rows_that_do_not_count_change_nothing():
    """The first rows draw the same numbers whatever the size of the batch."""
    toy, whole = toy_of("gumbel"), batch_of()
    pair = {name: value[:2] for name, value in whole.items()}
    padded = {
        name: np.concatenate([value, np.zeros_like(whole[name][2:])])
        for name, value in pair.items()
    }
    alone, among_padding = toy.evaluate(toy.state, pair), toy.evaluate(toy.state, padded)
    for name, value in alone.items():
        np.testing.assert_allclose(among_padding[name], value, rtol=1e-5, err_msg=name)


def test_audio_of_a_row_that_does_not_count_is_ignored(linear):
    silent = batch_of(valid=(1, 1, 0, 1))
    noisy = {**batch_of(), "valid": silent["valid"]}
    for batch in (silent, noisy):
        batch["num_samples"] = np.full(4, SAMPLES, np.int32)
    a, pairs_a = linear.train(linear.state, silent)
    b, pairs_b = linear.train(linear.state, noisy)
    assert_same(pairs_a, pairs_b)
    assert_same(a.params, b.params)


def test_a_batch_without_one_usable_clip_keeps_everything_finite(toy):
    nothing = batch_of(valid=(0, 0, 0, 0))
    short = {**batch_of(), "num_samples": np.array([0, 1, 700, 1919], np.int32)}
    for batch in (nothing, short):
        after, pairs = toy.train(toy.state, batch)
        assert pairs["finite"][0] == 1
        assert pairs["contrastive_loss"] == (0, 0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_a_step_that_is_not_finite_is_left_out(toy):
    broken = batch_of()
    broken["audio"][0, 100] = np.nan
    after, pairs = toy.train(toy.state, broken)
    assert pairs["finite"][0] == 0
    assert (int(after.step), int(after.skipped)) == (1, 1)
    assert_same(after.params, toy.state.params)
    assert_same(after.opt_state, toy.state.opt_state)


def test_it_learns_one_batch(toy):
    """And one mask: the step's number is held, so that every step draws the same."""
    state, records = toy.at(0), []
    for _ in range(60):
        state, pairs = toy.train(state.replace(step=jnp.int32(0)), batch_of())
        records.append({name: float(a.sum() / b) for name, (a, b) in pairs.items()})
    first, last = records[0], records[-1]
    assert last["contrastive_loss"] < 0.5 * first["contrastive_loss"]
    assert last["contrastive_accuracy"] > first["contrastive_accuracy"] + 0.3
    assert last["similarity_positive"] > last["similarity_negative"] + 0.2


def test_evaluation_is_pure_and_keyed_by_its_key_alone(linear):
    batch = batch_of()
    first = linear.evaluate(linear.state, batch)
    assert first == linear.evaluate(linear.at(9), batch)
    assert first != linear.evaluate(linear.state, batch, jax.random.key(3))


def test_evaluation_uses_the_average_of_the_parameters(linear):
    after, _ = linear.train(linear.train(linear.state, batch_of())[0], batch_of())
    first = linear.evaluate(after, batch_of(1))
    assert linear.evaluate(after.replace(params=linear.state.params), batch_of(1)) == first
    swapped = after.replace(ema=linear.state.params)
    assert linear.evaluate(swapped, batch_of(1)) != first


def test_chance_counts_the_distractors_that_a_clip_has():
    weights = np.zeros((2, 9), np.float32)
    weights[0, :2] = 1  # one other token, however often it is drawn
    weights[1, :9] = 1
    logits = jnp.zeros((2, weights.shape[1], 101))
    chance = masked_contrast._chance(jnp.asarray(weights), logits)
    np.testing.assert_allclose(chance[0, 0], 1 / 2)
    np.testing.assert_allclose(chance[1, 0], 1 / 9, rtol=1e-4)
    one = masked_contrast._chance(jnp.asarray(weights), logits[..., :2])
    np.testing.assert_allclose(one[1, 0], 1 / 2, rtol=1e-5)


def test_chance_leaves_out_the_distractors_that_equal_the_target():
    weights, logits = jnp.ones((1, 9)), jnp.zeros((1, 9, 1001))
    half = masked_contrast._chance(weights, logits.at[..., 501:].set(-jnp.inf))
    np.testing.assert_allclose(half, 1 / 5, rtol=1e-4)
    none = masked_contrast._chance(weights, logits.at[..., 1:].set(-jnp.inf))
    np.testing.assert_allclose(none, 1.0)


def test_the_spread_of_targets_tells_collapse():
    weights = jnp.ones((1, 6))
    one_way = jnp.tile(jnp.asarray([1.0, 2.0]), (1, 6, 1)) * jnp.arange(1.0, 7.0)[:, None]
    np.testing.assert_allclose(masked_contrast._spread(one_way, weights), 0, atol=1e-3)
    spread = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])[None]
    np.testing.assert_allclose(masked_contrast._spread(spread, weights), 1)
    half = weights.at[0, 1:].set(0.0)
    np.testing.assert_allclose(masked_contrast._spread(spread, half), 0, atol=1e-3)


def test_the_model_follows_the_config():
    config = pretrain_config.get_config("smoke")
    config.update(target="gumbel")
    config.quantizer.sharpness = 7.0
    config.masking.probability = 0.5
    model = program.make_model(config)
    assert model.objective.mask_probability == 0.5
    assert model.objective.num_entries == config.quantizer.num_entries
    assert (model.objective.code_logits, model.objective.sharpness) == ("distance", 7.0)
    assert model.objective.anneal_steps == 0.7 * config.train.num_steps
    assert dataclasses.asdict(model.encoder_spec)["kernel_sizes"] == (5, 3)
