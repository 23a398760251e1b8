"""Records: the one table that analysis reads, a row for each answer of a system to a question.

Its columns are written down once, in `SCHEMA`, and checked on write and on read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from corea.support.files import atomic_write


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SCHEMA = pa.schema(
    [
        _required("profile", pa.string()),
        _required("system", pa.string()),  # "SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM", "LLM", ...
        _required("run", pa.string()),  # id of the training run, "base" for the base weights
        _required("dataset", pa.string()),
        _required("group", pa.string()),
        _required("question_id", pa.string()),
        _required("family", pa.string()),
        _required("level", pa.int16()),
        _required("sample", pa.int16()),
        pa.field("answer", pa.string()),  # null: none was given
        pa.field("gold", pa.string()),  # null: not known
        _required("answer_type", pa.string()),
        pa.field("correct", pa.bool_()),  # null exactly if `gold` is
        pa.field("confidence", pa.float64()),  # the stated one, in [0, 1]; null: none was stated
        _required("well_formed", pa.bool_()),
        _required("problems", pa.string()),
        _required("prompt_tokens", pa.int32()),
        _required("completion_tokens", pa.int32()),
        _required("finish", pa.string()),
        _required("text", pa.string()),
        pa.field(
            "mean_probability", pa.float64()
        ),  # of all completion tokens; null: log-probabilities were not kept
        pa.field("answer_probability", pa.float64()),  # of the answer's tokens
        pa.field(
            "numerals", pa.string()
        ),  # "0.7:0.6312 0.8:0.21": what could stand for the confidence, see `engines`
        _required("seed", pa.int64()),
        _required("settings", pa.string()),  # hash, see `settings_hash`
        _required("commit", pa.string()),
    ]
)
KEY = ("system", "dataset", "question_id", "sample")
_ORDER = ["dataset", "question_id", "sample", "system"]
_ALLOWED = {
    "group": ("in-domain", "ood-math", "ood-nonmath", "calibration", "own"),
    "answer_type": ("math", "choice", "text"),
    "finish": ("stop", "length"),
}
_PROBABILITIES = ("confidence", "mean_probability", "answer_probability")
_NOT_NEGATIVE = ("sample", "prompt_tokens", "completion_tokens")


class RecordsError(ValueError):
    """A table that does not keep to `SCHEMA`; the one line names the file and the column."""


def write_records(frame: pd.DataFrame, path: str | Path) -> None:
    """Write records as parquet; equal rows, in any order, give equal bytes.

    Rows are sorted by dataset, question, sample and system.  Raises RecordsError for a column that
    is missing, unknown or of the wrong type, a null or a value that is not allowed, and a doubled
    (system, dataset, question_id, sample); OSError where the file cannot be written.
    """
    table = _table(frame, path)
    _check_values(table.to_pandas(), path)
    table = table.sort_by([(name, "ascending") for name in _ORDER])
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd")


def read_records(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Read one file of records, or several as one frame, in the order given.

    A missing answer or confidence reads as NaN.  Raises RecordsError as `write_records` does, also
    for a file that is not parquet and for a row that two of the files hold.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise RecordsError("no files of records to read")
    frames = {}
    for path in paths:
        frames[str(path)] = _read_table(path).to_pandas()
        _check_values(frames[str(path)], path)
    together = pd.concat(frames)
    doubled = together[together.duplicated(list(KEY))]
    if len(doubled):
        file = doubled.index[0][0]
        raise RecordsError(f"{file}: {_row(doubled)} is also in another of the files read with it")
    return together.reset_index(drop=True)


def _table(frame: pd.DataFrame, path: str | Path) -> pa.Table:
    """The columns of SCHEMA, in its order, without pandas' metadata (which names versions)."""
    _check_names(list(frame.columns), path)
    columns = []
    for field in SCHEMA:
        try:
            found = pa.array(frame[field.name], from_pandas=True)
            if not _fits(found.type, field.type):
                raise TypeError(f"it holds {found.type}")
            columns.append(found.cast(field.type))
        except (ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise RecordsError(
                f"{path}: column {field.name!r} must be {field.type}: {reason}"
            ) from error
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values may be cast; Arrow alone would make any number a bool, and "0.5" a number."""
    is_ = pa.types
    if is_.is_null(found):
        return True
    if is_.is_floating(wanted):
        return is_.is_floating(found) or is_.is_integer(found)
    if is_.is_string(wanted):
        return is_.is_string(found) or is_.is_large_string(found)
    return is_.is_integer(found) if is_.is_integer(wanted) else found == wanted


def _read_table(path: str | Path) -> pa.Table:
    try:
        with open(path, "rb") as stream:
            table = pq.ParquetFile(stream).read()
    except pa.ArrowInvalid as error:
        raise RecordsError(f"{path}: not a parquet file, or a damaged one") from error
    _check_names(table.column_names, path)
    for field in SCHEMA:
        found = table.schema.field(field.name).type
        if found != field.type:
            raise RecordsError(
                f"{path}: column {field.name!r} has type {found}; it must be {field.type}"
            )
    return table.select(SCHEMA.names)


def _check_names(names: Sequence[str], path: str | Path) -> None:
    for name in SCHEMA.names:
        if name not in names:
            raise RecordsError(f"{path}: column {name!r} is missing; see corea.records.SCHEMA")
    for name in names:
        if name not in SCHEMA.names or list(names).count(name) > 1:
            raise RecordsError(f"{path}: column {name!r} is unknown or doubled")


def _check_values(rows: pd.DataFrame, path: str | Path) -> None:
    for field in SCHEMA:
        if not field.nullable:
            _refuse(rows, rows[field.name].isna(), path, field.name, "must not be null")
    ungraded = rows["correct"].isna() != rows["gold"].isna()
    _refuse(rows, ungraded, path, "correct", "must be null exactly if 'gold' is")
    for name in _PROBABILITIES:
        stated = rows[name].dropna()
        _refuse(stated.to_frame(), ~stated.between(0, 1), path, name, "must be in [0, 1] or null")
    for name in _NOT_NEGATIVE:
        _refuse(rows, rows[name] < 0, path, name, "must be at least 0")
    for name, allowed in _ALLOWED.items():
        _refuse(rows, ~rows[name].isin(allowed), path, name, f"must be one of {', '.join(allowed)}")
    doubled = rows[rows.duplicated(list(KEY))]
    if len(doubled):
        raise RecordsError(f"{path}: columns {', '.join(KEY)}: {_row(doubled)} is there twice")


def _refuse(rows: pd.DataFrame, wrong: pd.Series, path, column: str, rule: str) -> None:
    if wrong.any():
        value = rows.loc[wrong, column].iloc[0]
        raise RecordsError(
            f"{path}: column {column!r} {rule}; {wrong.sum()} rows break this, first {value!r}"
        )


def _row(rows: pd.DataFrame) -> str:
    system, dataset, question, sample = rows[list(KEY)].iloc[0]
    return f"{system}'s answer to {question!r} of {dataset!r}, sample {sample},"
