"""The tasks 'linear_probe', 'knn' and 'mlp_probe': what `loop.train_and_evaluate` is to the others.

The encoder stays as config.init_from left it (random where that is ''), every clip is embedded
once, and there are no steps: a second run begins anew, but in cross-validation.
"""

import hashlib
import json
import logging

import jax
import numpy as np

from conformer_jax import fields
from conformer_jax.data import buckets, host_loader, sampling
from conformer_jax.data.sources import Subset
from conformer_jax.errors import UserError
from conformer_jax.evaluation import mlp, predictions, probe
from conformer_jax.training import (
    clips,
    digest,
    distributed,
    initial,
    loop,
    model_file,
    opening,
    probe_file,
    program,
)
from conformer_jax.training import evaluate as evaluating
from conformer_jax.training import workdir as workdirs

# What a probe leaves beside probe.json; the last not where there are too many clips to keep.
_BESIDE = ("metrics.jsonl", "predictions.npz", model_file.NAME)


class Embeddings:
    """What frozen encoders made of clips, kept for the other folds: each clip is heard once."""

    def __init__(self):
        self._kept = {}  # of an encoder: name of a clip -> its rows of probe.embed

    def embed(self, encoder, source, report, embed) -> dict[str, np.ndarray]:
        """All clips of a source.

        Args:
          encoder: what names the encoder, and its classes.
          source: the Source.
          report: BadAudioReport; a clip that could not be read is tried again.
          embed: a part of the source -> probe.embed_readable of it, for clips not known yet.

        Returns:
          as probe.embed.

        Raises:
          UserError: no clip could be read.
        """
        known = self._kept.setdefault(encoder, {})
        names = [source.example_id(i) for i in range(len(source))]
        missing = [i for i, name in enumerate(names) if name not in known]
        for i in set(range(len(source))).difference(missing):
            report.ok(names[i])
        if missing:
            found = embed(Subset(source, missing, source.label_names))
            for row in np.flatnonzero(found["valid"]) if found else ():
                known[names[missing[row]]] = {key: part[row] for key, part in found.items()}
        some = next((known[name] for name in names if name in known), None)
        if some is None:
            raise UserError(probe.NONE_READABLE)
        bad = {key: np.zeros_like(value) for key, value in some.items()}
        rows = [known.get(name, bad) for name in names]
        return {key: np.stack([row[key] for row in rows]) for key in bad}


def evaluate(
    config,
    workdir,
    prepared: program.Program | None = None,
    embeddings: Embeddings | None = None,
) -> loop.Result:
    """Embeds training and held-out clips, fits the probe to the former and scores the latter.

    Args:
      config: the full config; not changed.
      workdir: folder of the run; gets config.json, metrics.jsonl, predictions.npz and probe.json.
      prepared: the Program of an earlier run, to share its compilations where it is the same.
      embeddings: of the other folds, which this one adds its own to. Then a workdir in which the
        same was finished before is left as it is.

    Returns:
      the Result; its training record is that of the linear probe on its training clips.

    Raises:
      UserError: anything that the user can mend.
    """
    with opening.alone(config, workdir):
        return _evaluate(config, workdir, prepared, embeddings)


def _evaluate(config, workdir, prepared, embeddings):
    config, workdir, report, data = opening.open_run(config, workdir)
    train_source, eval_source = data.train, data.held_out
    opening.carve(config, train_source)  # refuses what has no meaning here
    compiled = program.build(config, len(data.label_names), prepared=prepared)
    opening.say_sizes(config, train_source, eval_source)
    heard = clips.judge(config, data.known, data.train, eval_source)
    classes = opening.known_classes(config, train_source, eval_source)
    state = initial.encoder_of(config, compiled.init(initial.run_keys(config)[0]))
    encoder = _encoder_name(compiled, state, data.label_names)
    asked = _asked(config, encoder, data)
    file = workdir / workdirs.PROBE
    if embeddings is not None and (before := distributed.on_first(lambda: _finished(file, asked))):
        logging.info("finished before: %s is left as it is", workdir)
        return loop.Result(before["train"], before["held_out"], config, compiled, len(train_source))
    report.forget()
    if jax.process_index() == 0:
        file.unlink(missing_ok=True)
    embed = lambda part: probe.embed_readable(
        compiled, state, clips_by_length(config, part, report), len(part)
    )
    kept = Embeddings() if embeddings is None else embeddings
    known, unknown = (
        kept.embed(encoder, source, report, embed) for source in (train_source, eval_source)
    )
    score = _fit(config, known, train_source)
    record, held_out, found = _scored(config, data, known, unknown, score, classes)
    held_out.update(heard)
    _write(config, workdir, held_out, found)
    if config.task != "mlp_probe":  # which judges an encoder and is no model to use
        probe_file.save(workdir, config, data.label_names, state, score)
        distributed.on_first(lambda: clips.write(workdir, data.known, data.train))
    if jax.process_index() == 0:
        done = {"asked": asked, "train": record, "held_out": held_out}
        done["files"] = [name for name in _BESIDE if (workdir / name).exists()]
        workdirs.write_json(file, {**done, "sha256": _sha256(done)})
    return loop.Result(record, held_out, config, compiled, len(train_source))


def _fit(config, known, train):
    """What classifies the embeddings of the training clips, which are those of the source."""
    multi_label = config.classifier.multi_label
    if config.task != "mlp_probe":
        neighbours = config.task == "knn"
        return probe.fit(known, config.probe, neighbours=neighbours, multi_label=multi_label)
    rows = known["valid"] > 0
    labels = [tuple(np.flatnonzero(part).tolist()) for part in known["labels"][rows]]
    levels = [level[rows] for level in (train.groups(), train.wholes(), train.contents())]
    num_classes, share = known["labels"].shape[1], mlp.VALIDATION_SHARE
    found = mlp.fit(
        known["embedding"][rows],
        known["labels"][rows],
        config.probe,
        multi_label=multi_label,
        seed=config.seed,
        judges=sampling.stratified_units(labels, levels, num_classes, share, config.seed),
    )
    logging.info("chosen on a fifth of the training clips: %s", found.found)
    return found


def clips_by_length(config, source, report):
    """Batches of every clip of a source, once, for an embedding."""
    loader = host_loader.pick(config.data.loader)
    spec = host_loader.loader_spec(config)
    several = jax.process_count()
    batches = loader.eval_batches(source, spec, report, jax.process_index(), several)
    if several > 1:  # all of them have to make the same batches
        return batches
    features = config.features
    token = config.conformer.stride * round(features.hop_s * features.sample_rate)
    return buckets.regroup(batches, buckets.bucket_lengths(token, spec.num_samples))


def _scored(config, data, known, unknown, score, classes):
    """The records of training and held-out clips, the former {} where it means nothing; and the
    Predictions of the latter."""
    multi_label = config.classifier.multi_label

    def figures(part, source):
        scored = [{**part, "logits": score(part["embedding"])}]
        found = predictions.collect(scored, source, 0)
        return found, evaluating.whole_set(found, multi_label, classes)

    found, held_out = figures(unknown, data.held_out)
    record = {}
    if config.task != "knn":  # a training clip is its own nearest neighbour
        record = figures(known, data.train)[1]
        held_out["train_accuracy"] = record["accuracy"]
    return record, held_out, found


def _write(config, workdir, held_out, found):
    if jax.process_index() == 0:  # of another task in the same folder
        (workdir / "metrics.jsonl").unlink(missing_ok=True)
    log = opening.open_log(config, workdir, 0)
    log.write(0, "eval", held_out)
    log.close()
    if jax.process_index() == 0:
        predictions.save(workdir / "predictions.npz", *found)


def _encoder_name(compiled, state, label_names) -> str:
    """The same of encoders that embed alike, for the same classes."""
    params = {name: part for name, part in state.eval_params.items() if name != "head"}
    arrays = {name: found for name, (found, _) in digest.of_tree(params).items()}
    return _sha256([compiled.key, label_names, arrays])


def _asked(config, encoder, data) -> str:
    """What a result depends on: the config, the encoder, the clips and their labels."""
    clips = [
        [(source.example_id(i), source.labels(i)) for i in range(len(source))]
        for source in (data.train, data.held_out)
    ]
    return _sha256([fields.saved(config), encoder, clips])


def _sha256(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished(file, asked):
    """What is in probe.json where it answers what is asked, and all else is there; else None."""
    try:
        found = json.loads(file.read_bytes())
        digest_of_it = found.pop("sha256")
        there = all((file.parent / name).exists() for name in found["files"])
        return (
            found if there and found["asked"] == asked and digest_of_it == _sha256(found) else None
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
