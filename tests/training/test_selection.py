"""The validation split, and how a run stands by it."""

import itertools

import numpy as np
import pytest

from configs import finetune, pretrain
from conformer_jax.data import content, manifest, mixture
from conformer_jax.data.sources import ManifestSource, Source
from conformer_jax.errors import UserError
from conformer_jax.training import selection


class Labels(Source):
    """Examples that only have labels."""

    sample_rate, label_names = 16000, ("a", "b", "c")

    def __init__(self, labels):
        self._labels = labels

    def __len__(self):
        return len(self._labels)

    def example_id(self, i):
        return str(i)

    def labels(self, i):
        return self._labels[i]


CLIPS = Labels([(i % 3,) for i in range(60)])


def config_of(module=finetune, share=0.0, patience=0, multi_label=False):
    config = module.get_config("smoke")
    config.data.validation_share, config.train.early_stopping = share, patience
    config.classifier.multi_label = multi_label
    return config


def carve(config, source):
    patience = config.train.early_stopping
    return selection.carve(
        config.data, source, task=config.task, patience=patience, seed=config.seed
    )


def test_a_share_of_each_class_is_carved_off_and_not_trained_on():
    train, validation = carve(config_of(share=0.25), CLIPS)
    ids = [[part.example_id(i) for i in range(len(part))] for part in (train, validation)]
    assert sorted(ids[0] + ids[1], key=int) == [str(i) for i in range(60)]
    found = [validation.labels(i)[0] for i in range(len(validation))]
    assert [found.count(c) for c in range(3)] == [5, 5, 5]
    assert train.label_names == validation.label_names == CLIPS.label_names


class Parts(Labels):
    """Ten parts of each of several recordings."""

    def whole(self, i):
        return i // 10


def test_parts_of_a_recording_are_validated_on_together(caplog):
    source = Parts([(i // 10 % 2,) for i in range(80)])
    train, validation = carve(config_of(share=0.25), source)
    ids = [{int(name) // 10 for name in part.ids()} for part in (train, validation)]
    assert not ids[0] & ids[1]
    assert {recording % 2 for recording in ids[1]} == {0, 1}  # of each class one of four
    assert (len(train), len(validation)) == (60, 20)
    assert "WARNING" not in caplog.text
    # One class has one recording, whose parts are told apart; the other is as before.
    train, validation = carve(config_of(share=0.2), Parts([(i >= 10,) for i in range(50)]))
    ids = [int(name) for name in validation.ids()]
    assert sum(i < 10 for i in ids) == 2
    assert len({i // 10 for i in ids if i >= 10}) == 1
    assert "WARNING parts of 1 recording(s) are trained on and validated with" in caplog.text
    assert "group(s)" not in caplog.text
    assert "so that recordings" not in caplog.text
    # Every label in each of two recordings.
    carve(config_of(share=0.1), Parts([(i % 3,) for i in range(20)]))
    assert "WARNING 10 of 20 clips are kept for validation, so that" in caplog.text


class Copies(Labels):
    """Each clip twice, of sources of their own, as a prepared corpus may have them."""

    def content(self, i):
        return i // 2

    def whole(self, i):
        return 1000 + i


def test_copies_of_two_sources_are_validated_on_together():
    train, validation = carve(config_of(share=0.25), Copies([(i // 2 % 3,) for i in range(60)]))
    assert not np.isin(train.contents(), validation.contents()).any()
    assert (len(train), len(validation)) == (48, 12)


def of_groups(files, group):
    """Four parts of each of `files` of two labels by turns; group: of the number of a file."""
    rows = []
    for file, part in itertools.product(range(files), range(4)):
        label, name = "ab"[file % 2], f"{file}.wav#t={part},{part + 1}"
        whole = content.of_name(f"{file}.wav")
        row = manifest.Row(f"{file}.wav", (label,), "", name, content.of_name(name), whole=whole)
        rows.append(row._replace(group=group(file)))
    return ManifestSource(rows, 16000, ("a", "b"))


def test_clips_of_a_group_are_validated_on_together(caplog):
    source = of_groups(24, group=lambda file: f"g{file // 3}")
    files = [{int(n.split(".")[0]) for n in p.ids()} for p in carve(config_of(share=0.25), source)]
    groups = [{file // 3 for file in part} for part in files]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 8
    assert "are trained on and validated with" not in caplog.text


def test_where_a_label_has_one_group_its_recordings_stay_whole(caplog):
    source = of_groups(20, group=lambda file: f"g{file % 2}")
    train, validation = carve(config_of(share=0.2), source)
    files = [{int(n.split(".")[0]) for n in part.ids()} for part in (train, validation)]
    assert not files[0] & files[1]
    assert sorted(file % 2 for file in files[1]) == [0, 0, 1, 1]
    said = "WARNING clips of 2 group(s) are trained on and validated with, since there is no second"
    assert said in caplog.text
    assert "recording(s)" not in caplog.text


def test_what_validates_is_trained_on_in_no_corpus_of_a_mixture(caplog):
    caplog.set_level("INFO")
    first, added = (of_groups(files, group=lambda file: "") for files in (20, 30))
    # Of the added one a clip in two, half of its files cut elsewhere.
    rows = [added._rows[i] for i in range(0, len(added), 2)]
    rows = [r._replace(content=r.content + i % 2) for i, r in enumerate(rows)]
    source = mixture.Joined([first, ManifestSource(rows, 16000, ("a", "b"))], ["", "added/"])
    train, validation = carve(config_of(share=0.2), source)
    file = lambda name: name.removeprefix("added/").split(".")[0]
    judging = {file(name) for name in validation.ids()}
    assert (len(judging), len(validation)) == (4, 16)
    assert not judging & {file(name) for name in train.ids()}
    assert len(train) == 80 - 16 + 60 - 8
    assert "8 clips of the other corpora are copies or parts of these and left out" in caplog.text


def test_a_run_that_goes_on_draws_the_same_clips():
    config = config_of(share=0.25)
    assert selection.drawn(config_of().data, carve(config_of(), CLIPS)) is None
    carved = carve(config, CLIPS)
    before = selection.drawn(config.data, carved)
    assert [part.tolist() for part in before] == [sorted(p.contents().tolist()) for p in carved]
    there = CLIPS.contents()
    selection.drawn(config.data, carve(config, CLIPS)).check(before, there)
    # A clip that is new may be used as it comes, one that was left out may not.
    new = before._replace(trained=np.append(before.trained, 7))
    new.check(before, there)
    with pytest.raises(UserError, match="1 clips would be trained on, validated with or left out"):
        new.check(before, np.append(there, 7))
    # Clips more, labels mended: others are drawn.
    for other in ([(i % 3,) for i in range(70)], [(i % 3 if i > 30 else 0,) for i in range(60)]):
        with pytest.raises(UserError, match="Begin in another --workdir"):
            selection.drawn(config.data, carve(config, Labels(other))).check(before, there)
    for field in ("label_share", "labels_per_class"):
        data = config_of().data
        data[field] = 1 if field == "labels_per_class" else 0.5
        assert len(selection.drawn(data, selection.Carved(CLIPS, None)).trained) == 60


def test_without_a_share_nothing_is_carved_off():
    assert carve(config_of(), CLIPS) == (CLIPS, None)
    assert carve(config_of(pretrain), CLIPS) == (CLIPS, None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (config_of(patience=3), r"train\.early_stopping needs .*validation_share=0\.1"),
        (config_of(pretrain, share=0.1), r"validation_share is for fine-tuning only"),
    ],
)
def test_fields_that_do_not_fit_are_named(config, words):
    with pytest.raises(UserError, match=words):
        carve(config, CLIPS)


def test_classes_of_one_clip_leave_nothing_to_validate_with():
    with pytest.raises(UserError, match="no class has a second clip"):
        carve(config_of(share=0.5), Labels([(0,), (1,), (2,)]))


def records(*values, metric="accuracy"):
    return [{"step": 10 * (i + 1), metric: value, "loss": 0.0} for i, value in enumerate(values)]


def judge(*values, patience=2):
    return selection.judge(records(*values), "accuracy", patience)


def test_the_first_of_equally_good_evaluations_is_the_best():
    assert judge(0.2) == (10, True, False, 0.2)
    assert judge(0.2, 0.5)[:3] == (20, True, False)
    assert judge(0.2, 0.5, 0.5)[:3] == (20, False, False)
    assert judge(0.2, 0.5, 0.5, 0.6)[:3] == (40, True, False)


def test_patience_counts_evaluations_without_improvement():
    assert not judge(0.5, 0.4).over
    assert judge(0.5, 0.4, 0.5).over
    assert not judge(0.5, 0.4, 0.6).over
    assert not judge(*[0.5] * 9, patience=0).over


def test_what_does_not_improve_ranks_below_all_that_did():
    """So that of equal checkpoints the best one is kept."""
    assert judge(0.0, 0.0).rank < judge(-5.0).rank


def test_a_value_that_is_not_finite_is_no_improvement():
    assert judge(0.1, None)[:2] == (10, False)
    assert judge(None, 0.1)[:2] == (20, True)


def test_several_labels_are_judged_by_map():
    assert [selection.judged_by(several) for several in (True, False)] == ["mAP", "accuracy"]
    scores = records(0.3, 0.2, metric="mAP")
    scores[0]["accuracy"], scores[1]["accuracy"] = 0.1, 0.9
    assert selection.judge(scores, "mAP", 0).best_step == 10
    assert selection.judge(scores, "accuracy", 0).best_step == 20
