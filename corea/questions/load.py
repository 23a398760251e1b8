"""Questions of a set by its name, or from a user's own file."""

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
        questions = hub.draw(dataset, split, seed=seed)
    elif size is None:
        endless = f"dataset {dataset!r} is generated without end"
        raise ValueError(f"{endless}; give its size, a number of questions")
    else:
        questions = _generated(dataset, split, size, seed)
    if size is not None and not 0 <= size <= len(questions):
        held = f"{dataset}/{split} holds {len(questions)} different questions"
        raise ValueError(f"{held} of the {size} asked for")
    return questions[:size]


def _generated(dataset: str, split: str, size: int, seed: int) -> list[Question]:
    """Up to `size` different questions; fewer if the families seem to have no more."""
    source, questions = f"{dataset}/{split}/{seed}", dict[str, Question]()
    stream = draw(base.DATASETS[dataset], split, source, base.RUNGS.get(dataset))
    for family, level, core, sketch in islice(stream, max(size, 0) * _DRAWS_PER_QUESTION):
        names = {"id": f"{source}/{len(questions):05d}", "dataset": dataset, "family": family}
        question = Question(sketch.text, sketch.answer, sketch.answer_type, level=level, **names)
        questions.setdefault(core, question)
        if len(questions) == size:
            break
    return list(questions.values())


def draw(
    families: Sequence[str], split: str, seed: str, rungs: Sequence[float] | None = None
) -> Iterator[tuple[str, int, str, generated.Sketch]]:
    """Draw questions of one split without end, as (family, rung, core, sketch); some come again.

    Families come in turn.

    Args:
        rungs: weights of the ladder's rungs; all alike by default.
    """
    rng = random.Random(seed)
    ladder, weights = range(1, generated.RUNGS + 1), rungs or (1.0,) * generated.RUNGS
    while True:
        for family in rng.sample(families, len(families)):
            rung = rng.choices(ladder, weights)[0]
            for _ in range(200):  # a cell whose questions all are of other splits is passed over
                sketch = generated.FAMILIES[family](rng, rung)
                if split_of(sketch.text) == split:
                    yield family, rung, sketch.text, generated.dressed(sketch, rng)
                    break


def load_jsonl(path: str | Path, *, dataset: str | None = None) -> list[Question]:
    """A user's own questions, one JSON object per line, such as `{"question": "1+1", "answer": 2}`.

    Args:
        path: each line has a `question`, and may have an `answer` (only grading and training need
            it), `answer_type` and `id`, as of a `Question`. Empty lines are passed over.
        dataset: what they are called in records; by default the file's name without its ending.

    Raises:
        ValueError: in one line, every wrong line by number and what is wrong with the first.
    """
    path = Path(path)
    questions, ids, wrong = list[Question](), set[str](), dict[int, str]()
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                question = _from_json(line, dataset or path.stem)
                if question.id in ids and question.id != content_id(question.text):
                    raise ValueError(f"id {question.id!r} is that of another line")
                ids.add(question.id)
                questions.append(question)
        except ValueError as error:
            wrong[number] = str(error)
    if wrong:
        numbers = ", ".join(map(str, list(wrong)[:20])) + (", ..." if len(wrong) > 20 else "")
        first, count = next(iter(wrong)), f"{len(wrong)} wrong line{'s' * (len(wrong) > 1)}"
        raise ValueError(f"{path}: {count} ({numbers}); line {first}: {wrong[first]}")
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
    text, gold, name = _text(row, "question"), _text(row, "answer"), row.get("id")
    if text is None:
        raise ValueError("question is missing")
    if name == "" or type(name) not in (str, int, type(None)):
        raise ValueError(f"id {name!r} is not text or a whole number")
    name = "" if name is None else str(name)
    return Question(text, gold, row.get("answer_type", "math"), id=name, dataset=dataset)


def _text(row: dict, key: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    text = str(value) if type(value) in (int, float) else value
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} is {'empty' if isinstance(text, str) else 'not text'}")
    if text != text.encode(errors="ignore").decode():
        raise ValueError(f"{key} is not valid UTF-8 text")
    return text
