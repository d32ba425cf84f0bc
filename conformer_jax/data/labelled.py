"""Clips of a manifest that tell each other's labels, beside a run that does not know of them."""

import logging
from typing import NamedTuple

import numpy as np

from conformer_jax.data.audio import DataError
from conformer_jax.data.content import of_groups, of_name, of_rows
from conformer_jax.data.holdout import fold_names
from conformer_jax.data.manifest import check_exists, read_manifest
from conformer_jax.data.source import ManifestSource


class Labelled(NamedTuple):
    """source: clips with one label each; groups: [n], clips of one group do not tell each other:
    they are of one fold; where there are no two folds, of one file or one `group`; and where there
    are no two of those either, of one file."""

    source: ManifestSource
    groups: np.ndarray


def open_labelled(manifest, folds, sample_rate, most) -> Labelled:
    """The clips of a manifest that have one label, but for how many is said.

    Args:
      manifest: its path.
      folds: values of its column `fold`, whose rows alone are taken; () for all.
      sample_rate: Hz.
      most: of more clips so many are taken, by what their names hash to.

    Raises DataError: a fold that no row has, fewer than two labels or two files.
    """
    check_exists(manifest, "monitor.manifest")
    rows, folds = read_manifest(manifest), fold_names(folds)
    known = sorted({row.fold for row in rows} - {""})
    if unknown := [fold for fold in folds if fold not in known]:
        there = ", ".join(known) or "none: it has no filled `fold` column"
        raise DataError(
            f"config.monitor.folds: {manifest} has no fold '{unknown[0]}' (folds: {there})"
        )
    rows = [row for row in rows if not folds or row.fold in folds]
    usable = [row for row in rows if len(row.labels) == 1]
    kept = sorted(usable, key=lambda row: of_name(row.name))[:most]
    names = tuple(sorted({row.labels[0] for row in kept}))
    kept = of_rows(kept, manifest)
    groups = _apart(kept, manifest)
    if len(names) < 2 or groups.max() == 0:
        what = "labels among clips with one each" if len(names) < 2 else "files"
        count = len(names) if len(names) < 2 else 1
        raise DataError(
            f"config.monitor.manifest: {manifest} has {count} {what}, and two are the least: name "
            f"other clips, or leave it out"
        )
    if len(kept) < len(rows):
        logging.info(
            "%s: %d of %d clips are taken as labelled ones", manifest, len(kept), len(rows)
        )
    return Labelled(ManifestSource(kept, sample_rate, names), groups)


def _apart(rows, manifest):
    """int [n]: `Labelled.groups` of rows with their content."""
    folds, wholes = [row.fold for row in rows], [row.whole for row in rows]
    if len(set(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1]
    own = of_groups(rows, wholes)
    if len(set(own)) < 2 and len(set(wholes)) > 1:
        logging.warning(
            "WARNING all labelled clips of %s are of one group, or linked by what they share: the "
            "column `group` is ignored",
            manifest,
        )
        own = wholes
    # Python's numbers of 64 bits would become floats, which tell fewer apart.
    return np.unique(np.array(own, np.uint64), return_inverse=True)[1]
