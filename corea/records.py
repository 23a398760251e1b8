"""Records: the one table that analysis reads, a row for each answer of a system to a question.

Its columns are written down once, in `SCHEMA`, and checked on write and on read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
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
        _required("content_id", pa.string()),  # `questions.base.content_id` of the next
        _required("question", pa.string()),  # its text
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
_CASTS = {"O": "O", "b": "b", "i": "iu", "f": "fiu"}  # NumPy's kinds: Arrow would cast "1" to 1 too


class RecordsError(ValueError):
    """A table that does not keep to `SCHEMA`; the one line names the file and the column."""


def write_records(frame: pd.DataFrame, path: str | Path) -> None:
    """Write records as parquet, sorted; equal rows, in any order, give equal bytes.

    Raises:
        RecordsError: a column is missing, unknown or of the wrong type, holds a null or a value that is not allowed, two rows
            have one `KEY`, or two rows of one question have different texts.
        OSError: the file cannot be written.
    """
    table = _table(frame, path)
    _check_rows(table.to_pandas(), path)
    table = table.sort_by([(name, "ascending") for name in _ORDER])
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=15)


def read_records(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Read one file of records, or several as one frame, in the order given; what is missing reads as NaN.

    Raises:
        RecordsError: as for `write_records`, also among rows of several files; a file is not parquet.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise RecordsError("no files of records to read")
    frames = {str(path): _read(path) for path in paths}
    together = pd.concat(frames)
    if doubled := _doubled(together):
        file = together.index[together.duplicated(list(KEY))][0][0]
        raise RecordsError(f"{file}: {doubled} is also in another of the files read with it")
    _refuse_two_texts(together, f"{len(paths)} files read together")
    return together.reset_index(drop=True)


def _read(path: str | Path) -> pd.DataFrame:
    try:
        with open(path, "rb") as stream:
            table = pq.ParquetFile(stream).read()
    except pa.ArrowInvalid as error:
        raise RecordsError(f"{path}: not a parquet file, or a damaged one") from error
    _check_names(table.column_names, path)
    for field in SCHEMA:
        held = table.schema.field(field.name).type
        if held != field.type:
            raise RecordsError(
                f"{path}: column {field.name!r} has type {held}; it must be {field.type}"
            )
    rows = table.select(SCHEMA.names).to_pandas()
    _check_rows(rows, path)
    return rows


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the columns and types of `SCHEMA`, as `read_records` gives them."""
    return _table(frame, "these records").to_pandas()


def _table(frame: pd.DataFrame, path: str | Path) -> pa.Table:
    """Without pandas' metadata, which names versions."""
    _check_names(list(frame.columns), path)
    return pa.Table.from_arrays([_column(frame, field, path) for field in SCHEMA], schema=SCHEMA)


def _column(frame: pd.DataFrame, field: pa.Field, path: str | Path) -> pa.Array:
    try:
        values = pa.array(frame[field.name], from_pandas=True)
        kind, wanted = (np.dtype(t.to_pandas_dtype()).kind for t in (values.type, field.type))
        if not pa.types.is_null(values.type) and kind not in _CASTS[wanted]:
            raise TypeError(f"it holds {values.type}")
        return values.cast(field.type)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RecordsError(
            f"{path}: column {field.name!r} must be {field.type}: {reason}"
        ) from error


def _check_names(names: Sequence[str], path: str | Path) -> None:
    if "question" not in names and set(SCHEMA.names) - set(names) == {"question", "content_id"}:
        raise RecordsError(
            f"{path}: column 'question' is missing: an older corea wrote these records; the command that made them "
            "adds the questions, without asking a model again"
        )
    for name in SCHEMA.names:
        if name not in names:
            raise RecordsError(f"{path}: column {name!r} is missing; see corea.records.SCHEMA")
    for name in names:
        if name not in SCHEMA.names or list(names).count(name) > 1:
            raise RecordsError(f"{path}: column {name!r} is unknown or doubled")


def _check_rows(rows: pd.DataFrame, path: str | Path) -> None:
    for column, rule, wrong in _rules(rows):
        if wrong.any():
            raise RecordsError(
                f"{path}: column {column!r} {rule}; {wrong.sum()} rows break this, first "
                f"{rows.loc[wrong, column].iloc[0]!r}"
            )
    if doubled := _doubled(rows):
        raise RecordsError(f"{path}: columns {', '.join(KEY)}: {doubled} is there twice")
    _refuse_two_texts(rows, path)


def _rules(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
    """Each rule for the values of a column, and which rows break it."""
    for field in SCHEMA:
        if not field.nullable:
            yield field.name, "must not be null", rows[field.name].isna()
    for name in _PROBABILITIES:
        yield name, "must be in [0, 1] or null", ~rows[name].fillna(0).between(0, 1)
    for name in _NOT_NEGATIVE:
        yield name, "must be at least 0", rows[name] < 0
    for name, allowed in _ALLOWED.items():
        yield name, f"must be one of {', '.join(allowed)}", ~rows[name].isin(allowed)
    ungraded = rows["correct"].isna() != rows["gold"].isna()
    yield "correct", "must be null exactly if 'gold' is", ungraded


def _doubled(rows: pd.DataFrame) -> str:
    """The first row whose key another row has, in words; empty if there is none."""
    doubled = rows[rows.duplicated(list(KEY))]
    if doubled.empty:
        return ""
    system, dataset, question, sample = doubled[list(KEY)].iloc[0]
    return f"{system}'s answer to {question!r} of {dataset!r}, sample {sample},"


def _refuse_two_texts(rows: pd.DataFrame, where: str | Path) -> None:
    """Refuse rows that give one question two texts: their systems were not asked the same."""
    texts = rows[["dataset", "question_id", "question"]].drop_duplicates()
    second = texts[texts.duplicated(["dataset", "question_id"])]
    if len(second):
        dataset, question_id, text = second.iloc[0]
        raise RecordsError(
            f"{where}: question {question_id!r} of {dataset!r} has two texts, one of them {text[:60]!r}; "
            "records of one question must agree on it"
        )
