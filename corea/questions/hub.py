"""The paper's question sets, read from the Hugging Face hub at pinned revisions, or from files.

The paper's own DeepMath16K and DeepMath500 are not public; ours are drawn so:
1. `base.split_of` the `normalised` text names the split of a DeepMath question ("pretrain" is
   training here: 80% train, 8% calibrate, 12% test). Other sets hold only test questions.
2. A repeated question is left out, and so is one to train or calibrate on that the paper tests.
3. The rest is sorted by the SHA-256 of "seed/text", and the first are taken: a smaller draw begins
   a larger one, and the order of the rows plays no part.

Files of a set in `<set>/` under `COREA_HUB`, or in `data/hub/<set>/`, come before the hub.
"""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from corea.questions.base import TRAINING, Question, split_of, test_datasets
from corea.support.files import checkout

ROOT = checkout() or Path.cwd()
_CHOOSE = "\n\nChoose one letter."  # after it come the options
_READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


class HubSetError(ValueError):
    """A set that cannot be read, in one line: what is wrong and what to do."""


class _LeftOut(Exception):
    """A row that makes no question; its text is the reason."""


@dataclass(frozen=True, slots=True)
class HubSet:
    """One set on the hub, as in `hub_sets.csv`."""

    name: str
    hub_id: str
    config: str
    split: str
    revision: str  # the commit of the set, 40 hexadecimal digits
    licence: str
    rows: int  # how many that commit holds
    files: str  # the pattern of this split's data files in the set's repository
    columns: tuple[str, ...]  # those that `question` reads
    question: Callable[[Mapping], Question]  # of a row, without its id; no gold leaves the row out
    gated: bool = False  # whether its terms must be accepted first
    seen: str = ""  # the public code that pins this very set to the revision

    @property
    def folders(self) -> list[Path]:
        """Where files of the set may lie on this machine, in the order of looking."""
        parents = (os.environ.get("COREA_HUB"), ROOT / "data" / "hub")
        return [Path(parent) / self.name for parent in parents if parent]


class ReadSet(NamedTuple):
    """The questions of a set by split, in the order of its rows."""

    questions: dict[str, list[Question]]
    dropped: Counter[str]  # rows that were left out, by reason


def _text(value: object) -> str:
    """A cell as text; empty if it is missing, which may be told by NaN."""
    return "" if value is None or value != value else str(value).strip()


def _level(value: object) -> int:
    """A difficulty (DeepMath's go from -1 to 10 by halves), rounded half up, 1 or more."""
    return max(1, int(float(_text(value) or 1) + 0.5))


def _choice(text: str, options: Mapping[str, str], gold: str, **names) -> Question:
    """A question with its options, letter -> wording, one per line."""
    if not all(options.values()):
        raise _LeftOut("an option is empty")
    lines = [f"{letter}) {words}" for letter, words in options.items()]
    return Question("\n".join([text + _CHOOSE, *lines]), gold, "choice", **names)


def _deepmath(row: Mapping) -> Question:
    text, gold, level = row["question"], row["final_answer"], _level(row["difficulty"])
    # Of "Mathematics -> Algebra -> ...", the second says the most in one word.
    family = _text(row["topic"]).split(" -> ")[:2][-1]
    return Question(_text(text), _text(gold), level=level, dataset="deepmath", family=family)


def _math500(row: Mapping) -> Question:
    text, gold, family = (_text(row[name]) for name in ("problem", "answer", "subject"))
    return Question(text, gold, level=_level(row["level"]), dataset="math500", family=family)


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
    answers = ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))
    right, *wrong = (" ".join(_text(row[name]).split()) for name in answers)
    options = sorted([right, *wrong], key=lambda option: _digest(f"{text}/{option}"))
    gold, names = "ABCD"[options.index(right)], {"family": _text(row["High-level domain"])}
    return _choice(text, dict(zip("ABCD", options, strict=True)), gold, dataset="gpqa", **names)


def _commonsenseqa(row: Mapping) -> Question:
    options = dict(zip(row["choices"]["label"], map(_text, row["choices"]["text"]), strict=True))
    gold = key if (key := _text(row["answerKey"])) in options else ""
    return _choice(_text(row["question"]), options, gold, dataset="commonsenseqa")


_MAKERS = (_deepmath, _math500, _gsm8k, _olympiadbench, _gpqa, _commonsenseqa)
_MAKER_OF = {maker.__name__.removeprefix("_"): maker for maker in _MAKERS}


def _hub_set(row: dict[str, Any]) -> HubSet:
    """A row of `hub_sets.csv`, with the function that reads a row of that set."""
    row |= {"columns": tuple(row["columns"].split(";")), "rows": int(row["rows"])}
    return HubSet(**row | {"gated": row["gated"] == "True", "question": _MAKER_OF[row["name"]]})


_TABLE = Path(__file__).with_name("hub_sets.csv").read_text(encoding="utf-8").splitlines()
SETS = {row["name"]: _hub_set(row) for row in csv.DictReader(_TABLE)}
_LATEX_SPACE = r"\\[()\[\],;:! ]|\\(?:q?quad|left|right|displaystyle)(?![A-Za-z])|[$~\s]"


def normalised(text: str) -> str:
    """A text without case, white space, and LaTeX's own around formulas: `$`, `\\(`, `\\,`, `~`."""
    return re.sub(_LATEX_SPACE, "", text.casefold())


def draw(name: str, split: str, *, seed: int = 0) -> list[Question]:
    """All questions of one split, in the order of a seed; HubSetError if they cannot be read."""
    questions, tested = read(name).questions[split], set[str]()
    for other in () if split == "test" else test_datasets("paper"):
        try:
            tested.update(map(_stem, read(other).questions["test"]))
        except HubSetError as error:
            print(f"{name}/{split} was not compared with {other}: {error}")
    untested = (question for question in questions if _stem(question) not in tested)
    return sorted(untested, key=lambda question: _digest(f"{seed}/{question.text}"))


def _stem(question: Question) -> str:
    """The normalised text of a question without its options."""
    return normalised(question.text.split(_CHOOSE)[0])


def read(name: str) -> ReadSet:
    """All questions of a set, kept in memory; HubSetError if they cannot be read."""
    return _read(SETS[name], _local_files(SETS[name]))


@lru_cache(maxsize=32)
def _read(entry: HubSet, files: tuple[Path, ...]) -> ReadSet:
    whole, seen = ReadSet({"train": [], "calibration": [], "test": []}, Counter()), set[str]()
    for index, row in enumerate(_rows(entry, files)):
        try:
            question = entry.question(row)
            if not question.text or not question.gold:
                raise _LeftOut("no answer" if question.text else "no question")
            if (text := normalised(question.text)) in seen:
                raise _LeftOut("a repeated question")
        except _LeftOut as reason:
            whole.dropped[str(reason)] += 1
            continue
        seen.add(text)
        split = split_of(text) if entry.name == TRAINING["paper"] else "test"
        split = split.replace("pretrain", "train")
        # The number of a row is a name for good, since the revision is pinned.
        whole.questions[split].append(replace(question, id=f"{entry.name}/{split}/{index:05d}"))
    return whole


def _local_files(entry: HubSet) -> tuple[Path, ...]:
    """Data files of a set on this machine, named as on the hub or else anyhow; often none."""
    for folder in entry.folders:
        others = (path for path in folder.glob("*") if path.suffix in _READERS)
        if files := sorted(folder.glob(entry.files)) or sorted(others):
            return tuple(files)
    return ()


def _rows(entry: HubSet, files: tuple[Path, ...]) -> list[dict]:
    table = _load(entry, files)
    where = f"{entry.name}: {files[0].parent if files else entry.hub_id}"
    if missing := [name for name in entry.columns if name not in table.column_names]:
        columns = ", ".join(table.column_names)
        raise HubSetError(f"{where} has no column {missing[0]!r}; its columns are {columns}")
    if len(table) != entry.rows:
        pinned = f"the pinned revision {entry.revision} has {entry.rows}"
        raise HubSetError(f"{where} holds {len(table)} rows; {pinned}")
    # Images and R1's long solutions stay on disk.
    return table.select_columns(list(entry.columns)).to_list()


def _load(entry: HubSet, files: tuple[Path, ...]):
    """The set's rows as a `datasets.Dataset`."""
    import datasets

    pinned = f"config {entry.config}, split {entry.split}, revision {entry.revision}"
    source, remedy = f"{entry.hub_id} ({pinned})", f"; {_remedy(entry)}"
    try:
        if files:
            source, remedy = f"{files[0]} and its neighbours", ""
            paths = [str(path) for path in files]
            return datasets.load_dataset(_READERS[files[0].suffix], data_files=paths, split="train")
        table = datasets.load_dataset(
            entry.hub_id, entry.config, split=entry.split, revision=entry.revision
        )
    except Exception as error:  # of `datasets`, its many readers, and the HTTP client
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise HubSetError(f"{entry.name}: cannot load {source}: {reason}{remedy}") from error
    # Offline, `datasets` takes whatever revision lies in its cache, and only logs it.
    cached = {Path(file["filename"]).parent.name for file in table.cache_files}
    if others := cached - {entry.revision}:
        held = f"the cache holds revision {min(others)} of {entry.hub_id}"
        raise HubSetError(f"{entry.name}: {held}{remedy}")
    return table


def _remedy(entry: HubSet) -> str:
    files = f'--include "{entry.files}" --local-dir {entry.folders[0]}'
    fetch = f"hf download {entry.hub_id} --repo-type dataset --revision {entry.revision} {files}"
    allow = f"allow downloads with `HF_HUB_OFFLINE=0 make ...`, or fetch the files with `{fetch}`"
    if not entry.gated:
        return allow
    terms = f"accept its terms at https://huggingface.co/datasets/{entry.hub_id}"
    return f"it is gated: {terms} and log in with `hf auth login` or set HF_TOKEN; {allow}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
