"""Records: the one table that analysis reads, a row for each answer of a system to a question."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from corea.grader import ANSWER_TYPES
from corea.questions.base import CALIBRATION, GROUPS
from corea.support.files import atomic_write

_COLUMNS = {  # "?": may be null
    "profile system run": "string",  # run: id of the training run, "base" for base weights
    "dataset group question_id": "string",
    "content_id question family": "string",  # the question's id by content, and its text
    "level sample": "int16",
    "answer? gold? answer_type": "string",  # null: none was given; it is not known
    "correct?": "bool",  # null exactly if `gold` is
    "confidence?": "double",  # null: none was stated
    "well_formed": "bool",
    "problems": "string",
    "prompt_tokens completion_tokens": "int32",
    "finish text": "string",
    "mean_probability? answer_probability?": "double",  # null: log-probabilities were not kept
    "numerals?": "string",  # "0.7:0.63120 0.8:0.21000": what could stand for the confidence
    "seed": "int64",
    "settings commit": "string",  # settings: a hash
}
SCHEMA = pa.schema(
    pa.field(name.rstrip("?"), kind, nullable=name.endswith("?"))
    for names, kind in _COLUMNS.items()
    for name in names.split()
)
KEY = ("system", "dataset", "question_id", "sample")
_ORDER = ("dataset", "question_id", "sample", "system")
_ALLOWED = {
    "group": (*GROUPS, CALIBRATION, "own"),
    "answer_type": ANSWER_TYPES,
    "finish": ("stop", "length"),
}
_CASTS = {"O": "O", "b": "b", "i": "iu", "f": "fiu"}  # NumPy's kinds: Arrow would cast "1" to 1 too


class RecordsError(ValueError):
    """A table that does not keep to `SCHEMA`; the one line names the file and the column."""


def write_records(frame: pd.DataFrame, path: str | Path) -> None:
    """Write records as parquet, sorted; equal rows, in any order, give equal bytes.

    Raises:
        RecordsError: it breaks `SCHEMA`, or has two rows of a `KEY` or two texts of a question.
    """
    table = _checked(frame, path).sort_by([(name, "ascending") for name in _ORDER])
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=15)


def read_records(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Read one file of records, or several as one frame; RecordsError as `write_records`."""
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise RecordsError("no files of records to read")
    tables = {str(path): _checked(read_columns(path), path) for path in paths}
    together = pd.concat({path: table.to_pandas() for path, table in tables.items()})
    _refuse_conflicts(together, f"{len(paths)} files read together")
    return together.reset_index(drop=True)


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the columns and types of `SCHEMA`, as `read_records` gives them."""
    return _checked(frame, "these records").to_pandas()


def read_columns(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Columns of a parquet file as they are, all by default; RecordsError if it is damaged."""
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
    except pa.ArrowInvalid as error:
        raise RecordsError(f"{path}: not a parquet file, or a damaged one") from error
    return table.to_pandas(ignore_metadata=True)


def _checked(frame: pd.DataFrame, path: str | Path) -> pa.Table:
    """The table without pandas' metadata, which names versions; refuses what is no record."""
    names, columns = list(frame.columns), []
    if lacking := [name for name in SCHEMA.names if name not in names]:
        older = "an older corea wrote these; its command adds the questions and asks no model"
        hint = older if lacking == ["content_id", "question"] else "see corea.records.SCHEMA"
        raise RecordsError(f"{path}: column {lacking[0]!r} is missing: {hint}")
    if more := [name for name in names if name not in SCHEMA.names or names.count(name) > 1]:
        raise RecordsError(f"{path}: column {more[0]!r} is unknown or doubled")
    for field in SCHEMA:
        try:
            values = pa.array(frame[field.name], from_pandas=True)
            kind, wanted = (np.dtype(t.to_pandas_dtype()).kind for t in (values.type, field.type))
            if values.null_count < len(values) and kind not in _CASTS[wanted]:
                raise TypeError(f"it holds {values.type}")
            columns.append(values.cast(field.type))
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = f"must be {field.type}: {str(error).splitlines()[0]}"
            raise RecordsError(f"{path}: column {field.name!r} {reason}") from error
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    _check_values(table.to_pandas(), path)
    return table


def _check_values(rows: pd.DataFrame, path: str | Path) -> None:
    """Refuse values that Arrow's types allow and records do not."""
    nulls = rows.isna()
    rules = [(each.name, "not be null", nulls[each.name]) for each in SCHEMA if not each.nullable]
    for name in ("confidence", "mean_probability", "answer_probability"):
        rules.append((name, "be in [0, 1] or null", ~(rows[name].between(0, 1) | nulls[name])))
    for name in ("sample", "prompt_tokens", "completion_tokens"):
        rules.append((name, "be at least 0", rows[name] < 0))
    for name, allowed in _ALLOWED.items():
        rules.append((name, f"be one of {', '.join(allowed)}", ~rows[name].isin(allowed)))
    rules.append(("correct", "be null exactly if 'gold' is", nulls["correct"] != nulls["gold"]))
    for name, rule, wrong in rules:
        if wrong.any():
            broken = f"{wrong.sum()} rows break this, first {rows.loc[wrong, name].iloc[0]!r}"
            raise RecordsError(f"{path}: column {name!r} must {rule}; {broken}")
    _refuse_conflicts(pd.concat({str(path): rows}), path)


def _refuse_conflicts(rows: pd.DataFrame, where: str | Path) -> None:
    """Refuse two rows of one `KEY`, and two texts of one question; files index the rows."""
    doubled = rows[rows.duplicated(list(KEY))]
    if len(doubled):
        system, dataset, question, sample = doubled[list(KEY)].iloc[0]
        answer = f"{system}'s answer to {question!r} of {dataset!r}, sample {sample},"
        several = len(rows.index.levels[0]) > 1
        twice = "is also in another of the files" if several else "is there twice"
        raise RecordsError(f"{doubled.index[0][0]}: {answer} {twice}")
    texts = rows[["dataset", "question_id", "question"]].drop_duplicates()
    second = texts[texts.duplicated(["dataset", "question_id"])]
    if len(second):
        dataset, name, text = second.iloc[0]
        problem = f"question {name!r} of {dataset!r} has two texts, one of them {text[:60]!r}"
        raise RecordsError(f"{where}: {problem}; records of one question must agree on it")
