"""Which examples and crops a batch holds: a function of (seed, step) and of nothing else.

Every number comes from the raw bits of the counter-based generator Philox, whose stream is fixed
(the methods of numpy's `Generator` may change between versions). So any step can be computed at
once, on any host, and resuming needs no iterator state.
"""

import functools

import numpy as np

from conformer_jax.data.audio import DataError

# One stream of random numbers each.
_ORDER, _CROP, _FEW_LABELS, _BALANCED, _STRATIFIED, _MIXED = range(6)


def train_batch(seed, step, batch_size, num_examples) -> tuple[np.ndarray, np.ndarray]:
    """The global training batch of a step.

    The examples of all steps, one after the other, run through epochs; each epoch is another
    permutation of all examples. A batch may end one epoch and begin the next.

    Args:
      seed: int, config.seed.
      step: int from 0.
      batch_size: B, over all hosts.
      num_examples: examples of the source, at least 1.

    Returns:
      indices: int64 [B] into the source.
      positions: float64 [B] in [0, 1), where to crop.
    """
    place = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, within = place // num_examples, place % num_examples
    indices = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        here = epochs == epoch
        indices[here] = _epoch_order(seed, epoch, num_examples)[within[here]]
    return indices, _uniform(seed, _CROP, step, batch_size)


def distinct_batch(seed, step, batch_size, num_examples) -> tuple[np.ndarray, np.ndarray]:
    """The same, where no batch may hold an example twice: none reaches over the end of an epoch.

    What an epoch leaves over is another part of the examples each time. Raises what
    `check_distinct` does.
    """
    check_distinct(batch_size, num_examples)
    epoch, place = divmod(step, num_examples // batch_size)
    rows = slice(place * batch_size, (place + 1) * batch_size)
    indices = _epoch_order(seed, epoch, num_examples)[rows].astype(np.int64)
    return indices, _uniform(seed, _CROP, step, batch_size)


def check_distinct(batch_size, num_examples) -> None:
    """Raises DataError where there are fewer examples than a batch has rows."""
    if batch_size > num_examples:
        smaller = 1 << num_examples.bit_length() - 1 if num_examples >= 8 else 0
        raise DataError(
            f"config.data.batch_size = {batch_size}, but there are only {num_examples} clips to "
            f"train on, and none may be twice in a batch of this objective: list more"
            + (f", take --config.data.batch_size={smaller}" if smaller else "")
            + ", or the objective that needs no others, config.objective='wav2vec2' "
            "(--config=configs/pretrain.py:tiny)"
        )


def mixed_batch(seed, step, batch_size, members, shares) -> tuple[np.ndarray, np.ndarray]:
    """The same of several corpora, each with its share of every batch; none holds an example twice.

    Of B * share rows those after the point are drawn anew in every step (systematic sampling): a
    corpus has the whole number below or above, and on average its share exactly. It goes through
    its examples in passes of whole batches, each another permutation, so that what a pass leaves
    over is another part each time.

    Args:
      members: for each corpus int64 [n], which examples of the source are its.
      shares: for each corpus its share, 1 together.

    Raises DataError where a corpus has fewer examples than its rows of a batch.
    """
    # In units of 2^-20 rows, as whole numbers: sums of floats would cross a whole row by rounding.
    rows = np.rint(np.asarray(shares) * batch_size * 2**20).astype(np.int64)
    rows[0] += batch_size * 2**20 - rows.sum()
    start = int(_uniform(seed, _MIXED, step, 1)[0] * 2**20)
    counts = np.diff((np.cumsum([start, *rows])) >> 20)
    taken = []
    for corpus, (own, share, count) in enumerate(zip(members, shares, counts, strict=True)):
        most = -int(-rows[corpus] >> 20)
        if most > len(own):
            raise DataError(
                f"config.data.mixture: {share:g} of a batch of {batch_size} are up to {most} clips "
                f"of a corpus that has {len(own)} to train on: lower its share or the batch"
            )
        epoch, place = divmod(step, len(own) // most)
        order = _corpus_order(seed, corpus, epoch, len(own))
        taken.append(own[order[place * most : place * most + count]])
    indices = np.concatenate(taken)[_order(seed, _MIXED, step, batch_size, 1)]
    return indices, _uniform(seed, _CROP, step, batch_size)


def balanced_batch(seed, step, batch_size, cumulative) -> tuple[np.ndarray, np.ndarray]:
    """The same, where examples are drawn with replacement, each with its own probability.

    Args:
      cumulative: float64 [n] from `class_balance`.
    """
    drawn = _uniform(seed, _BALANCED, step, batch_size) * cumulative[-1]
    indices = np.searchsorted(cumulative, drawn, side="right")
    return indices.astype(np.int64), _uniform(seed, _CROP, step, batch_size)


def class_balance(labels, num_classes, offset=0.0, *, negatives: bool = False) -> np.ndarray:
    """Cumulative weights of the examples under which all classes come up equally often.

    An example weighs the sum over its classes of 1 / (examples of the class + offset), as if first
    a class were drawn and then one of its examples: the practice on AudioSet (PANNs, Kong et al.
    2020; AST, Gong et al. 2021). One without a label is drawn where `negatives`, as if they were
    one more class, and else never.

    Args:
      labels: labels.Labels, of the examples; at least one has some.
      offset: not negative; the larger, the less rare classes are favoured.
      negatives: whether no label says that none of the classes is heard.

    Returns:
      float64 [n], ascending.
    """
    counts = np.bincount(labels.numbers, minlength=num_classes)
    with np.errstate(divide="ignore"):  # of classes that no example has
        of_one = (1.0 / (counts + offset))[labels.numbers]
    weights = np.bincount(
        np.repeat(np.arange(len(labels.counts)), labels.counts), of_one, len(labels.counts)
    )
    if negatives and (without := labels.counts == 0).any():
        weights[without] = 1.0 / (without.sum() + offset)
    return np.cumsum(weights)


def mixed_balance(labels, members, shares, num_classes, offset, *, negatives) -> np.ndarray:
    """`class_balance` of several corpora, within each of them, and each with its share.

    Args:
      members, shares: as for `mixed_batch`; the others as for `class_balance`.

    Raises DataError where all of a corpus weigh nothing.
    """
    weights = np.zeros(len(labels.counts))
    for number, (own, share) in enumerate(zip(members, shares, strict=True)):
        found = class_balance(labels.take(own), num_classes, offset, negatives=negatives)
        if not found[-1]:
            raise DataError(
                f"config.data.mixture: corpus {number + 1} has no clip with a label, which "
                f"config.data.balanced needs"
            )
        weights[own] = np.diff(found, prepend=0.0) * (share / found[-1])
    return np.cumsum(weights)


def eval_batch(step, batch_size, num_examples) -> tuple[np.ndarray, np.ndarray]:
    """The global evaluation batch of a step: examples in order, each once.

    Returns:
      indices: int64 [B]; 0 where the last batch is padded.
      valid: bool [B]; False where it is padded.
    """
    indices = step * batch_size + np.arange(batch_size, dtype=np.int64)
    valid = indices < num_examples
    return np.where(valid, indices, 0), valid


def num_eval_batches(batch_size, num_examples) -> int:
    """Batches of one evaluation, the padded last one included."""
    return -(-num_examples // batch_size)


def host_slice(batch_size, host, num_hosts) -> slice:
    """The rows of a global batch that host `host` of `num_hosts` reads.

    Raises DataError where the batch cannot be split evenly.
    """
    if batch_size % num_hosts:
        raise DataError(
            f"a batch of {batch_size} clips does not split over {num_hosts} hosts: make "
            "config.data.batch_size and config.data.eval_batch_size multiples of the host count"
        )
    rows = batch_size // num_hosts
    return slice(host * rows, (host + 1) * rows)


def few_labels(labels, num_classes, per_class, seed) -> np.ndarray:
    """Keeps about `per_class` examples of each class, chosen by `seed`.

    Goes through the examples in a random order and keeps those that contain a class still
    wanted. With one label each that is exactly `per_class` (or all there are), and a smaller
    choice is part of a larger one; examples with several labels may exceed it.

    Args:
      labels: sequence of tuples of class indices, one per example.
      per_class: the same number for all classes, or [C].

    Returns:
      Sorted int64 indices of the examples kept.
    """
    wanted = np.broadcast_to(per_class, num_classes)
    counts = [0] * num_classes
    kept = []
    for i in _order(seed, _FEW_LABELS, 0, len(labels)):
        if any(counts[c] < wanted[c] for c in labels[i]):
            kept.append(i)
            for c in labels[i]:
                counts[c] += 1
    return np.sort(np.array(kept, np.int64))


def stratified(labels, num_classes, share, seed) -> np.ndarray:
    """Chooses `share` of the examples of each class by `seed`.

    At least one of every class that has two, and never all. The rarest classes choose first, and
    what comes along of the others counts (after Sechidis et al. 2011): with one label each the
    numbers are exact; with several, common classes may get more. Those without a label are a
    class of their own.

    Args:
      labels: sequence of tuples of class indices, one per example.
      share: 0 to 1, of each class, rounded.

    Returns:
      Sorted int64 indices of the examples chosen.
    """
    classes = [part or (num_classes,) for part in labels]
    members = [[] for _ in range(num_classes + 1)]
    for i in _order(seed, _STRATIFIED, 0, len(labels)):
        for c in classes[i]:
            members[c].append(int(i))
    left = [len(group) for group in members]
    chosen = set()
    for c in sorted(range(num_classes + 1), key=lambda c: len(members[c])):
        keep = len(members[c]) - max(1, round(share * len(members[c])))
        for i in members[c]:
            if left[c] > keep and i not in chosen and all(left[k] > 1 for k in classes[i]):
                chosen.add(i)
                for k in classes[i]:
                    left[k] -= 1
    return np.array(sorted(chosen), np.int64)


def stratified_units(labels, levels, num_classes, share, seed) -> np.ndarray:
    """`stratified` of `units`: of each class that `share` of those that have it; ascending."""
    unit = units(labels, levels, num_classes)
    of_unit = [set() for _ in range(unit.max(initial=-1) + 1)]
    for number, of_clip in zip(unit.tolist(), labels, strict=True):
        of_unit[number].update(of_clip or (num_classes,))  # as `stratified` has it
    kept = stratified([tuple(sorted(found)) for found in of_unit], num_classes, share, seed)
    return np.flatnonzero(np.isin(unit, kept))


def units(labels, levels, num_classes) -> np.ndarray:
    """What a split of clips is not to tear apart: groups; but clips with a label that one group
    alone has would be lost on one side, so their recordings take its place, and their contents
    where one recording alone has the label.

    Args:
      labels: as of `stratified`.
      levels: for groups, recordings and contents [n] each, equal where clips share one; what is
        equal in one is taken for equal in those before, too: copies link their recordings.

    Returns:
      int64 [n], numbers from 0 in the order of the units' first clips.
    """
    count, last = len(labels), len(levels) - 1
    levels = [np.unique(level, return_inverse=True)[1] for level in levels]
    for number in reversed(range(last)):
        levels[number] = _linked(levels[number], levels[number + 1])
    found = [part or (num_classes,) for part in labels]
    clip = np.repeat(np.arange(count), [len(part) for part in found])
    label = np.array([c for part in found for c in part], np.int64)
    of_label = np.full(num_classes + 1, last)
    for number in reversed(range(last)):
        pairs = np.sort(label * count + levels[number][clip])  # np.unique hashes, and is slower
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        several = np.bincount(pairs // max(count, 1), minlength=num_classes + 1) > 1
        of_label[several] = number
    own = np.zeros(count, np.int64)
    np.maximum.at(own, clip, of_label[label])
    for number in range(1, last + 1):  # a recording that leaves its group leaves it whole
        leaving = np.isin(levels[number], levels[number][own == number])
        own[leaving & (own < number)] = number
    unit = own * count + np.choose(own, levels)
    _, first, unit = np.unique(unit, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[unit]


def _linked(level, finer):
    """The numbers of a level, one for those that have a number of a finer one in common."""
    _, first = np.unique(finer, return_index=True)
    other = level[first[finer]]
    if np.array_equal(level, other):
        return level
    # Here: it takes a moment to import, and few corpora need it.
    from scipy import sparse

    nodes = level.max() + 1
    graph = sparse.coo_array((np.ones(len(level)), (level, other)), (nodes, nodes))
    return sparse.csgraph.connected_components(graph, directed=False)[1][level]


# More than one, since a batch may reach over the end of an epoch.
@functools.lru_cache(maxsize=4)
def _epoch_order(seed, epoch, num_examples) -> np.ndarray:
    order = _order(seed, _ORDER, epoch, num_examples)
    order.flags.writeable = False  # it is shared
    return order


# One a corpus.
@functools.lru_cache(maxsize=16)
def _corpus_order(seed, corpus, epoch, num_examples) -> np.ndarray:
    order = _order(seed, _ORDER, epoch, num_examples, 1 + corpus)
    order.flags.writeable = False
    return order


def _order(seed, stream, counter, n, part=0) -> np.ndarray:
    return np.argsort(_bits(seed, stream, counter, n, part), kind="stable")


def _uniform(seed, stream, counter, n) -> np.ndarray:
    """float64 [n] in [0, 1)."""
    return (_bits(seed, stream, counter, n) >> np.uint64(11)) * 2.0**-53


def _bits(seed, stream, counter, n, part=0) -> np.ndarray:
    """uint64 [n]. `counter` and `part` fill high words, so streams of 2**64 blocks never meet."""
    key = [int(seed) % 2**64, stream]
    words = [0, int(counter), part, 0]
    return np.random.Philox(
        counter=np.array(words, np.uint64), key=np.array(key, np.uint64)
    ).random_raw(n)
