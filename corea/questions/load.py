"""Questions of a set by its name, or from a file of one's own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from corea.questions import base, generated, hub
from corea.questions.base import ALLOWED_SPLITS, ANSWER_TYPES, Question, reported, split_of

_JSONL_KEYS = {"id", "question", "answer", "answer_type"}
_DRAWS_PER_QUESTION = 2_000


def load_questions(
    dataset: str, split: str, *, size: int | None = None, seed: int = 0
) -> list[Question]:
    """`size` different questions of a set: of a mini set, spread evenly over its families and levels.

    size: None for all questions of a hub set; a mini set is generated without end and needs a number.  The same arguments give
    the same questions on every machine.  Raises ValueError for an unknown dataset or split, and where the set does not hold
    `size` different questions; `hub.HubSetError`, a ValueError, where a hub set cannot be read.
    """
    known = {*base.DATASETS, *reported()}
    if dataset not in known:
        raise ValueError(f"unknown dataset {dataset!r}; use one of {_names(known)}")
    allowed = ALLOWED_SPLITS.get(dataset, ("test",))
    if split not in allowed:
        raise ValueError(
            f"dataset {dataset!r} has no split {split!r}; use one of {_names(allowed)}"
        )
    if dataset not in base.DATASETS:
        return hub.draw(dataset, split, size=size, seed=seed)
    if size is None:
        raise ValueError(
            f"dataset {dataset!r} is generated without end; give its size, a number of questions"
        )
    sketches = _distinct(draw(base.DATASETS[dataset], split, f"{dataset}/{split}/{seed}"), size)
    if len(sketches) < size:
        raise ValueError(
            f"{dataset}/{split} holds {len(sketches)} different questions of the {size} asked for"
        )
    return [
        Question(
            s.text,
            s.answer,
            s.answer_type,
            id=f"{dataset}/{split}/{seed}/{n:05d}",
            dataset=dataset,
            family=family,
            level=level,
        )
        for n, (family, level, s) in enumerate(sketches)
    ]


def load_jsonl(path: str | Path, *, dataset: str | None = None) -> list[Question]:
    """A user's own questions, one JSON object a line: `question` and `answer`, and, if wished, `id` and `answer_type`.

    question, answer: text (a number counts as text).  answer_type: "math" (the default), "choice" or "text".  id: different on
    every line; by default the line's number.  dataset: by default the file's name without its ending.  Empty lines are passed
    over.  Raises ValueError, in one line, that names every wrong line by number and says what is wrong with the first.
    """
    path = Path(path)
    name, found, wrong, ids = dataset or path.stem, [], {}, set()
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                question = _from_json(line, number, name)
                if question.id in ids:
                    raise ValueError(f"id {question.id!r} is that of another line")
                ids.add(question.id)
                found.append(question)
            except ValueError as error:
                wrong[number] = str(error)
    if wrong:
        lines = ", ".join(map(str, list(wrong)[:20])) + (", ..." if len(wrong) > 20 else "")
        first = next(iter(wrong))
        raise ValueError(
            f"{path}: {len(wrong)} wrong line{'s' if len(wrong) > 1 else ''} ({lines}); line {first}: {wrong[first]}"
        )
    if not found:
        raise ValueError(f"{path} holds no question")
    return found


def _from_json(line: str, number: int, dataset: str) -> Question:
    """One line of `load_jsonl`.  Raises ValueError with what is wrong."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:60]})") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    if unknown := sorted(set(row) - _JSONL_KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}; use {', '.join(sorted(_JSONL_KEYS))}")
    text = {key: _text(row, key) for key in ("question", "answer")}
    kind = row.get("answer_type", "math")
    if kind not in ANSWER_TYPES:
        raise ValueError(f"answer_type {kind!r} is not one of {', '.join(ANSWER_TYPES)}")
    own = row.get("id", f"{dataset}/{number}")
    if isinstance(own, bool) or not isinstance(own, (str, int)) or own == "":
        raise ValueError(f"id {own!r} is not text or a whole number")
    return Question(text["question"], text["answer"], kind, id=str(own), dataset=dataset)


def _text(row: dict, key: str) -> str:
    value = row.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{key} is {'missing' if value is None else 'not text'}"
            if value != ""
            else f"{key} is empty"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} is not valid UTF-8 text") from error
    return value


def draw(
    families: Sequence[str], split: str, seed: str, levels: Sequence[float] | None = None
) -> Iterator[tuple[str, int, generated.Sketch]]:
    """Endless (family, level, sketch) of one split; `levels` weighs the ladder, without it cells come in turn.

    Repeats are possible.  A cell whose questions all belong to other splits is passed over.
    """
    rng = random.Random(seed)
    cells = [(family, level) for level in range(1, generated.LEVELS + 1) for family in families]
    while True:
        rng.shuffle(cells)
        turn = cells
        if levels is not None:
            turn = rng.choices(
                cells, weights=[levels[level - 1] for _, level in cells], k=len(cells)
            )
        for family, level in turn:
            sketch = _draw_one(rng, family, level, split)
            if sketch is not None:
                yield family, level, sketch


def _draw_one(rng: random.Random, family: str, level: int, split: str) -> generated.Sketch | None:
    for _ in range(200):
        sketch = generated.FAMILIES[family](rng, level)
        if split_of(sketch.text) == split:
            return sketch
    return None


def _distinct(stream: Iterator[tuple[str, int, generated.Sketch]], size: int) -> list:
    found: dict[str, tuple[str, int, generated.Sketch]] = {}
    for tries, item in enumerate(stream):
        if len(found) >= size or tries > size * _DRAWS_PER_QUESTION:
            break
        found.setdefault(item[2].text, item)
    return list(found.values())


def _names(names) -> str:
    return ", ".join(sorted(names))
