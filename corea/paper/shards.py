"""A set of questions dealt out to several machines: one file of records for each shard, and a merge that checks them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from corea.questions.base import Question
from corea.records import RecordsError, read_records, write_records

_FORM = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards, counted from 1.  Raises ValueError where there is no such shard."""

    index: int
    count: int

    def __post_init__(self):
        if not 1 <= self.index <= self.count:
            raise ValueError(
                f"no shard {self.index} of {self.count}; the first is 1, the last {self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from "2/8".  Raises ValueError for another form."""
        found = _FORM.fullmatch(text)
        if not found:
            raise ValueError(f"shard {text!r} is not of the form 2/8")
        return cls(int(found[1]), int(found[2]))

    def part(self, questions: Sequence[Question]) -> list[Question]:
        """This shard's questions, dealt out by `datasets.Dataset.shard`, one after the other."""
        from datasets import Dataset

        rows = Dataset.from_dict({"row": range(len(questions))})
        return [
            questions[row] for row in rows.shard(self.count, self.index - 1, contiguous=True)["row"]
        ]

    def path(self, whole: Path) -> Path:
        """Where the records of this shard of a set lie; the set's own file where there is but one shard."""
        return (
            whole
            if self == WHOLE
            else whole.with_name(f"{whole.stem}.shard-{self.index}-of-{self.count}.parquet")
        )


WHOLE = Shard(1, 1)


def merge_shards(whole: Path, settings: str, expected: set[tuple[str, int]]) -> bool:
    """Write the records of a set from those of its shards; returns False where it has none.

    settings: the hash that every row must bear; expected: (question_id, sample) of every row of the whole set.  Raises
    RecordsError, before anything is written, where a shard or a row is missing, doubled, or of other settings.
    """
    paths = sorted(whole.parent.glob(f"{whole.stem}.shard-*-of-*.parquet"))
    if not paths:
        return False
    _check_names(whole, paths)
    rows = read_records(paths)
    if len(other := rows[rows["settings"] != settings]):
        raise RecordsError(
            f"{whole}: {len(other)} rows of its shards were made with other settings; remove them and make them again"
        )
    _check_rows(whole, rows, expected)
    write_records(rows, whole)
    for path in paths:
        path.unlink()
    return True


def _check_names(whole: Path, paths: list[Path]) -> None:
    """All shards of one count."""
    named = [
        found
        for path in paths
        if (found := re.search(r"shard-(\d+)-of-(\d+)\.parquet$", path.name))
    ]
    counts = sorted({int(found[2]) for found in named})
    if len(counts) != 1 or len(named) < len(paths):
        raise RecordsError(
            f"{whole}: shards of several counts lie beside each other ({', '.join(p.name for p in paths)}); keep those of one"
        )
    missing = sorted(set(range(1, counts[0] + 1)) - {int(found[1]) for found in named})
    if missing:
        raise RecordsError(
            f"{whole}: shard {', '.join(f'{n}/{counts[0]}' for n in missing)} is missing; make it, or remove the others"
        )


def _check_rows(whole: Path, rows: pd.DataFrame, expected: set[tuple[str, int]]) -> None:
    found = set(zip(rows["question_id"], rows["sample"], strict=True))
    for wrong, what in (
        (expected - found, "missing from"),
        (found - expected, "not asked for, but in"),
    ):
        if wrong:
            question, sample = min(wrong)
            raise RecordsError(
                f"{whole}: {len(wrong)} rows are {what} its shards, first {question!r}, sample {sample}"
            )
    if len(rows) > len(found):
        raise RecordsError(f"{whole}: {len(rows) - len(found)} rows are in its shards twice")
