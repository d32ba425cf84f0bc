"""Reading audio: every kind of bad file, formats, rates, crops; labels and their selection."""

import csv
import math
import threading

import numpy as np
import pytest
import soundfile

from configs import base
from conformer_jax.data import sources
from conformer_jax.data.audio import read_audio
from conformer_jax.data.content import of_name
from conformer_jax.data.manifest import read_manifest
from conformer_jax.data.sources import (
    BadAudio,
    BadAudioReport,
    DataError,
    ManifestSource,
    Subset,
    TfdsSource,
    open_sources,
    source_spec,
)

RATE = 16000


def tone(seconds=1.0, rate=RATE, hz=1000.0, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def save(path, audio, rate=RATE, file_format="WAV", subtype=None):
    """Writes content of `file_format` under any name."""
    with open(path, "wb") as file:
        soundfile.write(file, audio, rate, format=file_format, subtype=subtype)
    return path


def peak_hz(audio, rate=RATE):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return np.argmax(spectrum) * rate / len(audio)


def reason(path, **crop):
    with pytest.raises(BadAudio) as info:
        read_audio(path, RATE, **crop)
    return str(info.value)


def config_of(**data):
    """The shipped defaults, with fields of `data` replaced; `task` and `multi_label` too."""
    config = base.get_config()
    config.task = data.pop("task", "pretrain")
    config.classifier.multi_label = data.pop("multi_label", False)
    config.data.update(data)
    return config


# Bad files.


def test_files_that_are_no_audio(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert reason(tmp_path / "empty.wav") == "empty file"
    for name in ("text.wav", "text.mp3", "text.gsm", "text.raw", "text.au"):
        (tmp_path / name).write_text("this is not a sound\n" * 100)
        assert reason(tmp_path / name).startswith("not audio or unknown format")
    assert reason(tmp_path / "missing.wav") == "file not found"
    assert reason(tmp_path).startswith("cannot be opened")


def test_no_samples(tmp_path):
    assert reason(save(tmp_path / "zero.wav", tone()[:0])) == "no samples"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_not_finite(tmp_path, value, rate):
    audio = tone(rate=rate)
    audio[3000] = value
    path = save(tmp_path / "nan.wav", audio, rate, subtype="FLOAT")
    assert reason(path) == "contains NaN or infinity"


@pytest.mark.parametrize("file_format", ["FLAC", "OGG", "WAV", "AIFF", "MP3"])
def test_truncated(tmp_path, file_format):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype("f4")
    path = save(tmp_path / "a.wav", noise, file_format=file_format)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    words = reason(path)
    known = ("truncated: ", "cannot be decoded", "not audio or unknown format", "no samples")
    assert words.startswith(known)
    if file_format == "WAV":
        assert words == "truncated: 15989 of 32000 samples"


def test_a_streamed_wav_header_is_no_truncation(tmp_path):
    path = save(tmp_path / "a.wav", tone())
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path, RATE)) == RATE


# Formats, channels, rates.


@pytest.mark.parametrize("file_format", ["MP3", "OGG", "FLAC", "AIFF", "CAF"])
@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a.gsm", "a"])
def test_content_counts_not_the_name(tmp_path, file_format, name):
    audio = read_audio(save(tmp_path / name, tone(), file_format=file_format), RATE)
    assert audio.dtype == np.float32
    assert audio.shape == (RATE,)
    assert abs(peak_hz(audio) - 1000) <= 1


@pytest.mark.parametrize("rate", [RATE, 8000, 48000, 96000])
def test_one_sample_is_audio(tmp_path, rate):
    audio = read_audio(save(tmp_path / "one.wav", np.float32([0.5]), rate), RATE)
    assert 1 <= len(audio) <= 2
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_full_scale_is_one(tmp_path, subtype):
    audio = read_audio(save(tmp_path / "a.wav", tone(level=1.0), subtype=subtype), RATE)
    np.testing.assert_allclose(audio, tone(level=1.0), atol=0.01)


def test_96_khz_with_6_channels(tmp_path):
    burst = np.zeros((96000 * 2, 6), np.float32)
    burst[96000:144000] = tone(0.5, 96000, level=0.6)[:, None]
    burst[:, 1::2] *= 0.5
    audio = read_audio(save(tmp_path / "a.wav", burst, 96000, subtype="PCM_24"), RATE)
    assert len(audio) == 2 * RATE
    assert abs(peak_hz(audio[RATE : RATE + RATE // 2]) - 1000) <= 2
    energy = (audio**2).reshape(4, -1).mean(axis=1)  # of each half second
    assert energy[2] == pytest.approx((0.75 * 0.6) ** 2 / 2, rel=0.01)
    assert energy[[0, 1, 3]].max() < 1e-3 * energy[2]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101])
def test_resampling_keeps_pitch_level_and_duration(tmp_path, rate):
    audio = read_audio(save(tmp_path / "a.wav", tone(1.5, rate), rate), RATE)
    assert abs(len(audio) - 1.5 * RATE) <= 1
    assert abs(peak_hz(audio) - 1000) <= 1
    assert np.std(audio[4000:-4000]) == pytest.approx(0.3 / math.sqrt(2), rel=0.01)


# Crops.


@pytest.mark.parametrize("position", [0.0, 0.3, 0.5, 0.999999])
def test_a_crop_starts_where_position_says(tmp_path, position):
    ramp = (np.arange(10 * RATE) / (10 * RATE)).astype("f4")
    path = save(tmp_path / "ramp.wav", ramp, subtype="FLOAT")
    audio = read_audio(path, RATE, 2 * RATE, position)
    start = int(position * (8 * RATE + 1))
    np.testing.assert_array_equal(audio, ramp[start : start + 2 * RATE])


def test_crops_reach_every_start_and_evaluation_takes_the_middle(tmp_path):
    path = save(tmp_path / "a.wav", np.arange(10) / 16, subtype="FLOAT")
    starts = [read_audio(path, RATE, 8, p)[0] * 16 for p in (0.0, 0.32, 0.34, 0.66, 0.67, 0.99)]
    assert starts == [0, 0, 1, 1, 2, 2]
    assert read_audio(path, RATE, 8, None)[0] * 16 == 1
    assert len(read_audio(path, RATE, 11, 0.9)) == 10


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
@pytest.mark.parametrize("position", [0.0, 0.37, None, 0.999999])
def test_a_resampled_crop_is_the_crop_of_the_resampled_file(tmp_path, rate, position):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate).astype("f4")
    path = save(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole = read_audio(path, RATE)
    crop = read_audio(path, RATE, 12345, position)
    starts = len(whole) - 12345 + 1
    start = (starts - 1) // 2 if position is None else int(position * starts)
    np.testing.assert_allclose(crop, whole[start : start + 12345], atol=1e-5)


@pytest.mark.parametrize("file_format", ["MP3", "OGG", "FLAC"])
def test_a_crop_of_a_compressed_file(tmp_path, file_format):
    path = save(tmp_path / "a.wav", tone(5.0), file_format=file_format)
    crop = read_audio(path, RATE, RATE, 0.4)
    start = int(0.4 * (4 * RATE + 1))
    np.testing.assert_allclose(crop, read_audio(path, RATE)[start : start + RATE], atol=1e-6)


# Manifests as sources.


def write_manifest(folder, records, columns="path,label,fold"):
    """The manifest, and an empty file for every record."""
    for name, *_ in records:
        (folder / name).touch()
    path = folder / "manifest.csv"
    path.write_text("\n".join([columns, *(",".join(record) for record in records)]) + "\n")
    return str(path)


def labelled_manifest(folder, n=30):
    return write_manifest(folder, [(f"{i}.wav", "abc"[i % 3], str(i % 5 + 1)) for i in range(n)])


def labels_of(source):
    return [source.labels(i) for i in range(len(source))]


def ids_of(source):
    return [source.example_id(i) for i in range(len(source))]


def error_of(config, label_names=None):
    with pytest.raises(DataError) as info:
        open_sources(source_spec(config), label_names)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_a_manifest_source_reads_its_files(tmp_path):
    save(tmp_path / "a.wav", tone(2.0))
    manifest = write_manifest(tmp_path, [("a.wav", "x;y", ""), ("no.wav", "y", "")])
    (tmp_path / "no.wav").unlink()
    source = ManifestSource(read_manifest(manifest), RATE, ("x", "y"))
    assert (len(source), source.sample_rate, source.label_names) == (2, RATE, ("x", "y"))
    assert ids_of(source) == ["a.wav", "no.wav"]
    assert labels_of(source) == [(0, 1), (1,)]
    assert source.read(0, 1000, 0.5).shape == (1000,)
    with pytest.raises(BadAudio, match="file not found"):
        source.read(1, 1000, 0.5)


def test_a_manifest_whose_files_are_gone_is_refused_before_anything_is_compiled(tmp_path):
    manifest = labelled_manifest(tmp_path)
    for i in range(15):
        (tmp_path / f"{i}.wav").rename(tmp_path / f"{i}.old")
    with pytest.raises(DataError, match=r"15 of 30 files looked at do not exist, such as .*0\.wav"):
        open_sources(source_spec(config_of(manifest=manifest)))
    (tmp_path / "0.old").rename(tmp_path / "0.wav")  # the rest is the bad-audio report's
    assert sum(map(len, open_sources(source_spec(config_of(manifest=manifest))))) == 30


@pytest.mark.parametrize("field", ["train_folds", "eval_folds"])
def test_folds_without_a_corpus_are_not_those_of_the_synthetic_one(field):
    words = error_of(config_of(**{field: ("4",)}))
    assert "fold '4', and no corpus" in words
    assert "--config.data.manifest=FILE" in words
    assert f"has none (--config.data.{field}= to hear it)" in words


def test_pretraining_ignores_labels(tmp_path):
    manifest = labelled_manifest(tmp_path)
    train, held_out = open_sources(source_spec(config_of(manifest=manifest, eval_share=0.1)))
    assert train.label_names == ()
    assert train.labels(0) == ()
    assert sorted(ids_of(train) + ids_of(held_out)) == sorted(f"{i}.wav" for i in range(30))
    config = config_of(task="finetune", manifest=manifest, eval_share=0.1)
    assert ids_of(open_sources(source_spec(config)).held_out) == ids_of(held_out)


def test_fine_tuning_takes_labelled_rows_and_sorted_names(tmp_path):
    records = [("1.wav", "b", "1"), ("2.wav", "", "1"), ("3.wav", "a", "1"), ("4.wav", "c", "2")]
    manifest = write_manifest(tmp_path, records)
    train, held_out = open_sources(
        source_spec(config_of(task="finetune", manifest=manifest, eval_folds=("2",)))
    )
    assert train.label_names == held_out.label_names == ("a", "b", "c")
    assert (ids_of(train), labels_of(train)) == (["1.wav", "3.wav"], [(1,), (0,)])
    assert labels_of(held_out) == [(2,)]


def test_clips_without_a_label_are_negatives_where_clips_have_several(tmp_path):
    records = [(f"{i}.wav", ("a;b", "b", "", "")[i % 4], str(i // 20)) for i in range(40)]
    data = {"manifest": write_manifest(tmp_path, records), "eval_folds": ("1",)}
    data |= {"task": "finetune", "multi_label": True}
    train, held_out = open_sources(source_spec(config_of(**data)))
    assert labels_of(train) == labels_of(held_out) == [(0, 1), (1,), (), ()] * 5
    few = source_spec(config_of(**data, label_share=0.2))
    assert labels_of(open_sources(few).train).count(()) == 2
    fewest = source_spec(config_of(**data, label_share=0.01))  # of each class at least one
    assert {(0, 1), ()} <= {*labels_of(open_sources(fewest).train)}
    for source in open_sources(source_spec(config_of(**data, unlabelled="skip"))):
        assert labels_of(source) == [(0, 1), (1,)] * 5
    data["multi_label"] = False  # one label a clip: none is no answer
    records = [(name, label[:1], fold) for name, label, fold in records]
    write_manifest(tmp_path, records)
    for source in open_sources(source_spec(config_of(**data))):
        assert labels_of(source) == [(0,), (1,)] * 5


def test_a_checkpoint_fixes_the_order_of_labels(tmp_path):
    config = config_of(task="finetune", manifest=labelled_manifest(tmp_path))
    train, _ = open_sources(source_spec(config), label_names=("c", "b", "z", "a"))
    assert train.label_names == ("c", "b", "z", "a")
    names = {train.example_id(i): train.label_names[train.labels(i)[0]] for i in range(len(train))}
    assert all(name == "abc"[int(i.split(".")[0]) % 3] for i, name in names.items())
    words = error_of(config, label_names=("a", "b", "cc"))
    assert "label 'c' is unknown to the checkpoint; nearest is 'cc' (it knows a, b, cc)" in words


def test_fine_tuning_without_labels(tmp_path):
    manifest = write_manifest(tmp_path, [("a.wav",), ("b.wav",)], columns="path")
    words = error_of(config_of(task="finetune", manifest=manifest))
    assert words == f"{manifest} has no labels to fine-tune on: fill its column 'label'"


def test_several_labels_need_the_multi_label_head(tmp_path):
    manifest = write_manifest(tmp_path, [(f"{i}.wav", "a;b", "") for i in range(4)])
    words = error_of(config_of(task="finetune", manifest=manifest))
    assert ".wav has more than one label: set --config.classifier.multi_label=True" in words
    train, _ = open_sources(
        source_spec(config_of(task="finetune", manifest=manifest, multi_label=True))
    )
    assert train.labels(0) == (0, 1)


def test_contradicting_fields(tmp_path):
    config = config_of(manifest=labelled_manifest(tmp_path), tfds_name="x")
    assert "config.data.manifest and config.data.tfds_name" in error_of(config)


def test_labels_per_class(tmp_path):
    manifest = labelled_manifest(tmp_path)
    chosen = []
    for seed in (0, 0, 1):
        config = config_of(
            task="finetune", manifest=manifest, eval_folds=("1",), labels_per_class=2
        )
        config.seed = seed
        train, held_out = open_sources(source_spec(config))
        assert sorted(labels_of(train)) == [(0,)] * 2 + [(1,)] * 2 + [(2,)] * 2
        assert len(held_out) == 6
        chosen.append(ids_of(train))
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_synthetic_corpus(tmp_path):
    config = config_of(task="finetune", multi_label=True, labels_per_class=1)
    config.synthetic.num_train, config.synthetic.num_eval = 200, 3
    train, held_out = open_sources(source_spec(config))
    names = train.label_names
    assert len(held_out) == 3
    counts = np.bincount([c for i in range(len(train)) for c in train.labels(i)])
    assert len(counts) == len(names)
    assert counts.min() >= 1
    assert len(train) <= len(names)

    mirrored, _ = open_sources(source_spec(config), label_names=names[::-1])
    assert mirrored.label_names == names[::-1]
    assert mirrored.labels(0) == tuple(len(names) - 1 - c for c in train.labels(0))
    np.testing.assert_array_equal(mirrored.read(0, 500, 0.5), train.read(0, 500, 0.5))

    config.task = "pretrain"
    train, _ = open_sources(source_spec(config))
    assert (len(train), train.label_names, train.labels(0)) == (200, (), ())


def test_subset_maps_indices():
    class Numbers(sources.Source):
        sample_rate = RATE
        label_names = ("even", "odd")

        def __len__(self):
            return 10

        def example_id(self, i):
            return str(i)

        def labels(self, i):
            return (i % 2,)

        def read(self, i, num_samples, position):
            return np.full(num_samples, i, np.float32)

    part = Subset(Numbers(), [7, 2], ("odd", "other", "even"))
    assert (len(part), ids_of(part), labels_of(part)) == (2, ["7", "2"], [(0,), (2,)])
    assert part.read(1, 3, None).tolist() == [2, 2, 2]
    assert labels_of(Subset(Numbers(), [7, 2])) == [(1,), (0,)]
    assert Subset(Numbers(), [7], ()).labels(0) == ()


# TFDS.


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A prepared data set: 8 kHz, 12 clips of 1000 + 100 i samples of value 1000 i."""
    import tensorflow_datasets as tfds

    class TinySounds(tfds.core.GeneratorBasedBuilder):
        # Of a module in a package TFDS looks for the folder with what is not installed here.
        __module__ = "test_sources"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            audio = tfds.features.Audio(shape=(None,), sample_rate=8000)
            label = tfds.features.ClassLabel(names=["zebra", "ape"])
            features = tfds.features.FeaturesDict({"audio": audio, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(12),
                "test": self._generate_examples(3),
                "1": self._generate_examples(2),
            }

        def _generate_examples(self, n):
            for i in range(n):
                audio = np.full(1000 + 100 * i, 1000 * i, np.int64)
                yield i, {"audio": audio, "label": i % 2}

    folder = str(tmp_path_factory.mktemp("tfds"))
    TinySounds(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_tfds_split(tfds_dir):
    source = TfdsSource("tiny_sounds", "train", tfds_dir, RATE)
    assert (len(source), source.label_names) == (12, ("zebra", "ape"))
    seen = set()
    for i in range(12):
        audio = source.read(i, 10**6, 0.0)
        key = (len(audio) // 2 - 1000) // 100
        seen.add(key)
        assert len(audio) == 2 * (1000 + 100 * key)
        np.testing.assert_allclose(audio[500:-500], 1000 * key / 2**15, atol=1e-3)
        assert source.labels(i) == (key % 2,)
    assert seen == set(range(12))
    assert len(source.read(0, 600, 0.7)) == 600
    assert source.example_id(3) == "tiny_sounds/train/3"


def test_an_example_is_known_again_in_a_slice_of_its_split(tfds_dir):
    whole = TfdsSource("tiny_sounds", "train", tfds_dir, RATE)
    contents = [whole.content(i) for i in range(12)]
    assert contents == [of_name(whole.example_id(i)) for i in range(12)]  # as it always was
    for split, expected in (("train[25%:]", range(3, 12)), ("test[1:]+train[:5]", range(5))):
        part = TfdsSource("tiny_sounds", split, tfds_dir, RATE)
        of_train = [(i, part.content(i)) for i in range(len(part)) if part.content(i) in contents]
        assert [contents.index(found) for _, found in of_train] == list(expected)
        for i, found in of_train:
            same = whole.read(contents.index(found), 10**6, 0.0)
            np.testing.assert_array_equal(part.read(i, 10**6, 0.0), same)


def test_tfds_splits_by_config(tfds_dir):
    data = {"tfds_name": "tiny_sounds", "tfds_dir": tfds_dir}
    train, held_out = open_sources(source_spec(config_of(**data, eval_share=0.25)))
    assert (len(train), len(held_out), train.label_names) == (9, 3, ())
    assert not set(ids_of(train)) & set(ids_of(held_out))
    train, held_out = open_sources(
        source_spec(config_of(**data, task="finetune", eval_folds=("test",), labels_per_class=2))
    )
    assert (len(train), len(held_out), train.label_names) == (4, 3, ("zebra", "ape"))
    # As --config.data.eval_folds=1 arrives.
    one = source_spec(config_of(**data, eval_folds=(1,), train_folds=("test",)))
    assert len(open_sources(one)[1]) == 2
    train, _ = open_sources(
        source_spec(config_of(**data, task="finetune")), label_names=("ape", "zebra")
    )
    assert {train.labels(i) for i in range(len(train))} == {(0,), (1,)}
    assert "label 'zebra' is unknown" in error_of(
        config_of(**data, task="finetune"), label_names=("ape",)
    )


def test_tfds_that_cannot_be_opened(tfds_dir):
    data = {"tfds_name": "no_such_sounds", "tfds_dir": tfds_dir}
    words = error_of(config_of(**data))
    assert "config.data.tfds_name: cannot open no_such_sounds" in words
    words = error_of(config_of(tfds_name="tiny_sounds", tfds_dir=tfds_dir, eval_folds=("dev",)))
    assert "dev" in words


# The report on bad audio.


def listed(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [tuple(record) for record in csv.reader(file)]


def test_bad_files_are_listed_once_and_at_once(tmp_path):
    path = tmp_path / "run" / "bad_audio.csv"
    report = BadAudioReport(path, 0.5)
    report.ok("fine.wav")
    for _ in range(3):
        report.bad("a,b.wav", "empty file")
    assert listed(path) == [("path", "reason"), ("a,b.wav", "empty file")]
    resumed = BadAudioReport(path, 0.5)
    resumed.ok("fine.wav")
    resumed.bad("a,b.wav", "empty file")
    resumed.bad("c.wav", "no samples")
    assert listed(path)[1:] == [("a,b.wav", "empty file"), ("c.wav", "no samples")]
    assert (report.num_bad, resumed.num_bad) == (1, 2)


def test_the_run_stops_over_the_share_and_not_before(tmp_path):
    report = BadAudioReport(tmp_path / "bad.csv", 0.25)
    for epoch in range(3):  # the same files again are no new evidence
        for i in range(15):
            report.ok(f"good{i}")
        for i in range(4):
            report.bad(f"bad{i}", "empty file")
        assert report.num_bad == 4, epoch
    report.bad("bad4", "empty file")  # 5 of 20
    with pytest.raises(DataError) as info:
        report.bad("bad5", "no samples")
    assert "6 of the 21 audio files" in str(info.value)
    assert "(29%; listed in" in str(info.value)
    assert "--config.data.max_bad_share (now 0.25)" in str(info.value)
    assert "\n" not in str(info.value)


def test_a_source_without_one_good_file_stops_the_run():
    small = BadAudioReport(None, 0.05)
    small.bad("a", "empty file", source_size=2)
    with pytest.raises(DataError, match="2 of the 2 audio files"):
        small.bad("b", "empty file", source_size=2)
    large = BadAudioReport(None, 1.0)
    for i in range(19):
        large.bad(str(i), "empty file", source_size=1000)
    with pytest.raises(DataError, match="20 of the 20"):
        large.bad("19", "empty file", source_size=1000)
    mixed = BadAudioReport(None, 0.05)
    mixed.ok("good")
    mixed.bad("b", "empty file", source_size=2)


def test_the_report_counts_across_threads(tmp_path):
    report = BadAudioReport(tmp_path / "bad.csv", 0.9)
    report.ok("good")

    def work(k):
        for i in range(20):
            report.ok(f"good{k}-{i}")
            report.bad(f"bad{i}", "empty file")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert report.num_bad == 20
    assert len(listed(tmp_path / "bad.csv")) == 21


def test_a_list_of_bad_audio_that_is_damaged_is_named_and_begun_anew(tmp_path, caplog):
    file = tmp_path / "bad_audio.csv"
    for content in (b"\xff\x00\xfe", b"path,reason\n\x80" * 3, b'"' + 200_000 * b"x", b"path\na\n"):
        caplog.clear()
        file.write_bytes(content)
        report = BadAudioReport(file, 0.5)
        (record,) = caplog.records
        assert f"{file} is damaged" in record.message
        assert "\n" not in record.message
        report.bad("odd \udce9.wav", "empty")  # a name that is no text
        report.bad("b.wav", "empty, too")
    caplog.clear()
    again = BadAudioReport(file, 0.5)
    again.bad("odd \udce9.wav", "empty")
    assert caplog.text == ""
    lines = file.read_bytes().splitlines()
    assert lines == [b"path,reason", b"odd \xe9.wav,empty", b'b.wav,"empty, too"']
    again.forget()
    assert file.read_bytes().splitlines() == lines[:2]
