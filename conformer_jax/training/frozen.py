"""The tasks 'linear_probe' and 'knn': what `loop.train_and_evaluate` is to the others.

The encoder stays as config.init_from left it (random where that is ''), every clip is embedded
once, and there are no steps: a second run begins anew.
"""

import functools

import jax

from conformer_jax.data import host_loader
from conformer_jax.evaluation import predictions, probe
from conformer_jax.training import evaluate as evaluating
from conformer_jax.training import initial, loop, opening, probe_file, program


def evaluate(config, workdir, prepared: program.Program | None = None) -> loop.Result:
    """Embeds training and held-out clips, fits the probe to the former and scores the latter.

    Args:
      config: the full config; not changed.
      workdir: folder of the run; gets config.json, metrics.jsonl and predictions.npz.
      prepared: the Program of an earlier run, to share its compilations where it is the same.

    Returns:
      the Result; its training record is that of the linear probe on its training clips.

    Raises:
      UserError: anything that the user can mend.
    """
    with opening.alone(config, workdir):
        return _evaluate(config, workdir, prepared)


def _evaluate(config, workdir, prepared):
    config, workdir, report, data = opening.open_run(config, workdir)
    train_source, eval_source = data.train, data.held_out
    opening.carve(config, train_source)  # refuses what has no meaning here
    compiled = program.build(config, len(data.label_names), prepared=prepared)
    opening.say_sizes(config, train_source, eval_source)
    state = initial.encoder_of(config, compiled.init(initial.run_keys(config)[0]))
    loader = host_loader.pick(config.data.loader)
    host, num_hosts = jax.process_index(), jax.process_count()
    every_clip = functools.partial(
        loader.eval_batches,
        spec=host_loader.loader_spec(config),
        report=report,
        host=host,
        num_hosts=num_hosts,
    )
    known = probe.embed(compiled, state, every_clip(train_source))
    unknown = probe.embed(compiled, state, every_clip(eval_source))
    multi_label = config.classifier.multi_label
    score = probe.fit(known, config.probe, neighbours=config.task == "knn", multi_label=multi_label)

    def figures(part, source):
        scored = [{**part, "logits": score(part["embedding"])}]
        found = predictions.collect(scored, source, 0)
        return found, evaluating.whole_set(found, config.classifier.multi_label)

    found, held_out = figures(unknown, eval_source)
    record = {}
    if config.task == "linear_probe":  # a training clip is its own nearest neighbour
        record = figures(known, train_source)[1]
        held_out["train_accuracy"] = record["accuracy"]
    if host == 0:  # of another task in the same folder
        (workdir / "metrics.jsonl").unlink(missing_ok=True)
    log = opening.open_log(config, workdir, 0)
    log.write(0, "eval", held_out)
    log.close()
    if host == 0:
        predictions.save(workdir / "predictions.npz", *found)
        probe_file.save(workdir, config, data.label_names, state, score)
    return loop.Result(record, held_out, config, compiled, len(train_source))
