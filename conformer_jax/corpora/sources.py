"""Corpora as people have them: KIND:PATH, opened without reading any audio.

manifest:FILE a CSV of `python -m conformer_jax.manifest`, or written like one
folder:DIR    audio files, with the CSV files that the corpus is published with
parquet:DIR   Parquet files as on the Hugging Face hub: a column `audio`, the others about it
tar:DIR       WebDataset: key.flac beside key.json, key.cls or key.txt
json:FILE     as AST and EAT: {"data": [{"wav": path, "labels": "a,b"}]}, audio beside it
h5:FILE       as PaSST: audio_name, mp3, target (bits)
"""

import csv
import difflib
import json
import os
import pathlib
import re
import tarfile
from typing import NamedTuple

from conformer_jax.corpora.places import AUDIO_COLUMNS
from conformer_jax.data import tree
from conformer_jax.data.audio import DataError
from conformer_jax.errors import unknown

KINDS = ("folder", "manifest", "parquet", "tar", "json", "h5")
_EXTENSIONS = """
    .wav .flac .mp3 .ogg .oga .opus .aif .aiff .au .caf .w64 .m4a .mp4 .webm .mkv .aac"""
_SOUNDS = tuple(_EXTENSIONS.split())


class Entry(NamedTuple):
    """A piece of audio that is there. name: its path or key within the corpus; fields: what is
    written beside it; where: path of the file that holds it, for the split."""

    name: str
    fields: dict
    place: tuple
    where: str


class Folder:
    """A folder of audio files and tables."""

    kind = "folder"

    def __init__(self, path):
        self.path = pathlib.Path(path)
        found = tree.find(self.path)
        self._files = {file.relative_to(self.path).as_posix(): file for file in found.files}
        self._stems = {}
        for name in self._files:
            if name.lower().endswith(_SOUNDS):
                self._stems.setdefault(pathlib.PurePosixPath(name).stem, name)

    def entries(self):
        """Yields an Entry for each file with the extension of a sound."""
        for name, file in self._files.items():
            if name.lower().endswith(_SOUNDS):
                yield Entry(name, {}, ("file", str(file.absolute())), name)

    def place(self, name) -> tuple | None:
        """Of a file by its path below the folder, which a table of the corpus names; None where
        there is none. A path that leads out of the folder names none."""
        file = self._files.get(os.path.normpath(name).replace(os.sep, "/"))
        return None if file is None else ("file", str(file.absolute()))

    def place_of_stem(self, *stems) -> tuple | None:
        """Of the first file with one of these names, whatever folder and format it is in."""
        name = next((self._stems[stem] for stem in stems if stem in self._stems), None)
        return None if name is None else self.place(name)

    def has(self, name) -> bool:
        """Whether a table is there, in any folder."""
        return self._table(name) is not None

    def table(self, *names, header=None, skip="\0", delimiter=",") -> list[dict]:
        """The rows of the first of these CSV files that is there, in any folder.

        Args:
          names: of files; of each the path that is nearest to the top is taken.
          header: names of the columns of a file that does not name them.
          skip: beginning of lines that are comments.
          delimiter: of columns.

        Raises DataError: there is none of them, or it cannot be read.
        """
        path = next(filter(None, map(self._table, names)), None)
        if path is None:
            raise DataError(
                f"{self.path} has no {' or '.join(names)}: give the folder that holds the corpus "
                "as it was published, with its tables"
            )
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                lines = (line for line in file if not line.startswith(skip))
                reader = csv.DictReader(
                    lines, header, delimiter=delimiter, skipinitialspace=True, restval=""
                )
                return list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise DataError(f"{path} cannot be read as a CSV file in UTF-8: {e}") from None

    def lines(self, *names) -> list[str]:
        """The lines of a text; as `table`."""
        return [row["line"] for row in self.table(*names, header=["line"], delimiter="\x1f")]

    def _table(self, name):
        fits = [n for n in self._files if n == name or n.endswith("/" + name)]
        return self._files[min(fits, key=lambda n: (n.count("/"), n))] if fits else None


class Manifest(NamedTuple):
    """A manifest; its rows are read by the corpus `any`."""

    path: pathlib.Path
    kind: str = "manifest"

    def entries(self):
        """Raises DataError: the other corpora have tables of their own."""
        raise DataError("manifest: goes with the corpus `any`; give folder: here")


class Records:
    """Audio with fields beside it: all kinds but `folder`."""

    def __init__(self, kind, path):
        self.kind, self.path = kind, pathlib.Path(path)

    def entries(self):
        """Yields the Entries in the order of the files; raises DataError."""
        read = {"parquet": _parquet, "tar": _tar, "json": _json, "h5": _h5}[self.kind]
        extension = {"parquet": ".parquet", "tar": ".tar", "json": ".json", "h5": ".h5"}[self.kind]
        files = _files(self.path, (extension, ".hdf5", ".hdf") if self.kind == "h5" else extension)
        top = self.path if self.path.is_dir() else self.path.parent
        for file in files:
            where = file.relative_to(top).as_posix()
            try:
                for name, fields, place in read(file.absolute()):
                    yield Entry(name, fields, place, where)
            except DataError:
                raise
            except (OSError, ValueError, KeyError, tarfile.TarError) as e:
                raise DataError(f"{file} cannot be read as {self.kind}: {e}") from None


def open_source(text: str):
    """KIND:PATH -> Folder or Records. Raises DataError: no such kind, or nothing there."""
    kind, colon, path = text.partition(":")
    if not colon or kind not in KINDS:
        if not colon:
            raise DataError(f"--source={text}: write KIND:PATH, such as folder:{text}")
        raise DataError(f"--source={text}: {unknown('kind of source', kind, list(KINDS))}")
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        folder = os.path.dirname(os.path.abspath(path))
        names = os.listdir(folder) if os.path.isdir(folder) else []
        near = difflib.get_close_matches(os.path.basename(path), names, 1)
        hint = f"; did you mean {os.path.join(folder, near[0])}?" if near else ""
        raise DataError(f"--source={text}: there is no {path}{hint}")
    if kind == "folder":
        if not os.path.isdir(path):
            raise DataError(f"--source={text}: {path} is not a folder")
        return Folder(path)
    if kind == "manifest":
        return Manifest(pathlib.Path(path))
    return Records(kind, path)


def split_of(where: str, names: dict[str, str], otherwise: str) -> str:
    """The split that a path speaks of, such as train-00000-of-00009.parquet.

    Args:
      where: the path.
      names: words to look for, in this order, and the splits that they mean. Those that begin where
        a word of the path begins come first, and else the longest: 'val' is not what is meant in
        'eval'.
      otherwise: where there is none of them.
    """
    lowered = where.lower()
    begin = (word for word in names if re.search(rf"(?<![a-z]){re.escape(word)}", lowered))
    within = (word for word in sorted(names, key=len, reverse=True) if word in lowered)
    word = next(begin, None) or next(within, None)
    return otherwise if word is None else names[word]


def _files(path, extensions):
    if path.is_file():
        return [path]
    found = [file for file in tree.find(path).files if file.name.lower().endswith(extensions)]
    if not found:
        raise DataError(f"{path} contains no file that ends in {extensions}")
    return found


def _parquet(file):
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("parquet: needs pyarrow: pip install 'conformer_jax[prepare]'") from None
    with pq.ParquetFile(file) as opened:
        names = opened.schema_arrow.names
        audio = next((c for c in AUDIO_COLUMNS if c in names), None)
        if audio is None:
            raise DataError(f"{file} has no column {' or '.join(AUDIO_COLUMNS)}")
        others = [name for name in names if name != audio]
        classes = _class_names((opened.schema_arrow.metadata or {}).get(b"huggingface"))
        path = f"{audio}.path"  # read without the bytes beside it
        has_path = path in {opened.schema.column(i).path for i in range(len(opened.schema))}
        for group in range(opened.num_row_groups):
            columns = [*others, path] if has_path else others
            rows = opened.read_row_group(group, columns=columns).to_pylist()
            for row, fields in enumerate(rows):
                for column in classes.keys() & fields.keys():
                    fields[column] = _in_words(fields[column], classes[column])
                inner = fields.pop(audio, None) or {}
                name = inner.get("path") or f"{file.stem}/{group}/{row}"
                yield name, fields, ("parquet", str(file), group, row)


def _class_names(text) -> dict[str, list[str]]:
    """Names of the classes, by column, of what the library `datasets` notes in a file's schema."""
    try:
        features = json.loads(text or b"{}")["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for column, feature in features.items():
        # A list of classes: {"feature": ..., "_type": "Sequence" or "List"}, or [...].
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = inner["names"]
    return found


def _in_words(value, names):
    """Of a number, or a list of them, the classes' names; None of -1, which is no label."""
    if isinstance(value, list):
        return [name for one in value if (name := _in_words(one, names)) is not None]
    if not isinstance(value, int):
        return value
    if value >= len(names):
        raise ValueError(f"class {value} of {len(names)}")
    return names[value] if value >= 0 else None


def _tar(file):
    """The members of one key lie side by side; names are keys, never paths to write to."""
    key, fields, places = None, {}, []
    with tarfile.open(file, "r:") as archive:
        for member in archive:
            if not member.isfile():
                continue
            folder, _, last = member.name.rpartition("/")
            stem, _, extension = last.partition(".")
            if (folder, stem) != key:
                yield from ((name, fields, place) for name, place in places)
                key, fields, places = (folder, stem), {}, []
            if f".{extension.lower()}".endswith(_SOUNDS):
                places.append((member.name, ("tar", str(file), member.offset_data, member.size)))
            elif extension in ("json", "cls", "txt") and member.size < 1 << 20:
                text = archive.extractfile(member).read().decode("utf-8", "replace").strip()
                found = json.loads(text) if extension == "json" else {"label": text}
                fields |= found if isinstance(found, dict) else {}
    yield from ((name, fields, place) for name, place in places)


def _json(file):
    content = json.loads(file.read_text("utf-8"))
    beside = Folder(file.parent)
    for one in content["data"] if isinstance(content, dict) else content:
        # Their paths are of the machine that wrote them: the name tells which file beside it.
        name = str(one["wav"])
        place = beside.place(name) or beside.place_of_stem(pathlib.PurePosixPath(name).stem)
        fields = {key: value for key, value in one.items() if key != "wav"}
        if isinstance(fields.get("labels"), str):
            fields["labels"] = [part for part in fields["labels"].split(",") if part]
        yield os.path.basename(name), fields, place


def _h5(file):
    try:
        import h5py
    except ImportError:
        raise DataError("h5: needs h5py: pip install 'conformer_jax[prepare]'") from None
    import numpy as np

    with h5py.File(file, "r") as opened:
        names, targets = opened["audio_name"][:], opened["target"]
        for row, name in enumerate(names):
            bits = np.unpackbits(targets[row].astype(np.uint8))
            fields = {"labels": np.flatnonzero(bits).tolist()}
            text = name.decode() if isinstance(name, bytes) else str(name)
            yield text, fields, ("h5", str(file), row)
