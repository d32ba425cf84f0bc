"""Studies: which runs an arm needs, what it shares, what is written."""

import csv
import json

import pytest

from configs import study as study_config
from conformer_jax import study
from conformer_jax.errors import UserError
from conformer_jax.training import checkpoint, frozen, loop


class Runs:
    """Stands in for training: remembers what was run and returns made-up figures."""

    def __init__(self, monkeypatch):
        self.pretrained, self.tuned = [], []
        monkeypatch.setattr(loop, "train_and_evaluate", self.train)
        monkeypatch.setattr(frozen, "evaluate", self.probe)
        meta = {"config": {"features": {"mean": [1.0] * 64, "deviation": [2.0] * 64}}}
        monkeypatch.setattr(checkpoint, "read_meta", lambda _: meta)

    def train(self, config, workdir, prepared=None):
        if config.task == "pretrain":
            self.pretrained.append((config, workdir))
            return loop.Result({}, {}, config, None, 9)
        return self.probe(config, workdir, prepared)

    def probe(self, config, workdir, prepared):
        self.tuned.append((config, workdir))
        accuracy = 0.5 * config.data.label_share + (0.2 if config.init_from else 0.0)
        return loop.Result({}, {"accuracy": accuracy, "mAP": accuracy}, config, None, 9)


@pytest.fixture
def runs(monkeypatch):
    return Runs(monkeypatch)


def test_label_efficiency(runs, tmp_path):
    config = study_config.get_config("label_efficiency")
    config.finetune.init_from = "runs/mine"
    config.seeds = (0, 1)
    records = study.study(config, tmp_path)
    assert not runs.pretrained
    assert len({workdir for _, workdir in runs.tuned}) == len(records) == 5 * 2 * 2
    assert {r["share"] for r in records} == {0.1, 0.2, 1 / 3, 2 / 3, 1.0}
    for one, _ in runs.tuned:
        assert one.init_from in ("", "runs/mine")
        assert one.init_from or one.features.mean == (1.0,) * 64
    assert {one.seed for one, _ in runs.tuned} == {0, 1}
    written = json.loads((tmp_path / "label_efficiency.json").read_text())
    assert written["records"] == records
    assert (tmp_path / "label_efficiency.png").stat().st_size > 5000
    lines = study.table(records).splitlines()
    assert len(lines) == 1 + 10
    assert "all of the labels, pre-trained" in lines[-2]
    assert "0.700 +- 0.000" in lines[-2]


def test_arms_that_change_pre_training_get_their_own(runs, tmp_path):
    records = study.study(study_config.get_config("target"), tmp_path)
    assert [r["arm"] for r in records] == ["linear"] * 3 + ["gumbel"] * 3
    assert {c.target: w for c, w in runs.pretrained}.keys() == {"linear", "gumbel"}
    assert len({workdir for _, workdir in runs.pretrained}) == 2
    for one, _ in runs.tuned:
        assert one.init_from in {str(workdir) for _, workdir in runs.pretrained}
    assert not (tmp_path / "label_efficiency.json").exists()


def test_pre_training_may_hear_the_training_folds_but_not_the_test_fold(runs, tmp_path):
    for name, rows in (
        ("free", [("x.wav", "", ""), ("y.wav", "", "")]),
        ("labelled", [("a.wav", "dog", "1"), ("b.wav", "cat", "2"), ("c.wav", "dog", "3")]),
    ):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "m.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "fold"), *rows])
    config = study_config.get_config("corpus")
    config.pretrain.data.manifest = str(tmp_path / "free" / "m.csv")
    config.finetune.data.update(
        manifest=str(tmp_path / "labelled" / "m.csv"), eval_folds=("1",), train_folds=("2", "3")
    )
    study.study(config, tmp_path / "out")
    joined = [c.data.manifest for c, _ in runs.pretrained if c.data.manifest.endswith("s.csv")]
    assert names_in(joined[0]) == ["x.wav", "y.wav", "b.wav", "c.wav"]
    # With other folds it is another pre-training; and what is held out may not come in elsewhere.
    config.finetune.data.update(eval_folds=("2",), train_folds=("1", "3"))
    config.pretrain.data.manifest = config.finetune.data.manifest
    runs.pretrained.clear()
    study.study(config, tmp_path / "out")
    other = [c.data.manifest for c, _ in runs.pretrained if c.data.manifest.endswith("corpus.csv")]
    assert names_in(other[0]) == ["a.wav", "c.wav"]
    assert other[0] != joined[0]


def names_in(manifest):
    with open(manifest, newline="") as file:
        return [row["path"].rpartition("/")[2] for row in csv.DictReader(file)]


def test_pre_training_on_the_synthetic_corpus_by_mistake_is_refused(runs, tmp_path):
    config = study_config.get_config("target")
    config.finetune.data.manifest = "mine.csv"
    with pytest.raises(UserError, match=r"config\.pretrain\.data\.manifest is not set"):
        study.study(config, tmp_path)


@pytest.mark.parametrize(
    "change", ["finetun.seed", "scrach", "finetune.seed", "pretrain.init_from"]
)
def test_a_change_that_no_run_would_see_is_refused(change, runs, tmp_path):
    config = study_config.get_config("target")
    config.arms = (("odd", ((change, 1),)),)
    with pytest.raises(UserError, match=f"odd.*{change}"):
        study.study(config, tmp_path)


def test_a_study_begun_again_keeps_what_is_not_run_yet(runs, tmp_path, monkeypatch):
    config = study_config.get_config("target")
    config.finetune.task = "knn"
    whole = study.study(config, tmp_path)

    def dies_later(config, workdir, prepared):
        if config.seed == 1:
            raise KeyboardInterrupt
        return runs.probe(config, workdir, prepared)

    monkeypatch.setattr(frozen, "evaluate", dies_later)
    config.seeds = (2, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        study.study(config, tmp_path)
    kept = json.loads((tmp_path / "study.json").read_text())["records"]
    key = lambda record: (record["arm"], record["seed"])
    assert sorted(map(key, kept)) == sorted(map(key, whole))
    assert key(kept[0]) == ("linear", 2)


@pytest.mark.parametrize(
    "content",
    [
        *("", "\xff\xfe", "null", "[]", '{"records": null}', '{"records": [null]}'),
        *('{"records": [[]]}', '{"records": [{"arm": []}]}', '{"records": [{"arm": "linear"}]}'),
    ],
)
def test_a_damaged_study_is_named_and_run_again(content, tmp_path, caplog):
    (tmp_path / "study.json").write_text(content, encoding="latin-1")
    assert study._records_before(tmp_path) == []
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert f"{tmp_path / 'study.json'} is damaged" in record.message
    assert "\n" not in record.message


def test_records_of_another_config_are_dropped_and_named(runs, tmp_path, monkeypatch, caplog):
    config = study_config.get_config("frozen")
    config.seeds = (0, 1)
    whole = study.study(config, tmp_path)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "evaluate", dies)
    monkeypatch.setattr(loop, "train_and_evaluate", dies)

    def kept():
        with pytest.raises(KeyboardInterrupt):
            study.study(config, tmp_path)
        return study._still_valid(config, whole)

    config.finetune.data.workers = 2  # changes no figure
    assert kept() == whole
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    config.finetune.augment.gain_db = 3.0  # which probes do not read
    tasks = {name: dict(changes).get("finetune.task", "finetune") for name, changes in config.arms}
    expected = [r for r in whole if tasks[r["arm"]] != "finetune"]
    assert kept() == expected
    assert study._still_valid(config, [{**expected[0], "digest": "of another"}]) == []
    caplog.clear()
    assert kept() == expected
    assert len(expected) < len(whole)
    dropped = {record.args for record in caplog.records if "dropped" in record.message}
    assert dropped == {(r["arm"], r["seed"]) for r in whole if r not in expected}


def test_a_config_without_arms_is_no_study(tmp_path):
    with pytest.raises(UserError, match=r"no study: take a config of configs/study\.py"):
        study.study(study_config.get_config("frozen").finetune, tmp_path)


def test_frozen_arms_probe(runs, tmp_path):
    records = study.study(study_config.get_config("frozen"), tmp_path)
    assert {one.task for one, _ in runs.tuned} == {"finetune", "linear_probe", "knn"}
    assert {r["init"] for r in records} == {"pretrained", "scratch"}


def test_an_unknown_field_of_an_arm_is_named(runs, tmp_path):
    config = study_config.get_config("target")
    config.arms = (("odd", (("finetune.data.no_such", 1),)),)
    with pytest.raises(UserError, match=r"odd.*no_such"):
        study.study(config, tmp_path)


@pytest.mark.parametrize("variant", study_config.VARIANTS)
def test_the_shipped_arms_name_fields_that_exist(variant, runs, tmp_path, monkeypatch):
    config = study_config.get_config(variant)
    monkeypatch.setattr(study, "_joined_paths", lambda *_: ["a.wav"])
    config.seeds = (0,)
    assert len(study.study(config, tmp_path)) == len(config.arms)
