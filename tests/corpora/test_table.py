"""The configs of the paper's table fit the corpora that prepare makes: splits, folds, labels."""

import pytest
from corpus_trees import TREES, fill  # tests/

from configs import finetune, pretrain, table
from conformer_jax import prepare
from conformer_jax.corpora.catalogue import CORPORA
from conformer_jax.data import prepared as data_prepared
from conformer_jax.data import sources
from conformer_jax.measuring import dry_run
from conformer_jax.training import checkpoint, loop, program

VARIANTS = [(pretrain, v) for v in table.PRETRAIN] + [(finetune, v) for v in table.FINETUNE]
# What the trees lack, so that every split has a clip.
MORE = {
    "audioset": {},
    "magnatagatune": {"0/album-03-song-0-29.mp3": "sound"},
    "kinetics700": {"val/zumba/cc_000000_000010.flac": "sound"},
    "urbansound8k": {
        "metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "7-3-0-0.wav,7,0,1,1,1,3,dog_bark\n8-1-0-0.wav,8,0,1,1,10,1,car_horn\n"
        "9-3-0-0.wav,9,0,1,1,10,3,dog_bark\n",
        "audio/fold10/9-3-0-0.wav": "sound",
    },
    "fsd50k": {"FSD50K.eval_audio/70.wav": "sound"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder `prepared` with a toy of each corpus that the table names."""
    folder = tmp_path_factory.mktemp("table")
    flags = ["--engine=processes", "--workers=1", f"--output={folder / 'prepared'}"]
    for name, more in MORE.items():
        whole = {p: "sound" if isinstance(c, bytes) else c for p, c in TREES[name][0].items()}
        fill(folder / name, whole | more)
        assert prepare.main([name, f"--source=folder:{folder / name}", *flags]) == 0
    return folder


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_a_row_of_the_table_opens_its_corpus(module, variant, prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    config = module.get_config(variant)
    program.check(config)
    found = sources.open_sources(sources.source_spec(config))
    assert len(found.train) > 0
    assert len(found.held_out) > 0
    if module is finetune:
        corpus = CORPORA[config.data.prepared.partition("/")[2]]
        assert config.classifier.multi_label == corpus.multi_label
        assert found.train.labels(0)


def toy(config):
    """The config with an encoder and a batch that ten steps take seconds of."""
    config.conformer.update(
        feature_dim=16, width=16, num_heads=2, feed_forward_width=32, kernel_sizes=(5, 3)
    )
    config.conformer.dtype = "float32"
    config.data.update(batch_size=4, eval_batch_size=4, clip_s=1.0, statistics_clips=8)
    config.data.update(loader="threads", max_bad_share=0.5)  # each tree has a broken file
    config.data.validation_share = 0.0
    config.wav2vec2.update(num_distractors=10, projection_dim=16)
    config.train.update(num_steps=10, log_every=5, eval_every=0, accumulate=1)
    config.checkpoint.every_steps = 0
    config.init_from = ""
    return config


@pytest.mark.slow  # 8 variants, 10 to 20 s each
@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_a_row_of_the_table_is_dry_run_and_trains(module, variant, prepared, monkeypatch, tmp_path):
    monkeypatch.chdir(prepared)
    config = toy(module.get_config(variant))
    assert "parameters" in dry_run.describe(config)
    result = loop.train_and_evaluate(config, tmp_path / "run")
    assert result.train["step"] == 10
    cited = checkpoint.read_meta(tmp_path / "run")["corpus"]
    assert cited == data_prepared.cite(config.data.prepared)
    assert cited.startswith(config.data.prepared.partition("/")[2])
