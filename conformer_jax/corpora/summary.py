"""What makes figures on a corpus comparable: which clips, which labels, what was done to them."""

import collections
import hashlib

import soxr

from conformer_jax.data import prepared

_SHOWN = 20  # names in a list of the summary; all are in left_out.csv


def build(corpus, source, listing, made, options, *, restricted, dropped) -> dict:
    """The content of summary.json, but for the shards.

    Args:
      corpus: corpus.Corpus.
      source: as it was typed, without the folders above it.
      listing: corpus.Listing with all clips that the corpus lists.
      made: engine.Made.
      options: encoding.Options.
      restricted: how many clips --only-ids left out.
      dropped: whether copies were dropped.
    """
    classes = listing.classes
    splits = {
        split: _of_split(split, corpus, listing, made.records.get(split, []))
        for split in dict.fromkeys(clip.split for clip in listing.clips)
    }
    reasons = collections.Counter(reason.partition(":")[0] for _, _, reason in made.bad)
    return {
        "corpus": corpus.name,
        "licence": corpus.licence,
        "metric": corpus.metric,
        "protocol": corpus.protocol,
        "facts": corpus.facts,
        "source": source,
        "classes": list(classes),
        "classes_sha256": _sha256(classes),
        "multi_label": any(len(clip.labels) > 1 for clip in listing.clips),
        "stored": {
            **options._asdict(),
            "channels": "mean of all",
            "resampler": f"soxr {soxr.__version__} HQ" if options.sample_rate else "none",
        },
        "splits": splits,
        "left_out": {
            "by_reason": dict(reasons.most_common()),
            "ids": [id_ for id_, _, _ in made.bad[:_SHOWN]],
            "by_only_ids": restricted,
        },
        "duplicates": {
            "found": len(made.duplicates),
            "dropped": dropped,
            "ids": [list(one) for one in made.duplicates[:_SHOWN]],
        },
    }


def _of_split(split, corpus, listing, records):
    classes = listing.classes
    clips = [clip for clip in listing.clips if clip.split == split]
    listed = {clip.id for clip in clips}
    # Pieces of a recording are named after it: ID#0, ID#1, ...
    ids = {r.id if r.id in listed else r.id.rpartition("#")[0] for r in records}
    counts = collections.Counter(c for record in records for c in record.labels)
    wanted = collections.Counter(label for clip in clips for label in clip.labels)
    rates = collections.Counter(str(r.sample_rate) for r in records)
    folds = collections.Counter(r.fold for r in records if r.fold)
    return {
        "published": corpus.expected.get(split),
        "listed": len(clips),
        "found": len(ids),
        "records": len(records),
        "hours": round(sum(r.num_samples / r.sample_rate for r in records) / 3600, 4),
        "sample_rates": dict(sorted(rates.items())),
        "folds": dict(sorted(folds.items())),
        # Of every class, in their order; class_weights are what balanced sampling weighs by.
        "class_listed": [wanted[name] for name in classes],
        "class_found": [counts[i] for i in range(len(classes))],
        "class_weights": [1 / counts[i] if counts[i] else 0.0 for i in range(len(classes))],
        "ids_sha256": _sha256(sorted(ids)),
        "audio_sha256": _sha256(sorted(f"{r.audio:016x}" for r in records)),
    }


def describe(summary: dict) -> str:
    """In words, the last line to be pasted into a paper."""
    lines = []
    for split, one in summary["splits"].items():
        published = one["published"]
        of = f" of {published} published" if published else f" of {one['listed']} listed"
        pieces = f", {one['records']} records" if one["records"] != one["found"] else ""
        lines.append(f"  {split:<18} {one['found']}{of}{pieces}, {one['hours']:.2f} h")
        if lacking := pieces == "" and [
            (name, found, listed)
            for name, found, listed in zip(
                summary["classes"], one["class_found"], one["class_listed"], strict=True
            )
            if found < listed
        ]:
            lacking.sort(key=lambda x: x[1] / x[2])
            few = ", ".join(f"{name} {found} of {listed}" for name, found, listed in lacking[:3])
            lines.append(f"  {'':<18} classes that lack clips: {len(lacking)} ({few})")
    if reasons := summary["left_out"]["by_reason"]:
        words = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        lines.append(f"  {'left out':<18} {words}: left_out.csv")
    if found := summary["duplicates"]["found"]:
        done = "dropped" if summary["duplicates"]["dropped"] else "kept (--drop_duplicates)"
        lines.append(f"  {'equal audio':<18} {found} copies, {done}")
    lines.append(f"  {'classes':<18} {len(summary['classes'])}, metric: {summary['metric']}")
    lines.append(f"  {'to cite':<18} {prepared.citation(summary)}")
    return "\n".join(lines)


def _sha256(texts) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "backslashreplace")).hexdigest()
