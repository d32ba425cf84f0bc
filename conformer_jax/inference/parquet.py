"""The embeddings of a folder as one Parquet file, where pyarrow is installed."""

import os
import pathlib

from conformer_jax.errors import UserError
from conformer_jax.inference import embeddings, stored

_ROWS = 16384  # written at once


def check() -> None:
    """Raises UserError where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install pyarrow") from None


def write(folder) -> None:
    """Writes `embeddings.parquet`: file, start, end (s), row, embedding (float32 list of E).

    Args:
      folder: what `embeddings.Store` wrote; empty ones give an empty table.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    store = stored.read(folder)
    width = store.vectors.shape[1]
    schema = pa.schema(
        [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()),
         ("row", pa.int64()), ("embedding", pa.list_(pa.float32(), width))]
    )  # fmt: skip
    path = pathlib.Path(folder, embeddings.PARQUET)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for first in range(0, len(store.vectors), _ROWS):
                here = slice(first, first + _ROWS)
                flat = pa.array(np.ascontiguousarray(store.vectors[here]).reshape(-1))
                columns = [
                    pa.array(store.files[here]),
                    pa.array(store.start[here]),
                    pa.array(store.end[here]),
                    pa.array(range(first, first + len(store.files[here]))),
                    pa.FixedSizeListArray.from_arrays(flat, width),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
