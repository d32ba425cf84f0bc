"""Both loaders: the same bytes, on any number of hosts, from any step; errors; threads that end."""

import csv
import gc
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs import base
from conformer_jax.data import host_loader, input_pipeline
from conformer_jax.data.sources import (
    BadAudio,
    BadAudioReport,
    DataError,
    Source,
    open_sources,
    source_spec,
)

RATE = 1000
CLIP = 250  # samples of a row
LOADERS = pytest.mark.parametrize("loader", [host_loader, input_pipeline])


class Ramps(Source):
    """Example i is i + 1 thousandths everywhere, 100 + 60 i samples long; class i modulo 3."""

    sample_rate = RATE

    def __init__(self, n=7, label_names=("a", "b", "c"), bad=(), broken=None, slow_s=0.0):
        self.n, self.label_names, self.bad, self.broken = n, label_names, bad, broken
        self.slow_s = slow_s
        self.reads = []

    def __len__(self):
        return self.n

    def example_id(self, i):
        return f"{i}.wav"

    def labels(self, i):
        return (i % 3,)

    def read(self, i, num_samples, position):
        self.reads.append(i)
        # Later examples finish first: the order must not come from who is ready.
        time.sleep(self.slow_s or 0.01 * (i % 3 == 0))
        if i in self.bad:
            raise BadAudio("empty file")
        if i == self.broken:
            raise RuntimeError("a mistake in the source")
        length = min(100 + 60 * i, num_samples)
        where = 0.5 if position is None else position
        return np.full(length, (i + 1) / 1000 + where / 10, np.float32)


def config_of(batch_size=4, multi_label=False, **data):
    config = base.get_config()
    config.features.sample_rate = RATE
    config.classifier.multi_label = multi_label
    config.data.clip_s = CLIP / RATE
    config.data.batch_size = config.data.eval_batch_size = batch_size
    config.data.workers, config.data.prefetch = 3, 2
    config.data.update(data)
    return config


def spec_of(*args, **fields):
    return host_loader.loader_spec(config_of(*args, **fields))


def report_of(path=None, max_share=1.0):
    return BadAudioReport(path, max_share)


def take(loader, source, spec, start=0, steps=5, report=None, **hosts):
    batches = loader.train_batches(source, spec, start, report or report_of(), **hosts)
    taken = list(itertools.islice(batches, steps))
    batches.close()
    return taken


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert list(a) == list(b)
        for key in a:
            assert a[key].dtype == b[key].dtype, key
            assert a[key].shape == b[key].shape, key
            assert a[key].tobytes() == b[key].tobytes(), key


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("multi_label", [False, True])
def test_both_loaders_train_on_the_same_bytes(start, multi_label):
    spec = spec_of(multi_label=multi_label)
    source = Ramps(bad=(2,))
    assert_same(*(take(m, source, spec, start) for m in (host_loader, input_pipeline)))


def test_balanced_batches_are_the_same_bytes_and_split_over_hosts():
    spec, source = spec_of(4, balanced=True), Ramps(7)
    threads, tf = (take(m, source, spec, 2, 3) for m in (host_loader, input_pipeline))
    assert_same(threads, tf)
    plain = take(host_loader, source, spec_of(4), 2, 3)
    assert any((a["index"] != b["index"]).any() for a, b in zip(threads, plain, strict=True))
    hosts = [take(host_loader, source, spec, 2, 3, host=h, num_hosts=2) for h in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*hosts, strict=True)]
    assert_same(threads, joined)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_clip_without_a_label_is_drawn_where_it_is_an_answer(multi_label):
    source = Ramps(6)
    source.labels = lambda i: (i,) if i < 3 else ()
    spec = spec_of(4, multi_label=multi_label, balanced=True)
    plan = host_loader.train_plan(source, spec, 0, 1)
    drawn = {int(i) for step in range(20) for i in plan(step)[0]}
    assert drawn == set(range(6 if multi_label else 3))


def test_balance_needs_labels():
    with pytest.raises(DataError, match=r"config\.data\.balanced needs labels"):
        take(host_loader, Ramps(7, ()), spec_of(4, balanced=True))


@pytest.mark.parametrize("label_names", [(), ("a", "b", "c")])
def test_both_loaders_evaluate_on_the_same_bytes(label_names):
    spec, source = spec_of(), Ramps(10, label_names, bad=(5,))
    threads, tf = (
        list(loader.eval_batches(source, spec, report_of()))
        for loader in (host_loader, input_pipeline)
    )
    assert len(threads) == 3
    assert_same(threads, tf)


def test_both_loaders_agree_on_real_files(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for i in range(6):
        audio = rng.uniform(-1.2, 1.2, 3000 + 500 * i)
        soundfile.write(tmp_path / f"{i}.wav", audio, 2205, subtype="FLOAT")
        lines.append(f"{i}.wav,{i % 2}")
    (tmp_path / "broken.wav").touch()
    (tmp_path / "m.csv").write_text("\n".join([*lines, "broken.wav,1"]))
    config = config_of(manifest=str(tmp_path / "m.csv"))
    config.task = "finetune"
    source, spec = open_sources(source_spec(config)).train, host_loader.loader_spec(config)
    taken = [take(loader, source, spec) for loader in (host_loader, input_pipeline)]
    assert_same(*taken)
    assert abs(taken[0][0]["audio"]).max() > 10000


@LOADERS
@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_share_one_global_batch(loader, num_hosts):
    spec, source = spec_of(8), Ramps(11)
    whole = [
        take(host_loader, source, spec, 2, 3),
        list(host_loader.eval_batches(source, spec, report_of())),
    ]
    parts = [
        (
            take(loader, source, spec, 2, 3, host=host, num_hosts=num_hosts),
            list(loader.eval_batches(source, spec, report_of(), host, num_hosts)),
        )
        for host in range(num_hosts)
    ]
    for kind in (0, 1):
        joined = [
            {key: np.concatenate([rows[key] for rows in step]) for key in step[0]}
            for step in zip(*(part[kind] for part in parts), strict=True)
        ]
        assert_same(joined, whole[kind])


@LOADERS
def test_a_batch_must_split_over_the_hosts(loader):
    for make in (
        lambda: loader.train_batches(Ramps(), spec_of(6), 0, report_of(), 0, 4),
        lambda: loader.eval_batches(Ramps(), spec_of(6), report_of(), 0, 4),
    ):
        with pytest.raises(DataError, match="does not split over 4 hosts"):
            make()


@LOADERS
def test_resuming_gives_the_batches_that_would_have_come(loader):
    spec = spec_of(3)  # does not divide 7: step 4 is in the middle of the second epoch
    assert_same(take(loader, Ramps(), spec, 0, 9)[4:], take(loader, Ramps(), spec, 4, 5))


@LOADERS
def test_an_epoch_shows_every_example_once(loader):
    batches = take(loader, Ramps(), spec_of(3), 0, 14)
    seen = np.concatenate([batch["index"] for batch in batches])
    epochs = seen.reshape(6, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    levels = {b["audio"][row, 0] - 33 * int(b["index"][row]) for b in batches for row in range(3)}
    assert len(levels) > 21  # crops differ between epochs


@LOADERS
def test_what_a_row_holds(loader):
    first, second = loader.eval_batches(Ramps(6, bad=(2,)), spec_of(), report_of())
    assert {key: (str(v.dtype), v.shape) for key, v in first.items()} == {
        "audio": ("int16", (4, CLIP)),
        "num_samples": ("int32", (4,)),
        "valid": ("float32", (4,)),
        "index": ("int32", (4,)),
        "labels": ("int32", (4,)),
    }
    assert first["valid"].tolist() == [1, 1, 0, 1]
    assert first["num_samples"].tolist() == [100, 160, 0, 250]
    assert first["index"].tolist() == [0, 1, 0, 3]
    assert first["labels"].tolist() == [0, 1, 0, 0]
    for row, i in ((0, 0), (1, 1), (3, 3)):
        n = first["num_samples"][row]
        assert (first["audio"][row, :n] == np.rint(32768 * ((i + 1) / 1000 + 0.05))).all()
        assert not first["audio"][row, n:].any()
    assert not first["audio"][2].any()
    assert second["valid"].tolist() == [1, 1, 0, 0]
    assert second["index"].tolist() == [4, 5, 0, 0]
    assert not any(value[2:].any() for value in second.values())


@LOADERS
def test_multi_hot_labels_and_no_labels(loader):
    spec = spec_of(multi_label=True)
    (batch,) = loader.eval_batches(Ramps(3), spec, report_of())
    assert batch["labels"].dtype == np.float32
    assert batch["labels"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    (batch,) = loader.eval_batches(Ramps(3, ()), spec, report_of())
    assert set(batch) == {"audio", "num_samples", "valid", "index"}


@LOADERS
def test_a_batch_says_of_which_file_a_clip_is(loader):
    source = Ramps(6, (), bad=(2,))
    source.whole = lambda i: 2**64 - 1 - i // 2
    config = config_of(multi_label=False)
    spec = host_loader.loader_spec(config, distinct=True)
    first, second = loader.eval_batches(source, spec, report_of())
    assert first["file"].dtype == np.int32
    assert first["file"].tolist() == [-1, -1, 0, -2]
    assert second["file"].tolist() == [-3, -3, 0, 0]
    for batch in take(loader, source, spec, steps=3):
        here = batch["valid"] > 0
        np.testing.assert_array_equal(batch["file"][here], -1 - batch["index"][here] // 2)


@LOADERS
def test_clips_of_one_file_have_none_to_be_told_from(loader):
    source = Ramps(6, ())
    config = config_of(multi_label=False)
    spec = host_loader.loader_spec(config, distinct=True)
    source.whole = lambda i: 7
    with pytest.raises(DataError, match=r"the 6 clips to train on, .*, are of one file.*wav2vec2"):
        take(loader, source, spec, steps=1)
    source.whole = lambda i: i // 5
    take(loader, source, spec, steps=1)
    source.whole = lambda i: 7
    take(loader, source, host_loader.loader_spec(config), steps=1)


def test_held_out_clips_of_one_file_are_warned_of(caplog):
    source = Ramps(6, ())
    host_loader.check_held_out(source)
    assert not caplog.records
    source.whole = lambda i: 7
    host_loader.check_held_out(source)
    assert "the held-out clips are of one file" in caplog.text


def test_loud_samples_are_clipped_and_unlabelled_rows_left_out():
    class Loud(Ramps):
        def labels(self, i):
            return () if i == 1 else (0,)

        def read(self, i, num_samples, position):
            return np.float32([0, 1, -1, 1e30, -7, 0.5])

    report = report_of()
    batch = host_loader.example_batch(Loud(), [0, 1], None, [True, True], 8, False, report)
    assert batch["audio"][0].tolist() == [0, 32767, -32768, 32767, -32768, 16384, 0, 0]
    assert batch["valid"].tolist() == [1, 0]
    assert report.num_bad == 1


@LOADERS
def test_bad_audio_is_listed_and_too_much_of_it_stops_the_run(loader, tmp_path):
    path = tmp_path / "bad_audio.csv"
    list(loader.eval_batches(Ramps(60, bad=(3, 50)), spec_of(), report_of(path, 0.2)))
    with open(path, encoding="utf-8", newline="") as file:
        assert sorted(csv.reader(file)) == [
            ["3.wav", "empty file"],
            ["50.wav", "empty file"],
            ["path", "reason"],
        ]
    source = Ramps(200, bad=range(0, 200, 2))
    with pytest.raises(DataError, match=r"audio files read so far cannot be used .*max_bad_share"):
        list(loader.eval_batches(source, spec_of(), report_of(path, 0.2)))
    assert len(source.reads) < 60
    with pytest.raises(DataError, match="5 of the 5"):
        list(loader.eval_batches(Ramps(5, bad=range(5)), spec_of(), report_of()))


@LOADERS
def test_a_mistake_in_a_source_reaches_the_consumer(loader):
    with pytest.raises(RuntimeError, match="a mistake in the source"):
        take(loader, Ramps(broken=3), spec_of())


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("read-audio")]


def test_threads_end_with_the_iterator():
    batches = host_loader.train_batches(Ramps(slow_s=0.05), spec_of(32), 0, report_of())
    next(batches)
    assert reading_threads()
    begin = time.perf_counter()
    batches.close()
    assert time.perf_counter() - begin < 1.0  # not the 64 clips still ahead
    assert not reading_threads()
    list(host_loader.eval_batches(Ramps(), spec_of(), report_of()))
    with pytest.raises(RuntimeError):
        take(host_loader, Ramps(broken=3), spec_of())
    gc.collect()
    assert not reading_threads()


def test_tf_data_stops_reading_when_closed():
    source = Ramps(slow_s=0.01)
    batches = input_pipeline.train_batches(source, spec_of(), 0, report_of())
    next(batches)
    batches.close()
    gc.collect()
    time.sleep(0.3)
    count = len(source.reads)
    time.sleep(0.3)
    assert len(source.reads) == count


@LOADERS
def test_batches_are_read_ahead_but_not_without_end(loader):
    source = Ramps(slow_s=0.001)
    batches = loader.train_batches(source, spec_of(), 0, report_of())
    next(batches)
    time.sleep(0.5)
    assert 8 < len(source.reads) <= 4 * 6
    batches.close()


def test_pick():
    assert host_loader.pick("threads") is host_loader
    assert host_loader.pick("tf") is host_loader.pick("auto") is input_pipeline
    with pytest.raises(DataError, match="loader is 'grain': use"):
        host_loader.pick("grain")


def test_threads_need_no_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None
from conformer_jax.data import host_loader
assert host_loader.pick("auto") is host_loader
assert host_loader.pick("threads") is host_loader
try:
    host_loader.pick("tf")
except host_loader.DataError as e:
    assert "pip install tensorflow-cpu" in str(e)
else:
    raise SystemExit("pick('tf') found TensorFlow")
assert not {"jax", "conformer_jax.data.input_pipeline"} & set(sys.modules)
"""
    root = Path(host_loader.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_keras_is_imported_by_who_asks_for_it():
    program = """
import sys
from conformer_jax.data import input_pipeline
assert "keras" not in sys.modules, "imported, and not used"
import keras
assert input_pipeline.tf.keras.layers.Dense is keras.layers.Dense
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_process_may_fail_with_an_open_tf_iterator():
    """Without care TensorFlow's threads turn the exit into an abort, or hang it."""
    script = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, "."]
from test_input_pipeline import *
batches = input_pipeline.train_batches(Ramps(), spec_of(), 0, report_of())
next(batches)
1 / 0
"""
    root = Path(host_loader.__file__).parents[2]
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "terminate" not in done.stderr
