"""The paper's question sets, read from the Hugging Face hub at pinned revisions, or from files.

The paper's own DeepMath16K and DeepMath500 are not public; ours are drawn so:
1. `base.split_of` the normalised text names the split of a DeepMath question; what it calls
   "pretrain" is training here, so that 80% train, 8% calibrate and 12% test. A question of any
   other set is a test question.
2. A repeated question is left out; two are one if their `normalised` texts are equal. Questions of
   "train" and "calibration" that also stand in a test set of the paper are left out.
3. The rest is sorted by the SHA-256 of "seed/text", and the first `size` are taken: a smaller draw
   begins a larger one, and the order of the rows plays no part.

Files in `<set>/` of the folder that `COREA_HUB` names, or in `data/hub/<set>/` of the checkout
(without one: of the current folder), come before the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from corea.questions.base import TRAINING, Question, split_of, test_datasets
from corea.support.files import checkout

ROOT = checkout() or Path.cwd()
SUITE = "paper"
_CHOOSE = "\n\nChoose one letter."  # after it come the options
_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


class HubSetError(ValueError):
    """A set that cannot be read, in one line: what is wrong and what to do."""


class _LeftOut(Exception):
    """A row that makes no question; its text is the reason."""


@dataclass(frozen=True, slots=True)
class HubSet:
    """One set on the hub.

    Attributes:
        revision: the commit of the set, 40 hexadecimal digits.
        rows: how many that commit holds.
        files: the pattern of this split's data files in the set's repository.
        columns: those that `question` reads.
        question: makes a question of a row, without its id; no gold leaves the row out.
        gated: whether its terms must be accepted first.
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
    question: Callable[[Mapping], Question]
    gated: bool = False


@dataclass(frozen=True, slots=True)
class ReadSet:
    """A set by split, in the order of its rows."""

    questions: dict[str, list[Question]]
    stems: dict[str, list[str]]  # normalised, one per question
    dropped: Counter[str]  # rows that were left out, by reason


# --- from a row to a question ---------------------------------------------------------------------


def _text(value: object) -> str:
    """A cell as text; empty if it is missing, which may be told by NaN."""
    return "" if value is None or value != value else str(value).strip()


def _level(value: object) -> int:
    """A difficulty (DeepMath's go from -1 to 10 by halves), rounded half up, 1 or more."""
    text = _text(value)
    return max(1, int(float(text) + 0.5)) if text else 1


def _choice(text: str, options: Mapping[str, str], gold: str, **names) -> Question:
    """A question with its options, letter -> wording, one per line."""
    if not all(options.values()):
        raise _LeftOut("an option is empty")
    lines = [f"{letter}) {words}" for letter, words in options.items()]
    return Question("\n".join([text + _CHOOSE, *lines]), gold, "choice", **names)


def _deepmath(row: Mapping) -> Question:
    # Of "Mathematics -> Algebra -> ...", the second says the most in one word.
    names = {"dataset": "deepmath", "family": _text(row["topic"]).split(" -> ")[:2][-1]}
    gold, level = _text(row["final_answer"]), _level(row["difficulty"])
    return Question(_text(row["question"]), gold, level=level, **names)


def _math500(row: Mapping) -> Question:
    names = {"dataset": "math500", "family": _text(row["subject"])}
    return Question(
        _text(row["problem"]), _text(row["answer"]), level=_level(row["level"]), **names
    )


def _gsm8k(row: Mapping) -> Question:
    _, mark, last = _text(row["answer"]).rpartition("####")
    gold = last.strip().replace(",", "") if mark else ""
    return Question(_text(row["question"]), gold, dataset="gsm8k")


def _olympiadbench(row: Mapping) -> Question:
    """Several answers become one list, "1, 2": the grader wants all of them, in any order."""
    if "Need_human_evaluate" in _text(row["answer_type"]):
        raise _LeftOut("only a human can grade it")
    answers = row["final_answer"]
    answers = answers if isinstance(answers, (list, tuple)) else [answers]
    gold = ", ".join(filter(None, map(_text, answers)))
    text = "\n\n".join(filter(None, [_text(row["context"]), _text(row["question"])]))
    return Question(text, gold, dataset="olympiadbench", family=_text(row["subfield"]))


def _gpqa(row: Mapping) -> Question:
    """Options are sorted by a hash, so that the right one stands at no place of its own."""
    text = _text(row["Question"])
    options = [" ".join(_text(row[name]).split()) for name in ("Correct Answer", *_WRONG)]
    ordered = sorted(options, key=lambda option: _digest(f"{text}/{option}"))
    gold, domain = "ABCD"[ordered.index(options[0])], _text(row["High-level domain"])
    return _choice(
        text, dict(zip("ABCD", ordered, strict=True)), gold, dataset="gpqa", family=domain
    )


def _commonsenseqa(row: Mapping) -> Question:
    options = dict(zip(row["choices"]["label"], map(_text, row["choices"]["text"]), strict=True))
    gold = _text(row["answerKey"])
    gold = gold if gold in options else ""
    return _choice(_text(row["question"]), options, gold, dataset="commonsenseqa")


# Where each revision was seen: in public code that pins that very set to it.
SETS = {
    entry.name: entry
    for entry in (
        HubSet(  # ten files, one of which checks its 103,022 rows
            "deepmath", "zwhe99/DeepMath-103K", "default", "train",
            "5cf055d1fe3d7a2eb19719ac020211469736ae44", "MIT", 103_022, "data/train-*.parquet",
            ("question", "final_answer", "difficulty", "topic"), _deepmath,
        ),
        HubSet(  # ten files, two of which check its 500 rows; MATH itself is MIT
            "math500", "HuggingFaceH4/MATH-500", "default", "test",
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "not stated", 500, "test.jsonl",
            ("problem", "answer", "subject", "level"), _math500,
        ),
        HubSet(  # ten files, among them tests of the pins of inspect_evals 0.20
            "gsm8k", "openai/gsm8k", "main", "test", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
            "MIT", 1_319, "main/test-*.parquet", ("question", "answer"), _gsm8k,
        ),
        HubSet(  # nine files, two of which check the 674 rows of this config
            "olympiadbench", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train",
            "91184b52131e7fc9455fef848035173aea8cc01a", "Apache-2.0", 674,
            "OlympiadBench/OE_TO_maths_en_COMP/*.parquet",
            ("question", "final_answer", "context", "answer_type", "subfield"), _olympiadbench,
        ),
        HubSet(  # ten files, three of which check its 198 rows
            "gpqa", "Idavidrein/gpqa", "gpqa_diamond", "train",
            "633f5ee89ab8ad4522a9f850766b73f62147ffdd", "CC-BY-4.0", 198, "gpqa_diamond.csv",
            ("Question", "Correct Answer", *_WRONG, "High-level domain"), _gpqa, gated=True,
        ),
        HubSet(  # huggingface/smollm, text/evaluation/smollm3/tasks.py; "test" has no answers
            "commonsenseqa", "tau/commonsense_qa", "default", "validation",
            "94630fe30dad47192a8546eb75f094926d47e155", "MIT", 1_221, "data/validation-*.parquet",
            ("question", "choices", "answerKey"), _commonsenseqa,
        ),
    )
}  # fmt: skip


# --- questions ------------------------------------------------------------------------------------

_LATEX_SPACE = re.compile(
    r"\\[()\[\],;:! ]|\\(?:q?quad|left|right|displaystyle)(?![A-Za-z])|[$~\s]"
)


def normalised(text: str) -> str:
    """A text without case, white space, and LaTeX's own around formulas: `$`, `\\(`, `\\,`, `~`."""
    return _LATEX_SPACE.sub("", text.casefold())


def draw(name: str, split: str, *, size: int | None = None, seed: int = 0) -> list[Question]:
    """`size` questions of one split, or all.

    Prints a line for every test set that a training split could not be compared with.

    Raises:
        HubSetError: the set cannot be read.
        ValueError: it does not hold `size` questions.
    """
    whole = read(name)
    questions = whole.questions[split]
    if split != "test":
        tested = _tested(f"{name}/{split}")
        pairs = zip(questions, whole.stems[split], strict=True)
        questions = [question for question, stem in pairs if stem not in tested]
    if size is not None and not 0 <= size <= len(questions):
        raise ValueError(
            f"{name}/{split} holds {len(questions)} different questions of the {size} asked for"
        )
    return sorted(questions, key=lambda q: _digest(f"{seed}/{q.text}"))[:size]


def _tested(split: str) -> set[str]:
    """The normalised stems of all test questions of the paper."""
    stems = set[str]()
    for name in test_datasets(SUITE):
        try:
            stems.update(read(name).stems["test"])
        except HubSetError as error:
            print(f"{split} was not compared with {name}: {error}")
    return stems


def read(name: str) -> ReadSet:
    """All questions of a set; kept in memory, so that the second call is free.

    Raises:
        HubSetError: the set cannot be read.
    """
    entry = SETS[name]
    return _read(entry, _local_files(entry))


@lru_cache(maxsize=32)
def _read(entry: HubSet, files: tuple[Path, ...]) -> ReadSet:
    splits = ("train", "calibration", "test")
    whole = ReadSet({s: [] for s in splits}, {s: [] for s in splits}, Counter())
    seen = set[str]()
    for index, row in enumerate(_rows(entry, files)):
        try:
            question = entry.question(row)
            if not question.text or not question.gold:
                raise _LeftOut("no answer" if question.text else "no question")
            text = normalised(question.text)
            if text in seen:
                raise _LeftOut("a repeated question")
        except _LeftOut as reason:
            whole.dropped[str(reason)] += 1
            continue
        seen.add(text)
        split = split_of(text) if entry.name == TRAINING[SUITE] else "test"
        split = "train" if split == "pretrain" else split
        # The number of a row is a name for good, since the revision is pinned.
        question = replace(question, id=f"{entry.name}/{split}/{index:05d}")
        whole.questions[split].append(question)
        whole.stems[split].append(normalised(question.text.split(_CHOOSE)[0]))
    return whole


def _rows(entry: HubSet, files: tuple[Path, ...]) -> list[dict]:
    table = _load(entry, files)
    where = f"{entry.name}: {files[0].parent if files else entry.hub_id}"
    for column in entry.columns:
        if column not in table.column_names:
            raise HubSetError(
                f"{where} has no column {column!r}; its columns are {', '.join(table.column_names)}"
            )
    if len(table) != entry.rows:
        raise HubSetError(
            f"{where} holds {len(table)} rows; "
            f"the pinned revision {entry.revision} has {entry.rows}"
        )
    # Images and R1's long solutions stay on disk.
    return table.select_columns(list(entry.columns)).to_list()


def _load(entry: HubSet, files: tuple[Path, ...]):
    """The set's rows as a `datasets.Dataset`."""
    import datasets

    pinned = f"config {entry.config}, split {entry.split}, revision {entry.revision}"
    source = f"{entry.hub_id} ({pinned})"
    try:
        if files:
            source = f"{files[0]} and its neighbours"
            paths = [str(path) for path in files]
            return datasets.load_dataset(_READERS[files[0].suffix], data_files=paths, split="train")
        table = datasets.load_dataset(
            entry.hub_id, entry.config, split=entry.split, revision=entry.revision
        )
    except Exception as error:  # of `datasets`, its many readers, and the HTTP client
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        remedy = "" if files else f"; {_remedy(entry)}"
        raise HubSetError(f"{entry.name}: cannot load {source}: {reason}{remedy}") from error
    # Offline, `datasets` takes whatever revision lies in its cache, and only logs it.
    cached = {Path(file["filename"]).parent.name for file in table.cache_files}
    if cached - {entry.revision}:
        held = f"the cache holds revision {min(cached)} of {entry.hub_id}"
        raise HubSetError(f"{entry.name}: {held}; {_remedy(entry)}")
    return table


def _remedy(entry: HubSet) -> str:
    terms = (
        f"it is gated: accept its terms at https://huggingface.co/datasets/{entry.hub_id} and log "
        "in with `hf auth login` or set HF_TOKEN; "
    )
    return (
        f"{terms if entry.gated else ''}allow downloads with `HF_HUB_OFFLINE=0 make ...`, or fetch "
        f"the files with `hf download {entry.hub_id} --repo-type dataset --revision "
        f'{entry.revision} --include "{entry.files}" --local-dir {_folders(entry)[0]}`'
    )


def _local_files(entry: HubSet) -> tuple[Path, ...]:
    """Data files of a set on this machine, named as on the hub or else anyhow; often none."""
    for folder in _folders(entry):
        named, others = folder.glob(entry.files), folder.glob("*")
        if files := sorted(named) or sorted(path for path in others if path.suffix in _READERS):
            return tuple(files)
    return ()


def _folders(entry: HubSet) -> list[Path]:
    """Where files of a set may lie, in the order of looking."""
    named = os.environ.get("COREA_HUB")
    return [Path(parent) / entry.name for parent in (named, ROOT / "data" / "hub") if parent]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
