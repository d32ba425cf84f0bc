"""The synthetic corpus: a pure function of the index, balanced, learnable and varied."""

import threading
import time

import numpy as np
import pytest

from configs import base
from conformer_jax.data import sound_events, synthetic
from conformer_jax.data.sources import open_sources, source_spec
from conformer_jax.data.synthetic import (
    CLASS_NAMES,
    SyntheticSource,
    SyntheticSpec,
    clip_labels,
    render_clip,
)
from conformer_jax.errors import UserError

RATE = 16000
SIZE = 5 * RATE
CLASSES = len(CLASS_NAMES)


def render(index, split="train", max_classes=1, seed=0, snr_db=(0.0, 20.0), **changes):
    shape = {"sample_rate": RATE, "num_samples": SIZE, **changes}
    return render_clip(seed, split, index, max_classes=max_classes, snr_db=snr_db, **shape)


def source(split="train", task="finetune", max_classes=3):
    settings = base.get_config().synthetic
    settings.update(num_train=50, num_eval=10, max_classes=max_classes)
    labelled = task != "pretrain"
    return SyntheticSource(
        SyntheticSpec(**settings), split, sample_rate=RATE, num_samples=SIZE, labelled=labelled
    )


def spectral_statistics(audio):
    """Mean and 95th percentile of the log power in 40 bands: [80]."""
    frames = audio[: len(audio) // 400 * 400].reshape(-1, 400) * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:]) ** 2
    bands = np.log(power.reshape(len(power), 40, 5).sum(-1) + 1e-5)
    return np.concatenate([bands.mean(0), np.percentile(bands, 95, axis=0)])


@pytest.fixture(scope="module")
def clips():
    """12 clips of every class: audio, label."""
    return [(audio, labels[0]) for audio, labels in map(render, range(12 * CLASSES))]


def test_clips_are_sound(clips):
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) >= 16
    for audio, _ in clips:
        assert (audio.dtype, audio.shape) == (np.float32, (SIZE,))
        assert np.isfinite(audio).all()
        assert 0.1 < np.abs(audio).max() <= 1
        assert np.sqrt(np.mean(audio**2)) > 1e-3
        assert abs(audio.mean()) < 0.01
        np.testing.assert_array_equal(audio * 32768, np.rint(audio * 32768))


@pytest.mark.parametrize("draw", sound_events.CLASSES, ids=CLASS_NAMES)
def test_each_class_sounds_in_every_clip(draw):
    for index in range(20):
        scene = sound_events.Scene(np.random.default_rng(index), RATE, SIZE)
        sound = draw(scene)
        assert sound.shape == (SIZE,)
        assert sound.dtype == np.float32  # float64 would double the cost
        assert np.sqrt(np.mean(sound**2)) > 0.02


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 5), (44100, 5), (16000, 1), (16000, 10.01)])
def test_other_rates_and_lengths(rate, seconds):
    for index in range(CLASSES):
        size = int(rate * seconds)
        audio, _ = render(index, sample_rate=rate, num_samples=size)
        assert audio.shape == (size,)
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() > 0.1


def test_rendering_is_a_pure_function():
    audio, labels = render(7, max_classes=3)
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    render(8, max_classes=3)
    again, labels_again = render(7, max_classes=3)
    assert audio.tobytes() == again.tobytes()
    assert labels == labels_again


def test_every_argument_gives_another_stream():
    clips = [render(7), render(8), render(7, "eval"), render(7, seed=1)]
    for i, (first, _) in enumerate(clips):
        for second, _ in clips[:i]:
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_train_and_eval_share_no_clip():
    keys = [
        [render(i, split)[0][:2000].tobytes() for i in range(40)] for split in ("train", "eval")
    ]
    assert len(set(keys[0]) | set(keys[1])) == 80


@pytest.mark.parametrize("draw", sound_events.CLASSES, ids=CLASS_NAMES)
def test_events_differ_within_a_class(draw):
    scenes = [sound_events.Scene(np.random.default_rng(i), RATE, SIZE) for i in range(12)]
    features = np.array([spectral_statistics(draw(scene)) for scene in scenes])
    apart = np.abs(features[:, None] - features[None]).mean(-1) + 9 * np.eye(len(features))
    assert apart.min() > 0.1


def test_classes_are_balanced():
    for split in ("train", "eval"):
        labels = [clip_labels(0, split, i, max_classes=1)[0] for i in range(5 * CLASSES)]
        assert np.bincount(labels, minlength=CLASSES).tolist() == [5] * CLASSES
        blocks = np.reshape(labels, (5, CLASSES))
        assert len(np.unique(blocks, axis=0)) == 5  # each block in an order of its own


def test_max_classes_is_respected():
    drawn = [clip_labels(0, "train", i, max_classes=3) for i in range(600)]
    counts = np.bincount([len(labels) for labels in drawn], minlength=4)
    assert counts.sum() == 600
    assert len(counts) == 4
    assert counts[1:].min() > 150
    for labels in drawn:
        assert list(labels) == sorted(set(labels))
    per_class = np.bincount([c for labels in drawn for c in labels], minlength=CLASSES)
    assert per_class.min() > 30
    for bad in (0, CLASSES + 1):
        with pytest.raises(UserError, match=r"synthetic\.max_classes"):
            clip_labels(0, "train", 0, max_classes=bad)


def test_labels_agree_with_the_rendered_clip():
    for split in ("train", "eval"):
        opened = source(split)
        for i in range(10):
            audio, labels = render(i, split, max_classes=3, seed=synthetic.CORPUS_SEED)
            assert opened.labels(i) == labels
            np.testing.assert_array_equal(opened.read(i, SIZE, None), audio)


def test_every_class_named_in_the_labels_sounds(monkeypatch):
    called = []
    spies = [lambda s, f=f: (called.append(f.__name__), f(s))[1] for f in sound_events.CLASSES]
    monkeypatch.setattr(synthetic, "CLASSES", spies)
    for i in range(20):
        called.clear()
        _, labels = render(i, max_classes=3)
        assert called == [CLASS_NAMES[label] for label in labels]


def test_classes_can_be_told_apart_but_not_easily(clips):
    features = np.array([spectral_statistics(audio) for audio, _ in clips])
    labels = np.array([label for _, label in clips])
    features = (features - features.mean(0)) / features.std(0)
    train = np.arange(len(clips)) < 8 * CLASSES
    centroids = np.array([features[train & (labels == c)].mean(0) for c in range(CLASSES)])
    apart = ((features[~train][:, None] - centroids) ** 2).sum(-1)
    accuracy = np.mean(apart.argmin(1) == labels[~train])
    assert 5 / CLASSES < accuracy < 0.8


def test_snr_sets_the_background():
    """The quietest frames of a sparse class fall with the background."""
    index = [clip_labels(0, "train", i, max_classes=1)[0] for i in range(CLASSES)].index(
        CLASS_NAMES.index("knock")
    )
    floors = []
    for snr in (0.0, 20.0):
        audio, _ = render(index, snr_db=(snr, snr))
        levels = np.sqrt(np.mean(audio.reshape(-1, 800) ** 2, axis=1))
        floors.append(20 * np.log10(np.percentile(levels, 10) / np.percentile(levels, 99)))
    assert 12 < floors[0] - floors[1] < 25


def test_source_reads_crops():
    opened = source()
    assert (len(opened), opened.sample_rate, opened.label_names) == (50, RATE, CLASS_NAMES)
    assert opened.example_id(12) == "synthetic/train/000012"
    assert len(source("eval")) == 10
    whole = opened.read(3, 2 * SIZE, 0.5)
    assert (whole.dtype, whole.shape) == (np.float32, (SIZE,))
    np.testing.assert_array_equal(opened.read(3, 1000, 0.0), whole[:1000])
    np.testing.assert_array_equal(opened.read(3, 1000, np.nextafter(1.0, 0.0)), whole[-1000:])
    start = int(0.3 * (SIZE - 1000 + 1))
    np.testing.assert_array_equal(opened.read(3, 1000, 0.3), whole[start : start + 1000])
    start = (SIZE - 1000) // 2
    np.testing.assert_array_equal(opened.read(3, 1000, None), whole[start : start + 1000])
    for bad in (-1, 50):
        with pytest.raises(IndexError):
            opened.read(bad, 10, None)
    with pytest.raises(ValueError, match="split"):
        source("test")


def test_access_order_and_threads_do_not_matter():
    first, second, found = source(), source(), {}
    forwards = [first.read(i, 4000, 0.5).tobytes() for i in range(8)]

    def read(order):
        for i in order:
            found.setdefault(i, set()).add(second.read(i, 4000, 0.5).tobytes())

    orders = (range(7, -1, -1), range(0, 8, 2), range(8))
    threads = [threading.Thread(target=read, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == [{clip} for clip in forwards]


def test_pretraining_sees_no_label():
    opened = source(task="pretrain")
    assert opened.label_names == ()
    assert opened.labels(0) == ()
    np.testing.assert_array_equal(opened.read(0, SIZE, None), source().read(0, SIZE, None))


def test_config_seed_does_not_change_the_corpus():
    config = base.get_config()
    config.seed = 99
    other = open_sources(source_spec(config)).train.read(5, SIZE, None)
    np.testing.assert_array_equal(other, source().read(5, SIZE, None))


def test_the_cache_is_used_and_bounded(monkeypatch):
    monkeypatch.setattr(synthetic, "CACHED_CLIPS", 2)
    rendered = []

    def spy(seed, split, index, **rest):
        rendered.append(index)
        return render_clip(seed, split, index, **rest)

    monkeypatch.setattr(synthetic, "render_clip", spy)
    opened = source()
    for i in (0, 1, 2, 0, 1, 2):
        opened.read(i, 100, None)
    assert rendered == [0, 1, 2, 2]


def test_a_clip_is_cheap():
    start = time.process_time()
    for i in range(20):
        render(i, max_classes=3)
    assert (time.process_time() - start) / 20 < 0.05
