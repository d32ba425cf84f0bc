"""How every task begins: whose the workdir is, the clips, the feature statistics."""

import contextlib
import logging
import pathlib
from typing import Any, NamedTuple

import jax

from conformer_jax import fields
from conformer_jax.data import labels, mixture, sampling
from conformer_jax.data.labelled import Labelled, open_labelled
from conformer_jax.data.manifest import check_exists
from conformer_jax.data.sources import BadAudioReport, Source, source_spec
from conformer_jax.errors import UserError
from conformer_jax.reading import FROZEN
from conformer_jax.training import (
    checkpoint,
    clips,
    curves,
    distributed,
    lock,
    program,
    progress,
    selection,
    statistics,
)
from conformer_jax.training import workdir as workdirs

_FEW_CLIPS = 10  # held out; fewer make no figure


class Data(NamedTuple):
    """What a run hears. statistics: what its features are normalised by; labelled: the clips of
    config.monitor, None where there are none."""

    train: Source
    held_out: Source
    label_names: tuple[str, ...]
    statistics: statistics.Statistics
    known: clips.Known
    labelled: Labelled | None = None


class Opened(NamedTuple):
    """A run before its first step. config: a copy, with the feature statistics filled in."""

    config: Any
    workdir: pathlib.Path
    report: BadAudioReport  # of unreadable audio
    data: Data


@contextlib.contextmanager
def alone(config, workdir):
    """Holds the workdir for a run (lock.py) whose config makes sense."""
    # Before the workdir: what is mistyped is no other config's run.
    program.check(config)
    if config.data.manifest:
        check_exists(config.data.manifest)
    for part in mixture.parts(config.data.mixture):
        check_exists(part.path, "mixture", or_folder=True)
    workdirs.check_path(workdir)
    with lock.alone(workdir):
        yield


def open_run(config, workdir) -> Opened:
    """Claims the workdir and opens the sources, as every task begins.

    Raises:
      UserError: anything that the user can mend.
    """
    distributed.on_first(lambda: workdirs.claim(workdir, config))
    workdir, host = pathlib.Path(workdir), jax.process_index()
    if not (workdir / "config.json").exists():
        raise UserError(
            f"process {host} does not see what process 0 wrote to --workdir={workdir}: it must "
            f"lie where all processes see it"
        )
    bad_audio = "bad_audio.csv" if host == 0 else f"bad_audio_process_{host}.csv"
    report = BadAudioReport(workdir / bad_audio, config.data.max_bad_share)
    data = prepare_data(config, workdir, report)
    return Opened(with_statistics(config, data.statistics), workdir, report, data)


def with_statistics(config, found: statistics.Statistics):
    """A copy of the config with these feature statistics."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.features.mean, config.features.deviation = found
    return config


def carve(config, source: Source) -> selection.Carved:
    """selection.carve with its fields of the config."""
    return selection.carve(
        config.data,
        source,
        task=config.task,
        patience=config.train.early_stopping,
        seed=config.seed,
    )


def open_log(config, workdir, start_step: int, *, keep_eval=True, expected=None) -> progress.Log:
    """progress.Log with its fields of the config; process 0 writes, the others only read."""
    return progress.Log(
        workdir,
        start_step,
        name=config.name,
        num_steps=0 if config.task in FROZEN else config.train.num_steps,
        heading=curves.heading_of(config),
        keep_eval=keep_eval,
        expected=expected,
        active=jax.process_index() == 0,
    )


def known_classes(config, train_source, held_out):
    """labels.known_classes of a labelled task: bool [C]; None of pre-training, and of a TFDS data
    set, whose labels cannot be read without the audio.

    Raises:
      UserError: all training clips have the same labels.
    """
    data = config.data
    if config.task == "pretrain" or data.tfds_name:
        return None
    chosen = data.labels_per_class > 0 or data.label_share < 1
    return labels.known_classes(train_source, held_out, chosen=chosen)


def say_sizes(config, train_source, eval_source):
    """Logs how many clips there are, and that few held-out ones make no figure."""
    own = config.data.manifest or config.data.tfds_name or config.data.prepared
    logging.info(
        "%d clips to train on, %d held out%s",
        *(len(train_source), len(eval_source), "" if own else ", of the synthetic corpus"),
    )
    if len(eval_source) < _FEW_CLIPS:
        logging.warning(
            "WARNING so few clips held out tell little: %s",
            "look at the mean over the folds (python -m conformer_jax.cross_validate)"
            if config.data.eval_folds and config.task != "pretrain"  # a share is not heeded there
            else "hold out more, such as --config.data.eval_share=0.3, or cross-validate (python "
            "-m conformer_jax.manifest DIR --folds=5, then python -m conformer_jax.cross_validate)",
        )


def prepare_data(config, workdir, report) -> Data:
    """Opens the sources, and finds the feature statistics.

    Labels keep the order of the workdir's checkpoint. Feature statistics are those of the config;
    else of the checkpoint (the workdir's own, or the one of config.init_from), where there is one;
    else they are measured.
    """
    labelled = _clips_with_labels(config)
    own = distributed.on_first(lambda: checkpoint.read_meta(workdir))
    names = own["label_names"] if own and config.task != "pretrain" else None
    (train_source, eval_source), known = clips.open_all(
        source_spec(config), names, workdir, own, config.init_from
    )
    spec = program.batch_spec(config)
    if spec.distinct and not spec.shares:  # before anything that takes time
        sampling.check_distinct(spec.batch_size, len(train_source))
    origin = own
    if origin is None and config.init_from:
        origin = distributed.on_first(lambda: checkpoint.read_meta(config.init_from))
        if origin is None:
            raise UserError(
                f"config.init_from = {config.init_from!r} holds no checkpoint: name the --workdir "
                f"of a pre-training run (python -m conformer_jax.main "
                f"--config=configs/pretrain.py makes one), or --config.init_from=pretrained:tiny "
                f"for the encoder that comes along, or '' to train from scratch"
            )
        _check_same_encoder(origin["config"], config)
    found = _known_statistics(config.features, origin)
    if found is None:
        # From another process it comes as lists.
        found = distributed.on_first(
            lambda: statistics.feature_statistics(config, train_source, report, workdir)
        )
    found = statistics.Statistics(*map(tuple, found))
    return Data(train_source, eval_source, train_source.label_names, found, known, labelled)


def _clips_with_labels(config):
    """The clips of config.monitor, where a pre-training run has any."""
    if config.task != "pretrain" or not config.monitor.manifest:
        return None
    ask, rate = config.monitor, config.features.sample_rate
    return open_labelled(ask.manifest, ask.folds, rate, ask.most_clips)


def _known_statistics(features, origin):
    """(mean, deviation) of config.features, else of the checkpoint `origin`, else None."""
    if features.mean:
        return features.mean, features.deviation
    if origin is None:
        return None
    saved = origin["config"]["features"]
    return saved["mean"], saved["deviation"]


def _check_same_encoder(saved, config):
    """Raises UserError where the checkpoint's encoder or features are not this config's."""
    saved = fields.with_defaults(saved)
    wanted = config.to_dict()
    differing = []
    for section, free in (
        ("conformer", {"dropout", "dtype", "remat", "scan_blocks"}),
        ("features", {"mean", "deviation"}),
    ):
        old = {k: v for k, v in saved[section].items() if k not in free}
        new = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in wanted[section].items()
            if k not in free
        }
        differing += workdirs.differing_fields(old, new, f"{section}.")
    if differing:
        more = " ..." if len(differing) > 4 else ""
        raise UserError(
            f"config.init_from = {config.init_from!r} is a checkpoint of another architecture "
            f"({'; '.join(differing[:4])}{more}): take the variant of configs/finetune.py that "
            f"belongs to it"
        )
