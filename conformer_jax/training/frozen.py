"""The tasks 'linear_probe' and 'knn': what `loop.train_and_evaluate` is to the others.

The encoder stays as config.init_from left it (random where that is ''), every clip is embedded
once, and there are no steps: a second run begins anew.
"""

import functools
import logging

import jax

from conformer_jax.data import host_loader
from conformer_jax.evaluation import predictions, probe
from conformer_jax.training import checkpoint, loop, program, progress, selection


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
    with loop.alone(config, workdir):
        return _evaluate(config, workdir, prepared)


def _evaluate(config, workdir, prepared):
    config = config.copy_and_resolve_references()
    workdir, report, (train_source, eval_source, label_names) = loop.open_run(config, workdir)
    train_source, _ = selection.carve(config, train_source)  # refuses what has no meaning here
    compiled = program.build(config, len(label_names), prepared=prepared)
    loop.say_sizes(config, train_source, eval_source)
    state = compiled.init(jax.random.split(jax.random.key(config.seed), 3)[0])
    if config.init_from:
        params, step = checkpoint.load_encoder(config.init_from, state.params)
        state = state.with_params(params)
        logging.info("encoder taken from %s, step %d", config.init_from, step)
    loader = host_loader.pick(config.data.loader)
    host, num_hosts = jax.process_index(), jax.process_count()
    every_clip = functools.partial(
        loader.eval_batches, config=config, report=report, host=host, num_hosts=num_hosts
    )
    known = probe.embed(compiled, state, every_clip(train_source))
    unknown = probe.embed(compiled, state, every_clip(eval_source))
    score = probe.fit(config, known)

    def figures(part, source):
        scored = [{**part, "logits": score(part["embedding"])}]
        found = predictions.collect(scored, source, 0)
        return found, loop.whole_set(found, config.classifier.multi_label)

    found, held_out = figures(unknown, eval_source)
    record = {}
    if config.task == "linear_probe":  # a training clip is its own nearest neighbour
        record = figures(known, train_source)[1]
        held_out["train_accuracy"] = record["accuracy"]
    if host == 0:  # of another task in the same folder
        (workdir / "metrics.jsonl").unlink(missing_ok=True)
    log = progress.Log(config, workdir, 0, active=host == 0)
    log.write(0, "eval", held_out)
    log.close()
    if host == 0:
        predictions.save(workdir / "predictions.npz", *found)
    return loop.Result(record, held_out, config, compiled, len(train_source))
