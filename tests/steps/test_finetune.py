"""The fine-tuning steps: pure, keyed, indifferent to padding, and able to learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from conformer_jax.steps import augment, finetune, optimizer, views
from conformer_jax.training import program

# Compiled for seconds of work: skip the backend's optimizations.
FAST = {"xla_backend_optimization_level": 0}
SAMPLES, CLASSES = 4000, 3
KEY = jax.random.key(5)


def tones(size):
    """One pitch a class, in noise."""
    rng, time = np.random.default_rng(0), np.arange(SAMPLES) / 16000
    labels = np.arange(size) % CLASSES
    pitch = np.array([300.0, 1000.0, 3000.0])[labels]
    audio = 0.3 * np.sin(2 * np.pi * pitch[:, None] * time) + 0.05 * rng.standard_normal(
        (size, SAMPLES)
    )
    return audio.astype(np.float32), labels.astype(np.int32)


class Toy:
    """A state and the two steps, compiled once."""

    def __init__(self, multi_label=False, dropout=0.0, crops=None, smoothing=0.0, **augment):
        config = finetune_config.get_config("smoke")
        config.features.update(mean=(-5.0,) * 64, deviation=(3.0,) * 64)
        config.conformer.kernel_sizes = (5,)
        config.conformer.dropout = config.classifier.dropout = dropout
        config.classifier.update(crops or {}, multi_label=multi_label)
        config.augment.update(augment)
        config.losses.label_smoothing = smoothing
        config.optimizer.update(learning_rate=1e-2, warmup_share=0.0)
        self.multi_label = multi_label
        self.model = program.make_model(config, CLASSES)
        transform, _ = optimizer.make_optimizer(config.optimizer, 100)
        options = program.make_options(config)
        init = lambda key: finetune.init(self.model, options, transform, key, ema_decay=0.0)
        self.state = jax.jit(init, compiler_options=FAST)(KEY)
        self.train = jax.jit(finetune.finetune_step, compiler_options=FAST)
        self.evaluate = jax.jit(finetune.finetune_eval_step, compiler_options=FAST)

    def batch(self, size=6):
        audio, labels = tones(size)
        if self.multi_label:  # every clip carries its class and, every other one, the next
            second = np.eye(CLASSES)[(labels + 1) % CLASSES] * (np.arange(size) % 2)[:, None]
            labels = (np.eye(CLASSES)[labels] + second).astype(np.float32)
        return {
            "audio": audio,
            "num_samples": np.full(size, SAMPLES, np.int32),
            "labels": labels,
            "valid": np.ones(size, np.float32),
        }


@functools.cache
def toy_of(name):
    if name == "one_label":
        return Toy(smoothing=0.05)
    augment = {"mixup_alpha": 0.5, "time_masks": 2, "time_mask_s": 0.05, "freq_masks": 2}
    augment |= {"mixup_share": 0.7, "gain_db": 6.0, "shift_s": 0.1}
    augment |= {"speed": 1.1, "views": 0.5}
    return Toy(multi_label=True, dropout=0.1, crops={"crop_s": 0.2, "crops": 2}, **augment)


@pytest.fixture(params=["one_label", "several_labels_augmented"])
def toy(request):
    return toy_of(request.param)


@pytest.fixture
def plain():
    """One label a clip, smoothed in training; no dropout, no augmentation."""
    return toy_of("one_label")


@pytest.fixture
def augmented():
    return toy_of("several_labels_augmented")


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_step_done_again_gives_the_same_bytes(augmented):
    batch = augmented.batch()
    assert_same(
        augmented.train(augmented.state, batch, KEY), augmented.train(augmented.state, batch, KEY)
    )


def test_steps_and_keys_draw_their_own_numbers(augmented):
    batch, state = augmented.batch(), augmented.state
    first = augmented.train(state, batch, KEY)[1]["loss"][0]
    assert first != augmented.train(state.replace(step=jnp.int32(1)), batch, KEY)[1]["loss"][0]
    assert first != augmented.train(state, batch, jax.random.key(6))[1]["loss"][0]


def test_without_dropout_and_augmentation_nothing_is_random(plain):
    batch, state = plain.batch(), plain.state
    other = plain.train(state.replace(step=jnp.int32(1)), batch, jax.random.key(1))
    assert_same(plain.train(state, batch, KEY)[1]["loss"], other[1]["loss"])
    out = plain.evaluate(state, batch, KEY)[1]
    smooth = finetune._loss(out["logits"], out["labels"], state.options, train=True)
    np.testing.assert_allclose(other[1]["loss"][0], smooth.sum(), rtol=1e-4)


def test_a_step_augments_in_this_order(augmented, monkeypatch):
    """Amplified after mixing, so that the powers keep the proportion of the labels; cut first, so
    that two clips meet at any offset and nothing is done to what is not heard."""
    done, shares, names = [], [], ("crop", "shift", "mixup", "between_class", "gain")
    names += ("stretch", "recolour", "spec_augment")

    def noted(name, function):
        def noting(*args, **named):
            done.append(name)
            shares.extend(named.values())
            return function(*args, **named)

        return noting

    for name in names:
        module = views if name == "recolour" else augment
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    # A function of its own: traced anew.
    jax.eval_shape(
        lambda *args: finetune.finetune_step(*args), augmented.state, augmented.batch(), KEY
    )
    assert tuple(done) == names
    assert shares == [0.5]  # of the clips that sound as views do


def test_loss_and_gradient_are_those_of_the_clips_that_count(plain):
    batch = plain.batch()
    part = {name: value[:4] for name, value in batch.items()}
    padded = {
        name: np.concatenate([value[:4], np.zeros_like(value[4:])]) for name, value in batch.items()
    }
    alone, pairs_alone = plain.train(plain.state, part, KEY)
    after, pairs = plain.train(plain.state, padded, KEY)
    assert pairs["loss"][1] == pairs["accuracy"][1] == 4
    for name in pairs:
        np.testing.assert_allclose(pairs[name], pairs_alone[name], rtol=1e-5, err_msg=name)
    # Adam's first moments are the gradients: a look past its normalisation.
    for a, b in zip(
        jax.tree.leaves(after.opt_state), jax.tree.leaves(alone.opt_state), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_evaluation_of_padding_and_its_outputs(toy):
    batch = toy.batch()
    pairs, out = toy.evaluate(toy.state, batch, KEY)
    rest = {**batch, "valid": np.array([1, 1, 0, 1, 0, 1], np.float32)}
    part, same_out = toy.evaluate(toy.state, rest, jax.random.key(1))
    np.testing.assert_array_equal(same_out.pop("valid"), rest["valid"])
    np.testing.assert_array_equal(out.pop("valid"), batch["valid"])
    assert_same(out, same_out)
    assert out["logits"].shape == out["labels"].shape == (6, CLASSES)
    logits, labels = np.asarray(out["logits"], np.float64), np.asarray(out["labels"])
    if toy.multi_label:
        each = np.log1p(np.exp(-np.where(labels > 0, logits, -logits))).mean(-1)
    else:
        each = np.log(np.exp(logits).sum(-1)) - (logits * labels).sum(-1)
        np.testing.assert_array_equal(labels.argmax(-1), batch["labels"])
    correct = labels[np.arange(6), logits.argmax(-1)]
    for result, rows in ((pairs, np.arange(6)), (part, np.array([0, 1, 3, 5]))):
        np.testing.assert_allclose(result["loss"], (each[rows].sum(), len(rows)), rtol=1e-4)
        np.testing.assert_allclose(result["accuracy"], (correct[rows].sum(), len(rows)))


def test_the_average_of_the_parameters_is_evaluated(plain):
    """Those of the last step are not looked at: here there are none."""
    averaged = plain.state.replace(ema=plain.state.params, params=None)
    batch = plain.batch() | {"index": np.arange(6)}
    jax.eval_shape(finetune.finetune_eval_step, averaged, batch, KEY)
    jax.eval_shape(finetune.finetune_embed_step, averaged, batch)


def test_of_mixed_clips_the_larger_share_is_correct():
    labels = np.array([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0], [0.5, 0.0, 0.5]])
    logits = np.tile([3.0, 1.0, 2.0], (3, 1))
    np.testing.assert_array_equal(finetune._item_correct(logits, labels), [1, 0, 1])


def test_it_learns_one_batch(plain):
    state, batch = plain.state, plain.batch()
    before, _ = plain.evaluate(state, batch, KEY)
    for _ in range(40):
        state, _ = plain.train(state, batch, KEY)
    after, _ = plain.evaluate(state, batch, KEY)
    assert after["loss"][0] < 0.2 * before["loss"][0]
    assert after["accuracy"][0] == 6


def test_several_labels_and_augmentation_learn_too(augmented):
    state, batch = augmented.state, augmented.batch()
    before, _ = augmented.evaluate(state, batch, KEY)
    for _ in range(40):
        state, pairs = augmented.train(state, batch, KEY)
    after, _ = augmented.evaluate(state, batch, KEY)
    assert after["loss"][0] < 0.7 * before["loss"][0]
    assert pairs["finite"][0] == 1


def test_it_learns_from_classes_mixed():
    toy = Toy(crops={"crop_s": 0.2}, between_class=0.5)
    state, batch = toy.state, toy.batch()
    for _ in range(40):
        state, _ = toy.train(state, batch, KEY)
    before, after = (toy.evaluate(s, batch, KEY)[0]["loss"][0] for s in (toy.state, state))
    assert after < 0.5 * before


def test_a_step_that_is_not_finite_is_left_out(toy):
    batch = toy.batch()
    batch["audio"][1] = np.inf
    after, pairs = toy.train(toy.state, batch, KEY)
    assert pairs["finite"][0] == 0
    assert (int(after.step), int(after.skipped)) == (1, 1)
    assert_same((after.params, after.opt_state), (toy.state.params, toy.state.opt_state))


def test_a_bad_row_that_does_not_count_costs_nothing(toy):
    batch = toy.batch()
    for name in ("audio", "num_samples", "valid"):
        batch[name][2] = 0
    for samples in (0, 1):  # nothing, or a single sample of silence
        batch["num_samples"][2] = samples
        after, pairs = toy.train(toy.state, batch, KEY)
        assert pairs["finite"][0] == 1
        assert pairs["loss"][1] == 5
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_label_smoothing_is_for_training_only():
    config = finetune_config.get_config("smoke")
    config.losses.label_smoothing = 0.3
    model = program.make_model(config, CLASSES)
    transform, _ = optimizer.make_optimizer(config.optimizer, 10)
    options = program.make_options(config)
    init = lambda key: finetune.init(model, options, transform, key, ema_decay=0.0)
    state = jax.eval_shape(init, KEY)
    assert state.options.label_smoothing == 0.3
    logits, labels = jnp.asarray([[3.0, 0.0, -1.0]]), jnp.eye(3)[:1]
    hard = finetune._loss(logits, labels, state.options, train=False)
    smooth = finetune._loss(logits, labels, state.options, train=True)
    log_share = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(hard, -log_share[:, 0], rtol=1e-6)
    np.testing.assert_allclose(smooth, -0.7 * log_share[:, 0] - 0.3 * log_share.mean(-1), rtol=1e-6)


def test_label_smoothing_of_several_labels_moves_them_towards_a_half(augmented):
    options = dataclasses.replace(augmented.state.options, label_smoothing=0.2)
    logits, labels = jnp.asarray([[3.0, 0.0, -1.0]]), jnp.asarray([[1.0, 1.0, 0.0]])
    present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    for train, soft in ((True, np.array([[0.9, 0.9, 0.1]])), (False, np.asarray(labels))):
        expected = -(soft * present + (1 - soft) * absent).mean(-1)
        np.testing.assert_allclose(
            finetune._loss(logits, labels, options, train=train), expected, rtol=1e-6
        )
