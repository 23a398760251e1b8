"""Questions of a set by its name, or from a user's own file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from corea.questions import base, generated, hub
from corea.questions.base import Question, content_id, split_of, with_distinct_ids

_JSONL_KEYS = ("answer", "answer_type", "id", "question")
_DRAWS_PER_QUESTION = 2_000


def load_questions(
    dataset: str, split: str, *, size: int | None = None, seed: int = 0
) -> list[Question]:
    """`size` different questions of a set; the same call gives the same ones on every machine.

    A mini set is spread evenly over its families and levels, is generated without end, and so
    needs a size; None takes all questions of a hub set.

    Raises:
        ValueError: an unknown dataset or split, or a set without as many different questions.
        hub.HubSetError: a ValueError, for a hub set that cannot be read.
    """
    known = sorted({*base.DATASETS, *(name for s in base.SUITES for name in base.test_datasets(s))})
    if dataset not in known:
        raise ValueError(f"unknown dataset {dataset!r}; use one of {', '.join(known)}")
    splits = base.ALLOWED_SPLITS.get(dataset, ("test",))
    if split not in splits:
        allowed = ", ".join(sorted(splits))
        raise ValueError(f"dataset {dataset!r} has no split {split!r}; use one of {allowed}")
    if dataset not in base.DATASETS:
        return hub.draw(dataset, split, size=size, seed=seed)
    if size is None:
        endless = f"dataset {dataset!r} is generated without end"
        raise ValueError(f"{endless}; give its size, a number of questions")
    return _generated(dataset, split, size, seed)


def _generated(dataset: str, split: str, size: int, seed: int) -> list[Question]:
    where, questions = f"{dataset}/{split}", dict[str, Question]()
    stream = draw(base.DATASETS[dataset], split, f"{where}/{seed}")
    for family, level, s in islice(stream, size * _DRAWS_PER_QUESTION + 1):
        if len(questions) >= size:
            break
        name = f"{where}/{seed}/{len(questions):05d}"
        names = {"id": name, "dataset": dataset, "family": family}
        question = Question(s.text, s.answer, s.answer_type, level=level, **names)
        questions.setdefault(s.text, question)
    if len(questions) < size:
        raise ValueError(
            f"{where} holds {len(questions)} different questions of the {size} asked for"
        )
    return list(questions.values())


def load_jsonl(path: str | Path, *, dataset: str | None = None) -> list[Question]:
    """A user's own questions, one JSON object per line, such as `{"question": "1+1", "answer": 2}`.

    Args:
        path: each line has a `question`. It may have an `answer`, which only grading and training
            need; an `answer_type`, "math" (the default), "choice" or "text"; and an `id` of its
            own, by default made from the question's text. A number counts as text; empty lines
            are passed over.
        dataset: what they are called in records; by default the file's name without its ending.

    Raises:
        ValueError: in one line, every wrong line by number and what is wrong with the first.
    """
    path = Path(path)
    questions, ids, wrong = list[Question](), set[str](), dict[int, str]()
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                question = _from_json(line, dataset or path.stem)
                if question.id in ids and question.id != content_id(question.text):
                    raise ValueError(f"id {question.id!r} is that of another line")
                ids.add(question.id)
                questions.append(question)
            except ValueError as error:
                wrong[number] = str(error)
    if wrong:
        lines = ", ".join(map(str, list(wrong)[:20])) + (", ..." if len(wrong) > 20 else "")
        first, count = next(iter(wrong)), f"{len(wrong)} wrong line{'s' * (len(wrong) > 1)}"
        raise ValueError(f"{path}: {count} ({lines}); line {first}: {wrong[first]}")
    if not questions:
        raise ValueError(f"{path} holds no question")
    return with_distinct_ids(questions)


def _from_json(line: str, dataset: str) -> Question:
    """One line of `load_jsonl`; raises ValueError with what is wrong."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:60]})") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    if unknown := sorted(set(row) - set(_JSONL_KEYS)):
        raise ValueError(f"unknown key {unknown[0]!r}; use {', '.join(_JSONL_KEYS)}")
    if row.get("question") is None:
        raise ValueError("question is missing")
    gold = None if row.get("answer") is None else _text(row, "answer")
    name, kind = row.get("id"), row.get("answer_type", "math")
    if isinstance(name, bool) or not isinstance(name, (str, int, type(None))) or name == "":
        raise ValueError(f"id {name!r} is not text or a whole number")
    name = "" if name is None else str(name)
    return Question(_text(row, "question"), gold, kind, id=name, dataset=dataset)


def _text(row: dict, key: str) -> str:
    value = row[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is empty" if value == "" else f"{key} is not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} is not valid UTF-8 text") from error
    return value


def draw(
    families: Sequence[str], split: str, seed: str, levels: Sequence[float] | None = None
) -> Iterator[tuple[str, int, generated.Sketch]]:
    """Draw questions of one split without end, as (family, level, sketch); some are drawn again.

    Args:
        levels: weights of the ladder's levels; by default all cells (family, level) come in turn.
    """
    rng = random.Random(seed)
    cells = [(family, level) for level in range(1, generated.LEVELS + 1) for family in families]
    while True:
        rng.shuffle(cells)
        turn = cells
        if levels is not None:
            weights = [levels[level - 1] for _, level in cells]
            turn = rng.choices(cells, weights=weights, k=len(cells))
        for family, level in turn:
            for _ in range(200):  # a cell whose questions all are of other splits is passed over
                sketch = generated.FAMILIES[family](rng, level)
                if split_of(sketch.text) == split:
                    yield family, level, sketch
                    break
