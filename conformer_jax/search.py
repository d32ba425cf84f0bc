"""python -m conformer_jax.search FOLDER QUERY.wav | --map=FILE.html | --unlike[=MANIFEST]

Searches what `conformer_jax.embed` wrote: what sounds like this, what is there, what to label next.
"""

import argparse
import os
import pathlib
import sys

from conformer_jax.command import using

_NEAREST, _TO_LABEL = 10, 100  # rows by default
_PLAYERS = 50  # on a page
_QUERY_S = 60  # of the query, at most, are on the page
_MEMORY = 200_000_000  # bytes of vectors that --unlike chooses from
_CANDIDATES = 50_000  # windows, likewise
_HELP = {
    "folder": "what `python -m conformer_jax.embed` wrote",
    "query": "a sound: the windows of the recordings that are most like it",
    "map": "instead of searching: write a web page that draws all windows in two dimensions, to "
    "point at and to listen to",
    "method": "of --map: pca, or tsne, which keeps neighbours together and needs scikit-learn",
    "labels": "of --map: colours from this manifest; default: manifest.csv among the recordings, "
    "else the folders that they lie in",
    "unlike": "instead of searching: list windows in the order in which to label them: unlike what "
    "the manifest labels (default: manifest.csv among the recordings, if there), unlike each "
    "other, and those first of which the model is unsure",
    "top": f"rows; default: {_NEAREST}, with --unlike {_TO_LABEL}",
    "page": f"write a web page with players of the windows, too; {_PLAYERS} at most",
    "model": "the model that made FOLDER, if it has been moved",
    "recordings": "where the recordings lie, if they have been moved",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m conformer_jax.search",
        description="Search in a folder of embeddings: what sounds like a query, a map of all "
        "that is there, or what to label next.",
    )
    add = made.add_argument
    add("folder", metavar="FOLDER", help=_HELP["folder"])
    add("query", metavar="QUERY", nargs="?", help=_HELP["query"])
    add("--map", metavar="FILE", help=_HELP["map"])
    add("--method", choices=("pca", "tsne"), default="pca", help=_HELP["method"])
    add("--labels", metavar="MANIFEST", help=_HELP["labels"])
    add("--unlike", metavar="MANIFEST", nargs="?", const="", help=_HELP["unlike"])
    add("--top", type=int, metavar="N", help=_HELP["top"])
    add("--format", choices=("text", "csv", "json"), default="text", help="default: text")
    add("--output", metavar="FILE", help="file to write the table to; printed without it")
    add("--page", metavar="FILE", help=_HELP["page"])
    add("--overwrite", action="store_true", help="replace what is to be written if it exists")
    add("--model", metavar="MODEL", help=_HELP["model"])
    add("--recordings", metavar="DIR", help=_HELP["recordings"])
    return made


def main(argv=None) -> int:
    """The command; returns its exit code."""
    args = parser().parse_args(argv)
    return using.answer(lambda: _run(args))


def _run(args) -> int:
    from conformer_jax.errors import UserError
    from conformer_jax.inference import stored

    wanted = [args.query is not None, args.map is not None, args.unlike is not None]
    if sum(wanted) != 1:
        raise UserError("give one of a QUERY (a sound), --map=FILE and --unlike[=MANIFEST]")
    if args.top is not None and args.top < 1:
        raise UserError(f"--top={args.top}: at least 1")
    for flag in ("map", "output", "page"):
        using.check_output(flag, getattr(args, flag), overwrite=args.overwrite)
    if args.query is not None and not pathlib.Path(args.query).is_file():
        raise UserError(
            f"{args.query} is not a file" if os.path.exists(args.query) else f"no {args.query}"
        )
    store = stored.read(args.folder)
    if args.recordings:
        if not pathlib.Path(args.recordings).is_dir():
            raise UserError(f"--recordings={args.recordings} is not a folder")
        store = store._replace(recordings=pathlib.Path(args.recordings))
    if not len(store.vectors):
        raise UserError(f"{args.folder} holds no vectors yet: embed recordings into it first")
    if args.map is not None:
        return _map(args, store)
    return _search(args, store) if args.query is not None else _unlike(args, store)


def _model(args, store):
    """The model that made the store; a UserError where it is gone, or another now."""
    from conformer_jax.errors import UserError
    from conformer_jax.inference import model as models

    name = args.model or store.model
    if not name:
        raise UserError(f"{args.folder} does not say where its model lies: give --model=MODEL")
    try:
        model = models.load(name)
    except UserError as error:
        hint = "" if args.model else "; --model=MODEL names the model that made the embeddings"
        raise UserError(f"{error}{hint}") from error
    if model.digest != store.digest:
        raise UserError(
            f"{name} is not the model that made {args.folder} ({model.digest} here, "
            f"{store.digest} there): give that one with --model, or embed anew into another folder"
        )
    return model


def _search(args, store) -> int:
    import numpy as np

    from conformer_jax.inference import similarity, windows
    from conformer_jax.reporting.player import Clip

    model = _model(args, store)
    times = {"window_s": store.window_s, "hop_s": store.hop_s}
    parts = list(model.parts(args.query, None, "embedding", **times))
    lengths = [part.end - part.start for part in parts]
    query = np.average([part.values["embedding"] for part in parts], axis=0, weights=lengths)
    itself = []
    if store.recordings is not None:
        path = os.path.realpath(args.query)
        inside = os.path.relpath(path, os.path.realpath(store.recordings))
        name = pathlib.Path(inside).as_posix()
        itself = [row for row, file in enumerate(store.files) if file == name]
    found = similarity.nearest(store.vectors, query, args.top or _NEAREST, itself)
    rows = [
        _described(store, row) | {"similarity": round(float(s), 4)}
        for row, s in zip(found.rows, found.similarity, strict=True)
    ]
    _write_table(args, rows)
    if args.page:
        audio = windows.read_part(args.query, model.sample_rate, 0, _QUERY_S)
        clip = Clip(args.query, "", 0.0, len(audio) / model.sample_rate)
        heading = f"Nearest of {len(store.vectors)} windows"
        _write_page(args, store, model, rows, found.rows, heading, (clip, audio))
    return 0


def _unlike(args, store) -> int:
    import numpy as np

    from conformer_jax.errors import UserError
    from conformer_jax.inference import known_labels, similarity

    labels = known_labels.of(store, args.unlike or None, folders=False)
    labelled = np.array([bool(label) for label in labels])
    free = np.flatnonzero(~labelled)
    if not len(free):
        listed = args.unlike or store.recordings / "manifest.csv"
        raise UserError(
            f"all windows of {args.folder} have labels already, by {listed}: embed other "
            f"recordings, or name another manifest after --unlike"
        )
    most = min(_CANDIDATES, max(1, _MEMORY // (4 * store.vectors.shape[1])))
    chosen = free[similarity.evenly(len(free), most)]
    if len(chosen) < len(free):
        print(f"chosen from {len(chosen)} of {len(free)} windows, evenly", file=sys.stderr)
    vectors = np.asarray(store.vectors[chosen])
    model = _model(args, store)
    unsure, known = np.zeros(len(chosen)), False
    if model.label_names and (logits := model.logits_of(vectors)) is not None:
        known = True
        p = model.probabilities(logits)
        unsure = similarity.uncertainty(p, single=not model.multi_label)
    else:
        print(
            "the model knows no labels to be unsure of: ordered by distance alone", file=sys.stderr
        )
    given = np.flatnonzero(labelled)
    given = given[similarity.evenly(len(given), most)] if len(given) else given
    picked = similarity.spread(vectors, unsure, args.top or _TO_LABEL, store.vectors[given])
    rows = []
    for i in picked:
        row = _described(store, chosen[i], output=args.output) | {"label": ""}
        rows.append(row | ({"uncertainty": round(float(unsure[i]), 4)} if known else {}))
    _write_table(args, rows)
    if args.page:
        heading = f"To label next, of {len(free)} windows without labels"
        _write_page(args, store, model, rows, chosen[picked], heading)
    return 0


def _map(args, store) -> int:
    import tqdm

    from conformer_jax.errors import UserError
    from conformer_jax.inference import known_labels, similarity, windows
    from conformer_jax.reporting import media, sound_map

    labels = known_labels.of(store, args.labels, folders=True, longest=True)
    rows = similarity.evenly(len(store.vectors), sound_map.POINTS)
    if args.method == "tsne":
        where = similarity.neighbourhoods(store.vectors, rows)
        method = "Drawn by t-SNE: who is near whom counts, distances across the map do not."
    else:
        where = similarity.principal(store.vectors, rows)
        method = "Drawn by the two main directions (PCA) in which the model's vectors differ."
    playable = set(similarity.evenly(len(rows), sound_map.SOUNDS))
    points, silent = [], []
    for i, row in enumerate(tqdm.tqdm(rows, "map", unit="window", disable=None, leave=False)):
        start, end = float(store.start[row]), float(store.end[row])
        sound = None
        if i in playable:
            try:
                last = min(end, start + sound_map.SOUND_S)
                audio = windows.read_part(store.path(row), store.sample_rate, start, last)
                sound = media.small_sound(audio, store.sample_rate)
            except UserError as error:
                silent.append(str(error))
        point = (*map(float, where[i]), store.files[row], start, end, labels[row], sound)
        points.append(sound_map.Point(*point))
    notes = []
    if len(rows) < len(store.vectors):
        notes.append(f"{len(rows)} of {len(store.vectors)} windows are drawn, evenly over all.")
    if len(playable) < len(rows):
        notes.append(f"{len(playable)} of them, the larger dots, can be played.")
    if silent:
        notes.append(f"{len(silent)} cannot be played, such as: {silent[0]}.")
    title = f"Map of {(store.recordings or pathlib.Path(args.folder)).name}"
    using.write_page(args.map, sound_map.page(title, points, method, notes))
    return 0


def _described(store, row, output=None) -> dict:
    """file or, of a list to label, path: as a manifest in the folder of `output` writes it."""
    times = {"start": round(float(store.start[row]), 3), "end": round(float(store.end[row]), 3)}
    name = store.files[row]
    if output is None:
        return {"file": name} | times
    if store.recordings is not None:
        folder = os.path.dirname(os.path.realpath(output))
        name = pathlib.Path(
            os.path.relpath(os.path.realpath(store.recordings / name), folder)
        ).as_posix()
    return {"path": name} | times


def _write_table(args, rows):
    import csv
    import io
    import json

    from conformer_jax.inference.tables import clock

    memory = io.StringIO()
    if args.format == "json":
        memory.write(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    elif args.format == "csv" or args.output:
        writer = csv.DictWriter(memory, list(rows[0]) if rows else ["file"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        for row in rows:
            name, start, end, *rest = row.values()
            figures = "".join(f"{value:.3f}  " for value in rest if value != "")
            memory.write(f"{clock(start):>9} to {clock(end):>9}  {figures}{name}\n")
    if args.output:
        using.write_whole(args.output, memory.getvalue())
        print(f"Wrote {args.output}: {len(rows)} rows")
    else:
        sys.stdout.write(memory.getvalue())


def _write_page(args, store, model, rows, numbers, heading, query=None):
    """The windows `numbers` of the store, described in `rows`; query: (Clip, samples)."""
    from conformer_jax.errors import UserError
    from conformer_jax.inference import windows
    from conformer_jax.reporting import heard, player

    found = []
    for row, number in list(zip(rows, numbers, strict=True))[:_PLAYERS]:
        start, end = float(store.start[number]), float(store.end[number])
        figure = next((f"{n} {row[n]:.3f}" for n in ("similarity", "uncertainty") if n in row), "")
        name = store.files[number]
        times = f"{player.clock(start)} to {player.clock(end)}"
        detail = f"{times}, {figure}" if figure else times
        clip = player.Clip(name, f"{len(found) + 1}. {name}", start, end, detail=detail)
        try:
            audio = windows.read_part(store.path(number), model.sample_rate, start, end)
        except UserError as error:
            found.append((clip, str(error)))
        else:
            found.append((player.with_sound(clip, model.feature_spec, audio), ""))
    left = len(rows) - len(found)
    notes = [f"{left} more are in the table only."] if left else []
    shown = player.with_sound(query[0], model.feature_spec, query[1]) if query else None
    title = f"Like {pathlib.Path(args.query).name}" if query else "What to label next"
    using.write_page(args.page, heard.matches(title, heading, shown, found, notes))


if __name__ == "__main__":
    sys.exit(main())
