"""Which clips a run has trained on and which it holds out: `<workdir>/clips.npz`.

It keeps a run that goes on to its split when the manifest has changed, and tells those who take its
encoder what that has heard. A plain .npz without pickle, of every clip that the run has known:

  names       uint8            as the manifest writes them, UTF-8, zeros between
  contents    uint64 [n]       data/content.py
  held_out    bool [n]
  present     bool [n]         whether the manifest still lists it
  heard       uint8            data/heard.py: what the run's encoder has heard, config.init_from's
  encoder     uint8            included, and that of config.init_from alone; of parts also the
                               files that they are of
  heard_, encoder_  int [2]    their bits, and whether they are whole; -1 bits: not known
  by_name     bool             whether the run was begun when clips were held out by their paths
  trained, validated  uint64   contents of both parts, where they are drawn from the training clips
"""

import functools
import hashlib
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np

from conformer_jax.data import heard
from conformer_jax.data.heard import Heard
from conformer_jax.data.sources import Before, Sources, finish, open_split
from conformer_jax.errors import UserError
from conformer_jax.training import distributed, encoder_file
from conformer_jax.training.selection import Drawn

FILE = "clips.npz"
_ARRAYS = ("contents", "held_out", "present")
_NOTHING = heard.of_contents(())
_UNKNOWN = heard.of_contents((), whole=False)


class Listing(NamedTuple):
    """The clips of a run; held_out, present: bool [n], contents: uint64 [n]."""

    names: list[str]
    contents: np.ndarray
    held_out: np.ndarray
    present: np.ndarray


class Record(NamedTuple):
    """What the file holds. encoder: what config.init_from had heard, None where that is not
    known; heard: the run's own encoder; by_name: of Before; drawn: None where nothing is drawn."""

    listing: Listing
    heard: Heard
    encoder: Heard | None
    by_name: bool = False
    drawn: Drawn | None = None


class Known(NamedTuple):
    """What a run knows of its clips when it begins or goes on: those that there are; the record it
    goes on from, if any; what config.init_from has heard, nothing where it starts from scratch and
    None where that is not recorded; whether it goes on and its record is lost, or from before there
    was one; by_name: of Before."""

    listing: Listing
    old: Record | None
    encoder: Heard | None
    lost: bool = False
    by_name: bool = False


def _listing_of(split: Sources) -> Listing:
    """Of open sources."""
    names = [name for source in split for name in source.ids()]
    contents = np.concatenate([source.contents() for source in split])
    held_out = np.arange(len(names)) >= len(split.train)
    return Listing(names, contents, held_out, np.ones(len(names), bool))


def open_all(spec, label_names, workdir, meta: dict | None, init_from) -> tuple[Sources, Known]:
    """The sources, with the clips of a run that goes on where they were, and what is known of them.

    All processes together: they have to find the same clips.

    Args:
      spec: of the sources.
      label_names: as for `sources.open_sources`.
      workdir: of the run.
      meta: of its newest checkpoint, None where it has none and begins.
      init_from: config.init_from.

    Raises:
      UserError: of `sources.open_sources`; or another process has other clips.
    """
    old, how = _before(workdir, meta, of_manifest=bool(spec.manifest or spec.mixture))

    def opened():
        split = open_split(spec, label_names, how)
        return split, _listing_of(split)

    split, listing = distributed.same_on_all(
        opened, lambda found: _digest(*found, spec.manifest or spec.prepared), "clips"
    )
    if old is not None:
        say_changes(old.listing, listing)
    encoder = _encoder(init_from, old, goes_on=meta is not None)
    lost = meta is not None and old is None
    return finish(spec, *split), Known(listing, old, encoder, lost, how.by_name)


def _digest(split, listing, of_files):
    found = hashlib.sha256("\0".join(listing.names).encode("utf-8", "surrogateescape"))
    found.update(listing.contents.tobytes() + listing.held_out.tobytes())
    found.update(repr(split.train.label_names).encode())
    if of_files:  # labels of a TFDS data set cannot be read on their own, and it has no groups
        for source in split:
            labels = source.all_labels()
            found.update(labels.numbers.tobytes() + labels.starts.tobytes())
            found.update(source.groups().tobytes())
    return found.digest()


def _encoder(init_from, old, *, goes_on):
    if not init_from:
        return _NOTHING
    if old is not None:
        return old.encoder
    try:
        return of_encoder(init_from)
    except UserError:
        if not goes_on:  # it is needed
            raise
        return None


def _before(workdir, meta, *, of_manifest):
    """The record of a run that goes on, and how it splits its clips; of_manifest: whether some of
    them are of a manifest, which may have changed."""
    if meta is None:
        return None, Before()
    if record := read(workdir):
        return record, Before(sides_of(record.listing) if of_manifest else None, record.by_name)
    if "clips" in meta:
        logging.warning(
            "WARNING %s is lost or damaged: clips whose files have changed may change sides",
            pathlib.Path(workdir) / FILE,
        )
        return None, Before()
    logging.info("this run was begun when clips were held out by their paths: it stays so")
    return None, Before(by_name=True)


def sides_of(listing):
    """Of a Listing {content: held out}, but for what lies on both sides."""
    sides = dict(zip(listing.contents.tolist(), listing.held_out.tolist(), strict=True))
    trained = set(listing.contents[~listing.held_out].tolist())
    for both in trained.intersection(listing.contents[listing.held_out].tolist()):
        del sides[both]
    return sides


def say_changes(old: Listing, new: Listing) -> None:
    """Says how the manifest has changed since the run wrote its record: counts and an example."""
    if np.array_equal(old.contents[old.present], new.contents) and new.names == [
        name for name, present in zip(old.names, old.present, strict=True) if present
    ]:
        return
    was = dict(zip(old.names, old.contents.tolist(), strict=True))
    known, now = set(old.contents.tolist()), set(new.contents.tolist())
    new_names = [
        name
        for name, found in zip(new.names, new.contents.tolist(), strict=True)
        if found not in known
    ]
    replaced = [name for name in new_names if name in was]
    still = set(new.names)
    gone = [
        name
        for name, found, present in zip(old.names, old.contents.tolist(), old.present, strict=True)
        if present and found not in now and name not in still
    ]
    told = [
        f"{len(names)} {what} (such as {names[0]})"
        for what, names in (
            ("new", [name for name in new_names if name not in was]),
            ("gone", gone),
            ("replaced under the same name", replaced),
        )
        if names
    ]
    if told:
        logging.warning(
            "WARNING the clips have changed since the checkpoint: %s; all others stay on their "
            "side",
            ", ".join(told),
        )


def of_encoder(origin) -> Heard | None:
    """What the encoder of config.init_from has heard, None where that is not recorded."""
    if file := encoder_file.find(origin):
        return encoder_file.heard_by(file)
    record = read(origin)
    return record and record.heard


def judge(config, known: Known, train, held_out) -> dict[str, int]:
    """What makes held-out figures flatter, as a warning and for the records of evaluations.

    Args:
      config: of the run.
      known: of `open_all`.
      train, held_out: Sources.

    Returns:
      'heard', of 'heard_of' held-out clips: how many the encoder has heard; both are missing where
      that is not recorded, or there is no such encoder. 'copies': how many are trained on, too,
      or were before the run went on, under another name or as another part of the recording;
      missing where none are.

    Raises:
      UserError: the encoder has heard some, or it is not known, and config.data.refuse_heard.
    """
    return _heard(config, known.encoder, held_out) | _copies(known, train, held_out)


def _copies(known, train, held_out):
    trained = heard.of_contents(np.concatenate([train.contents(), train.wholes()]))
    same = _has(trained, held_out)
    if known.old is not None:  # whose recordings may have been cut anew
        by_encoder = known.encoder is not None and _has(known.encoder, held_out)
        same |= _has(known.old.heard, held_out) & ~np.asarray(by_encoder)
    same = np.flatnonzero(same)
    if not len(same):
        return {}
    logging.warning(
        "WARNING %d of the %d held-out clips are trained on, too: files with the same bytes, or "
        "parts of one recording, such as %s; give them the same fold",
        len(same),
        len(held_out),
        held_out.example_id(int(same[0])),
    )
    return {"copies": len(same)}


def _heard(config, encoder, held_out):
    if not config.init_from:
        return {}
    refuse = config.data.refuse_heard
    found = () if encoder is None else np.flatnonzero(_has(encoder, held_out))
    # None found in a record with gaps says nothing.
    if encoder is None or not (encoder.whole or len(found)):
        if refuse:
            raise UserError(
                f"config.data.refuse_heard: what config.init_from = {config.init_from!r} has heard "
                f"is not recorded; take an encoder of this version, or leave it False"
            )
        _say_unknown(config.init_from)
        return {}
    if not len(found):
        return {"heard": 0, "heard_of": len(held_out)}
    least = "" if encoder.whole else "at least "
    chance = encoder.chance() * len(held_out)
    by_chance = f" ({chance:.2g} expected by chance)" if chance > 1e-3 else ""
    told = (
        f"the encoder of {config.init_from} has heard {least}{len(found)} of the {len(held_out)} "
        f"held-out clips{by_chance}, such as {held_out.example_id(int(found[0]))}: pre-train "
        f"without them, with the same data.eval_folds or data.eval_share"
    )
    if refuse:
        raise UserError(f"config.data.refuse_heard: {told}")
    logging.warning("WARNING %s", told)
    return {"heard": len(found), "heard_of": len(held_out)}


def _has(known, source):
    """bool [n]. Who has heard a file or a part of it has heard what the other parts are like."""
    return known.has(source.contents()) | known.has(source.wholes())


@functools.cache  # once, however many folds there are
def _say_unknown(origin):
    logging.info(
        "%s does not say which clips its encoder has heard, so whether held-out ones are among "
        "them is not checked: nothing to do, unless it was pre-trained on these recordings",
        origin,
    )


def check_draw(known: Known, drawn: Drawn | None) -> None:
    """Raises UserError where a run that goes on would draw other clips to train on or to validate
    with than it did, of those it knows that are still there; warns if its draw is unrecorded."""
    if known.old is None or drawn is None:
        return
    old, new = known.old.listing, known.listing
    same = np.array_equal(old.contents[old.present & ~old.held_out], new.contents[~new.held_out])
    drawn.check(known.old.drawn, np.intersect1d(old.contents, new.contents), same=same)
    if known.old.drawn is None:
        logging.warning(
            "WARNING this run was begun by a version that did not record which clips are trained "
            "on and validated with: had their labels or groups changed since, it would not be seen"
        )


def write(workdir, known: Known, train, drawn: Drawn | None = None) -> None:
    """Writes the record of a run that begins or goes on, where it is not there already.

    Args:
      workdir: of the run.
      known: of `open_all`.
      train: Source of the clips that it trains on.
      drawn: of `selection.drawn`.

    Raises:
      OSError: it cannot be written.
    """
    listing, old, encoder, lost, by_name = known
    # A part alone would not be known in another cut of its recording.
    own = heard.union(
        heard.of_contents(train.contents()),
        heard.of_contents(train.wholes()),
    )
    parts = [own, _UNKNOWN if encoder is None else encoder]
    if lost:  # clips that have gone since are in no list
        parts.append(_UNKNOWN)
    if old is not None:
        parts.append(old.heard)
        if drawn and old.drawn:  # of what is gone, which may come back
            gone = np.setdiff1d(old.listing.contents, listing.contents)
            drawn = drawn.with_gone(old.drawn, gone)
        listing = _with_gone(listing, old.listing)
    record = Record(listing, heard.union(*parts), encoder, by_name, drawn)
    if old is None or not _same(record, old):
        _write(pathlib.Path(workdir) / FILE, record)


def _with_gone(new, old):
    gone = ~heard.of_contents(new.contents).has(old.contents)
    return Listing(
        new.names + [name for name, is_gone in zip(old.names, gone, strict=True) if is_gone],
        np.concatenate([new.contents, old.contents[gone]]),
        np.concatenate([new.held_out, old.held_out[gone]]),
        np.concatenate([new.present, np.zeros(gone.sum(), bool)]),
    )


def _same(one, other):
    pairs = zip(one.listing[1:], other.listing[1:], strict=True)
    return (
        one.listing.names == other.listing.names
        and all(np.array_equal(a, b) for a, b in pairs)
        and np.array_equal(one.heard.clips, other.heard.clips)
        and one.heard[1:] == other.heard[1:]
        and one.by_name == other.by_name
        and (one.drawn is None) == (other.drawn is None)
        and all(map(np.array_equal, one.drawn or (), other.drawn or ()))
    )


def _write(path, record):
    arrays = {name: getattr(record.listing, name) for name in _ARRAYS}
    for name, part in (("heard", record.heard), ("encoder", record.encoder)):
        packed, bits = heard.pack(part or _NOTHING)
        arrays[name] = packed
        arrays[f"{name}_"] = np.array([-1 if part is None else bits, part is None or part.whole])
    arrays["by_name"] = np.array(record.by_name)
    arrays |= record.drawn._asdict() if record.drawn else {}
    names = "\0".join(record.listing.names).encode("utf-8", "surrogateescape")
    arrays["names"] = np.frombuffer(names, np.uint8)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # which packs badly: of millions it would take 20 s
    os.replace(temporary, path)


def read(workdir) -> Record | None:
    """None where there is none, or it is damaged, which is said."""
    path = pathlib.Path(workdir) / FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            arrays = [file[name] for name in _ARRAYS]
            if any(len(array) != len(names) for array in arrays):
                raise ValueError(f"{len(names)} names")
            by_name = "by_name" in file and bool(file["by_name"])
            drawn = Drawn(file["trained"], file["validated"]) if "trained" in file else None
            parts = []
            for name in ("heard", "encoder"):
                bits, whole = file[f"{name}_"].tolist()
                known = bits >= 0
                parts.append(heard.unpack(file[name], bits, whole=bool(whole)) if known else None)
        if parts[0] is None:
            raise ValueError("nothing heard")
        return Record(Listing(names, *arrays), *parts, by_name, drawn)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds
        logging.warning("%s is damaged and cannot be used: %s", path, error)
        return None
