"""The paper's question sets, read from the Hugging Face hub at pinned revisions or from files on this machine.

| dataset | hub id | rows | licence | left out (`dropped_rows` counts them) |
|---|---|---|---|---|
| deepmath | zwhe99/DeepMath-103K | 103,022 | MIT | rows without an answer |
| math500 | HuggingFaceH4/MATH-500 | 500 | not stated on its card; MATH is MIT | rows without an answer |
| gsm8k | openai/gsm8k | 1,319 | MIT | rows without `####` |
| olympiadbench | Hothan/OlympiadBench | 674 | Apache-2.0 | rows without an answer, or that only a human can grade |
| gpqa | Idavidrein/gpqa, gated | 198 | CC-BY-4.0 | rows with an empty option |
| commonsenseqa | tau/commonsense_qa | 1,221 | MIT | rows without an answer |

Everywhere a repeated question is left out too: the first of them in the order of rows stays.  Two questions are one if their
`normalised` texts are equal.

How questions are drawn, since the paper's own DeepMath16K and DeepMath500 are not public:
1. `tasks.split_of` the normalised text names the split of a DeepMath question; what it calls "pretrain" is training here, so
   that 80% train, 8% calibrate and 12% test.  A question of any other set is a test question.
2. Questions of "train" and "calibration" that also stand in a test set of the paper are left out, see `overlap`.
3. The rest is sorted by the SHA-256 of "seed/text", and the first `size` are taken: a smaller draw begins a larger one, and
   the order of the rows on the hub plays no part.

Files in `data/hub/<dataset>/` of the checkout (without one: of the current folder), or in `<dataset>/` of the folder that
`COREA_HUB` names, come before the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from corea.questions.base import TRAINING, Question, group_of, split_of, test_datasets
from corea.support.files import checkout

if TYPE_CHECKING:
    import datasets
    import pandas as pd

ROOT = checkout() or Path.cwd()
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}
SUITE = "paper"
SPLITS = ("train", "calibration", "test")


class HubSetError(ValueError):
    """A set that cannot be read, in one line: what is wrong and what to do."""


class _NotAsked(Exception):
    """A row that makes no question; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a row says: the question as asked, its gold answer, the family and level it is reported under.

    stem: the question without its options, which is what may stand in another set; by default all of the text.
    """

    text: str
    gold: str
    family: str = ""
    level: int = 1
    stem: str = ""


@dataclass(frozen=True, slots=True)
class HubSet:
    """One set on the hub.  `parts` turns a row, a mapping of `columns`, into the parts of a question.

    revision: the commit of the set, 40 hexadecimal digits.  rows: how many that commit holds.  files: the pattern of the data
    files of this split in the hub's repository.  gated: whether its terms have to be accepted first.
    """

    name: str
    hub_id: str
    config: str
    split: str
    revision: str
    licence: str
    rows: int
    files: str
    columns: tuple[str, ...]
    parts: Callable[[Mapping], Parts]
    answer_type: str = "math"
    gated: bool = False

    @property
    def group(self) -> str:
        """The group that reports the set."""
        return group_of(self.name)

    def __str__(self) -> str:
        return f"{self.hub_id} (config {self.config}, split {self.split}, revision {self.revision})"


@dataclass(frozen=True, slots=True)
class ReadSet:
    """All questions of a set in the order of its rows, by split, with the normalised stem of each, and the rows left out.

    questions, stems: split -> lists of one length.  dropped: reason -> number of rows.
    """

    questions: dict[str, list[Question]]
    stems: dict[str, list[str]]
    dropped: dict[str, int]


# --- from a row to a question ---------------------------------------------------------------------


def _text(value: object) -> str:
    """A cell as text; empty where it is missing, which a CSV file tells by NaN."""
    return "" if value is None or value != value else str(value).strip()


def _level(value: object) -> int:
    """A difficulty, rounded half up, of at least 1 (DeepMath's go from -1 to 10 in steps of a half); 1 where it is missing."""
    text = _text(value)
    return max(1, int(float(text) + 0.5)) if text else 1


def _with_options(question: str, options: Mapping[str, str]) -> str:
    """The question and its options, letter -> wording, one a line."""
    if not all(options.values()):
        raise _NotAsked("an option is empty")
    return "\n".join(
        [
            question,
            "",
            "Choose one letter.",
            *(f"{letter}) {words}" for letter, words in options.items()),
        ]
    )


def _deepmath(row: Mapping) -> Parts:
    topics = _text(row["topic"]).split(
        " -> "
    )  # "Mathematics -> Algebra -> ...": the second says the most in one word
    family = topics[min(1, len(topics) - 1)]
    return Parts(
        _text(row["question"]), _text(row["final_answer"]), family, _level(row["difficulty"])
    )


def _math500(row: Mapping) -> Parts:
    return Parts(
        _text(row["problem"]), _text(row["answer"]), _text(row["subject"]), _level(row["level"])
    )


def _gsm8k(row: Mapping) -> Parts:
    _, mark, last = _text(row["answer"]).rpartition("####")
    return Parts(_text(row["question"]), last.strip().replace(",", "") if mark else "")


def _olympiadbench(row: Mapping) -> Parts:
    """A question of several answers has them all as one list, "1, 2": the grader wants all of them, in any order."""
    if "Need_human_evaluate" in _text(row["answer_type"]):
        raise _NotAsked("only a human can grade it")
    answers = row["final_answer"]
    answers = answers if isinstance(answers, (list, tuple)) else [answers]
    question = "\n\n".join(filter(None, [_text(row["context"]), _text(row["question"])]))
    return Parts(question, ", ".join(filter(None, map(_text, answers))), _text(row["subfield"]))


def _gpqa(row: Mapping) -> Parts:
    """Options are sorted by the SHA-256 of "question/option", so that the right one stands at no place of its own."""
    question, right = _text(row["Question"]), " ".join(_text(row["Correct Answer"]).split())
    options = [right, *(" ".join(_text(row[f"Incorrect Answer {n}"]).split()) for n in (1, 2, 3))]
    options.sort(key=lambda option: _digest(f"{question}/{option}"))
    text = _with_options(question, dict(zip("ABCD", options, strict=True)))
    return Parts(text, "ABCD"[options.index(right)], _text(row["High-level domain"]), stem=question)


def _commonsenseqa(row: Mapping) -> Parts:
    question, gold = _text(row["question"]), _text(row["answerKey"])
    options = dict(zip(row["choices"]["label"], map(_text, row["choices"]["text"]), strict=True))
    return Parts(_with_options(question, options), gold if gold in options else "", stem=question)


# Each revision stands in public code that pins that very set to it; where no repository is named here, only the text of the
# files was seen.
SETS = {
    entry.name: entry
    for entry in (
        HubSet(
            "deepmath", "zwhe99/DeepMath-103K", "default", "train",
            "5cf055d1fe3d7a2eb19719ac020211469736ae44",  # seen in ten files, one of which checks its 103,022 rows
            "MIT", 103_022, "data/train-*.parquet", ("question", "final_answer", "difficulty", "topic"), _deepmath,
        ),
        HubSet(
            "math500", "HuggingFaceH4/MATH-500", "default", "test",
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",  # seen in ten files, two of which check its 500 rows
            "not stated", 500, "test.jsonl", ("problem", "answer", "subject", "level"), _math500,
        ),
        HubSet(
            "gsm8k", "openai/gsm8k", "main", "test",
            "cc7b047b6e5bb11b4f1af84efc572db110a51b3c",  # seen in ten files, among them tests of the pins of inspect_evals 0.20
            "MIT", 1_319, "main/test-*.parquet", ("question", "answer"), _gsm8k,
        ),
        HubSet(
            "olympiadbench", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train",
            "91184b52131e7fc9455fef848035173aea8cc01a",  # seen in nine files, two of which check the 674 rows of this config
            "Apache-2.0", 674, "OlympiadBench/OE_TO_maths_en_COMP/*.parquet",
            ("question", "final_answer", "context", "answer_type", "subfield"), _olympiadbench,
        ),
        HubSet(
            "gpqa", "Idavidrein/gpqa", "gpqa_diamond", "train",
            "633f5ee89ab8ad4522a9f850766b73f62147ffdd",  # seen in ten files, three of which check its 198 rows
            "CC-BY-4.0", 198, "gpqa_diamond.csv",
            ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)), "High-level domain"), _gpqa,
            answer_type="choice", gated=True,
        ),
        HubSet(
            "commonsenseqa", "tau/commonsense_qa", "default", "validation",  # its test split has no answers
            "94630fe30dad47192a8546eb75f094926d47e155",  # seen in huggingface/smollm, text/evaluation/smollm3/tasks.py
            "MIT", 1_221, "data/validation-*.parquet", ("question", "choices", "answerKey"), _commonsenseqa,
            answer_type="choice",
        ),
    )
}  # fmt: skip


# --- questions ------------------------------------------------------------------------------------

_LATEX_SPACE = re.compile(
    r"\\[()\[\],;:! ]|\\(?:q?quad|left|right|displaystyle)(?![A-Za-z])|[$~\s]"
)


def normalised(text: str) -> str:
    """A text without case, white space, and what LaTeX writes around or between formulas: `$`, `\\(`, `\\,`, `\\left`, `~`."""
    return _LATEX_SPACE.sub("", text.casefold())


def draw(name: str, split: str, *, size: int | None = None, seed: int = 0) -> list[Question]:
    """`size` questions of one split, or all; says in one line which test sets a training split was not compared with.

    Raises HubSetError where the set cannot be read, ValueError where it does not hold `size` questions.
    """
    if split == "test":
        return _first(read(name).questions[split], name, split, size, seed)
    questions, table = training_questions(split, size=size, seed=seed)
    for row in table[table["note"] != ""].itertuples():
        print(f"{name}/{split} was not compared with {row.set}: {row.note}")
    return questions


def training_questions(
    split: str = "train", *, size: int | None = None, seed: int = 0
) -> tuple[list[Question], pd.DataFrame]:
    """Questions of "train" or "calibration" that stand in no test set of the paper, and the table of `overlap`."""
    trained = read(TRAINING[SUITE])
    table, found = _compare(split)
    kept = [
        q
        for q, stem in zip(trained.questions[split], trained.stems[split], strict=True)
        if stem not in found
    ]
    return _first(kept, TRAINING[SUITE], split, size, seed), table


def overlap(split: str = "train") -> pd.DataFrame:
    """How many questions of a training split stand in each test set: columns set, questions, dropped, note.

    questions: of the test set; dropped: of the training split, whatever is drawn of it (one that stands in two sets counts in
    both).  Both are missing, and the note says why, for a set that could not be read.  DeepMath's own test questions never
    stand in its training split.
    """
    return _compare(split)[0]


def dropped_rows(name: str) -> dict[str, int]:
    """How many rows of a set make no question, by reason."""
    return dict(read(name).dropped)


def _compare(split: str) -> tuple[pd.DataFrame, set[str]]:
    """The table of `overlap`, and the normalised stems that a training split may not have."""
    import pandas as pd

    stems, forbidden = read(TRAINING[SUITE]).stems[split], set[str]()
    rows: list[tuple[str, int | None, int | None, str]] = []
    for name in test_datasets(SUITE):
        try:
            asked = set(read(name).stems["test"])
        except HubSetError as error:
            rows.append((name, None, None, str(error)))
            continue
        forbidden |= asked
        rows.append((name, len(asked), sum(stem in asked for stem in stems), ""))
    table = pd.DataFrame(rows, columns=["set", "questions", "dropped", "note"])
    return table.astype({"questions": "Int64", "dropped": "Int64"}), forbidden


def _first(questions, name: str, split: str, size: int | None, seed: int) -> list[Question]:
    if size is not None and not 0 <= size <= len(questions):
        raise ValueError(
            f"{name}/{split} holds {len(questions)} different questions of the {size} asked for"
        )
    return sorted(questions, key=lambda q: _digest(f"{seed}/{q.text}"))[:size]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# --- reading --------------------------------------------------------------------------------------


def read(name: str) -> ReadSet:
    """All questions of a set; kept in memory, so that the second call is free.  Raises HubSetError."""
    return _read(SETS[name], local_files(SETS[name]))


@lru_cache(maxsize=32)
def _read(entry: HubSet, files: tuple[Path, ...]) -> ReadSet:
    questions: dict[str, list[Question]] = {split: [] for split in SPLITS}
    stems: dict[str, list[str]] = {split: [] for split in SPLITS}
    seen, dropped = set[str](), Counter[str]()
    for index, row in enumerate(_rows(entry, files)):
        try:
            parts = _checked(entry.parts(row))
        except _NotAsked as reason:
            dropped[str(reason)] += 1
            continue
        key = normalised(parts.text)
        if key in seen:
            dropped["a repeated question"] += 1
            continue
        seen.add(key)
        split = _split(entry, key)
        questions[split].append(_question(entry, split, index, parts))
        stems[split].append(normalised(parts.stem or parts.text))
    return ReadSet(questions, stems, dict(dropped))


def _checked(parts: Parts) -> Parts:
    if not parts.text or not parts.gold:
        raise _NotAsked("no answer" if parts.text else "no question")
    return parts


def _split(entry: HubSet, key: str) -> str:
    if entry.name != TRAINING[SUITE]:
        return "test"
    split = split_of(key)
    return "train" if split == "pretrain" else split


def _question(entry: HubSet, split: str, index: int, parts: Parts) -> Question:
    """Its id holds the number of its row, which the pinned revision makes a name for good."""
    return Question(
        parts.text,
        parts.gold,
        entry.answer_type,
        id=f"{entry.name}/{split}/{index:05d}",
        dataset=entry.name,
        family=parts.family,
        level=parts.level,
    )


def _rows(entry: HubSet, files: tuple[Path, ...]) -> Iterator[dict]:
    table = _from_files(entry, files) if files else _from_hub(entry)
    where = f"{entry.name}: {files[0].parent if files else entry}"
    for column in entry.columns:
        if column not in table.column_names:
            raise HubSetError(
                f"{where} has no column {column!r}; its columns are {', '.join(table.column_names)}"
            )
    if len(table) != entry.rows:
        raise HubSetError(
            f"{where} holds {len(table)} rows; the pinned revision {entry.revision} has {entry.rows}"
        )
    columns = table.select_columns(list(entry.columns))[
        :
    ]  # images and R1's long solutions stay on disk
    for cells in zip(*(columns[name] for name in entry.columns), strict=True):
        yield dict(zip(entry.columns, cells, strict=True))


def local_files(entry: HubSet) -> tuple[Path, ...]:
    """Data files of a set on this machine: as the hub names them, or any of one format; empty where there are none.

    Raises HubSetError where files of several formats lie there.
    """
    for folder in _folders(entry):
        if found := sorted(folder.glob(entry.files)):
            return tuple(found)
        found = sorted(path for path in folder.glob("*") if path.suffix in FORMATS)
        if len({path.suffix for path in found}) > 1:
            raise HubSetError(
                f"{entry.name}: {folder} holds files of several formats; keep one of {', '.join(FORMATS)}"
            )
        if found:
            return tuple(found)
    return ()


def _folders(entry: HubSet) -> list[Path]:
    """Where files of a set may lie, in the order of looking."""
    named = os.environ.get("COREA_HUB")
    return [Path(parent) / entry.name for parent in (named, ROOT / "data" / "hub") if parent]


def _from_files(entry: HubSet, files: tuple[Path, ...]) -> datasets.Dataset:
    import datasets

    try:
        return datasets.load_dataset(
            FORMATS[files[0].suffix], data_files=[str(path) for path in files], split="train"
        )
    except Exception as error:  # the readers behind `datasets` raise errors of many libraries
        raise HubSetError(
            f"{entry.name}: cannot read {files[0]} and its neighbours ({_in_short(error)})"
        ) from error


def _from_hub(entry: HubSet) -> datasets.Dataset:
    import datasets

    try:
        table = datasets.load_dataset(
            entry.hub_id, entry.config, split=entry.split, revision=entry.revision
        )
    except Exception as error:  # those of `datasets`, huggingface_hub and the HTTP client
        raise HubSetError(_why(entry, error)) from error
    # offline, `datasets` takes whatever revision lies in its cache, and only logs it
    cached = {Path(file["filename"]).parent.name for file in table.cache_files}
    if cached - {entry.revision}:
        raise HubSetError(
            f"{entry.name}: the cache holds revision {min(cached)} of {entry.hub_id}; {_remedy(entry)}"
        )
    return table


def _why(entry: HubSet, error: Exception) -> str:
    if _is_refused(entry, error):
        return (
            f"{entry.name}: {entry.hub_id} is gated and this machine has no access; accept its terms at "
            f"https://huggingface.co/datasets/{entry.hub_id}, log in with `hf auth login` or set HF_TOKEN, then "
            f"`HF_HUB_OFFLINE=0 make ...`"
        )
    terms = (
        f" (gated: accept its terms at https://huggingface.co/datasets/{entry.hub_id} first)"
        if entry.gated
        else ""
    )
    return f"{entry.name}: cannot load {entry}: {_in_short(error)}; {_remedy(entry)}{terms}"


def _is_refused(entry: HubSet, error: BaseException | None) -> bool:
    """Whether the hub answered, and refused; `datasets` tells an account without access that a gated set does not exist."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "is a gated dataset" in str(error):
            return True
        if entry.gated and ("doesn't exist on the Hub or cannot be accessed" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _remedy(entry: HubSet) -> str:
    return (
        f"allow downloads with `HF_HUB_OFFLINE=0 make ...`, or fetch the files with `hf download {entry.hub_id} --repo-type "
        f'dataset --revision {entry.revision} --include "{entry.files}" --local-dir {_folders(entry)[0]}`'
    )


def _in_short(error: Exception) -> str:
    """The kind of an error and the start of its text, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
