"""A set of questions dealt out to several machines: a file of records per shard, put together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corea.evaluation import are_kept
from corea.questions.base import Question
from corea.records import RecordsError, read_records, write_records


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares of a set of questions, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard from "2/8". Raises ValueError for another form, and if there is no such shard."""
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"no shard {text!r}: of eight, the first is 1/8 and the last 8/8")
        return cls(int(match[1]), int(match[2]))

    def share(self, questions: list[Question]) -> list[Question]:
        """This shard's questions, which follow each other in the set."""
        rows = np.array_split(np.arange(len(questions)), self.count)[self.index - 1]
        return [questions[row] for row in rows]

    def path(self, whole: Path) -> Path:
        """The file of this shard's records; the set's own file if there is only one shard."""
        name = f"{whole.stem}.shard-{self.index}-of-{self.count}.parquet"
        return whole if self.count == 1 else whole.with_name(name)


def merge_shards(whole: Path, settings: str, questions: Sequence[Question], samples: int) -> bool:
    """Write the records of a set from those of its shards, and remove these; False without any.

    Raises RecordsError, and changes nothing, if its shards are not the whole set, once.
    """
    paths = sorted(whole.parent.glob(f"{whole.stem}.shard-[0-9]*-of-[0-9]*.parquet"))
    if not paths:
        return False
    count, *others = {int(path.stem.rpartition("-")[2]) for path in paths}
    if others:
        names = ", ".join(path.name for path in paths)
        raise RecordsError(f"{whole}: shards of several counts lie beside each other ({names})")
    if missing := [n for n in range(1, count + 1) if Shard(n, count).path(whole) not in paths]:
        raise RecordsError(f"{whole}: shard {missing[0]}/{count} is missing; make it")
    for path in paths:
        are_kept(path, settings, questions)  # which gives those of an older corea their questions
    rows = read_records(paths)
    if others := sum(rows["settings"] != settings):
        raise RecordsError(f"{whole}: {others} rows of its shards were made with other settings")
    keys = set(zip(rows["question_id"], rows["sample"], strict=True))
    expected = {(question.id, sample) for question in questions for sample in range(samples)}
    if wrong := expected - keys or keys - expected:
        where = "missing from" if expected - keys else "too many in"
        raise RecordsError(f"{whole}: {len(wrong)} rows are {where} its shards, first {min(wrong)}")
    write_records(rows, whole)
    for path in paths:
        path.unlink()
    return True
