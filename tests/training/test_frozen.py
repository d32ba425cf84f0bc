"""Which training clips judge the network of a probe."""

import types

import numpy as np
import pytest

from configs import finetune
from conformer_jax.data.manifest import Row
from conformer_jax.data.sources import ManifestSource
from conformer_jax.training import frozen

NAMES = ("a", "b", "c")


def judges(monkeypatch, rows, valid=None):
    """bool [n]: those of the clips, of which the valid ones were embedded."""
    source = ManifestSource(rows, 16000, NAMES)
    labels = np.zeros((len(rows), 3), np.float32)
    for i, row in enumerate(rows):
        labels[i, [NAMES.index(name) for name in row.labels]] = 1
    valid = np.ones(len(rows)) if valid is None else valid
    known = {"embedding": np.zeros((len(rows), 2)), "labels": labels, "valid": valid}
    said = types.SimpleNamespace(found="")
    found = []
    monkeypatch.setattr(frozen.mlp, "fit", lambda *_, judges, **__: found.append(judges) or said)
    config = finetune.get_config("smoke")
    config.task = "mlp_probe"
    frozen._fit(config, known, source)
    held = np.zeros(len(rows), bool)
    held[np.flatnonzero(valid)[found[0]]] = True
    return held


@pytest.mark.parametrize("field", ["group", "whole"])
def test_what_belongs_together_judges_together(monkeypatch, field):
    of = [i // 5 for i in range(100)]
    rows = [Row("", (NAMES[k % 2],), "", str(i), content=i) for i, k in enumerate(of)]
    rows = [
        row._replace(**({"group": f"g{k}"} if field == "group" else {"whole": 1000 + k}))
        for row, k in zip(rows, of, strict=True)
    ]
    valid = (np.arange(100) % 7 > 0).astype(float)  # some cannot be read
    held, together = judges(monkeypatch, rows, valid), np.array(of)
    assert not set(together[held]) & set(together[~held & (valid > 0)])
    assert sorted(k % 2 for k in set(together[held])) == [0, 0, 1, 1]  # of ten each


def test_a_fifth_of_every_class_judges_and_some_of_it_is_learnt(monkeypatch):
    rows = [Row("", (NAMES[c],), "", str(i), content=i) for i, c in enumerate([0] * 50 + [1] * 10)]
    held = judges(monkeypatch, rows)
    assert (held[:50].sum(), held[50:].sum()) == (10, 2)
    # Every clip has label a first; the few with c would be lost together.
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(20)
        labels = [("a", "c") if i < 2 else ("a", "b") if i < 10 else ("a",) for i in order]
        rows = [Row("", names, "", str(i), content=i) for i, names in enumerate(labels)]
        held = judges(monkeypatch, rows)
        for name in NAMES:
            of_label = [name in names for names in labels]
            assert 0 < held[of_label].sum() < sum(of_label)
