"""Question sets behind one call, `load_questions(dataset, split, ...)`.

The mini sets are drawn from `corea.mini`, those of the paper come from the hub (`corea.hubsets`).  Splits are disjoint by
construction: a question belongs to the one split that a hash of its text names, so no question asked in a test can be met in
training, whatever the seeds and sizes.

| suite | dataset | group | families | splits |
|---|---|---|---|---|
| mini | drill | in-domain | the eleven training families, mixed | train, calibration, test |
| mini | missing-addend, division, shopping | ood-math | one each | test |
| mini | shell-game, cipher, weave | ood-nonmath | one each | test |
| mini | everything | (base models only) | all seventeen | pretrain |
| paper | deepmath | in-domain | the topics of DeepMath-103K | train, calibration, test |
| paper | math500, gsm8k, olympiadbench | ood-math | subjects, where the set names them | test |
| paper | gpqa, commonsenseqa | ood-nonmath | subjects, where the set names them | test |
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corea import mini

SPLITS = {"pretrain": (0, 60), "train": (60, 80), "calibration": (80, 88), "test": (88, 100)}
GROUPS = {
    "in-domain": ("drill",),
    "ood-math": mini.OOD_MATH,
    "ood-nonmath": mini.OOD_NONMATH,
}
DATASETS = {
    "drill": mini.IN_DOMAIN,
    "everything": tuple(mini.FAMILIES),
    **{family: (family,) for family in (*mini.OOD_MATH, *mini.OOD_NONMATH)},
}
SUITES = {
    "mini": GROUPS,
    "paper": {
        "in-domain": ("deepmath",),
        "ood-math": ("math500", "gsm8k", "olympiadbench"),
        "ood-nonmath": ("gpqa", "commonsenseqa"),
    },
}
TRAINING = {"mini": "drill", "paper": "deepmath"}  # the set of each suite that has training and calibration questions
_ALLOWED_SPLITS = {**dict.fromkeys(TRAINING.values(), ("train", "calibration", "test")), "everything": ("pretrain",)}
CALIBRATION = "calibration"  # the name of that split where it stands beside the test sets
ANSWER_TYPES = ("math", "choice", "text")
_JSONL_KEYS = {"id", "question", "answer", "answer_type"}
_DRAWS_PER_QUESTION = 2_000


@dataclass(frozen=True, slots=True)
class Question:
    """One question.  `answer_type` is "math", "choice" or "text".

    level: 1 (easy) to 8 in the mini sets; a hub set's own, of 1 or more, and 1 where it has none.
    """

    id: str
    dataset: str
    family: str
    level: int
    text: str
    gold: str
    answer_type: str


def group_of(dataset: str) -> str:
    """The group ("in-domain", "ood-math", "ood-nonmath") that reports the dataset, in whichever suite it is."""
    for groups in SUITES.values():
        for group, datasets in groups.items():
            if dataset in datasets:
                return group
    raise ValueError(f"dataset {dataset!r} has no group; use one of {_names(_reported())}")


def test_datasets(suite: str = "mini") -> tuple[str, ...]:
    """Names of the sets that a suite reports, in the order of the tables."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; use one of {_names(SUITES)}")
    return tuple(name for datasets in SUITES[suite].values() for name in datasets)


def split_of(text: str) -> str:
    """The one split a question's text belongs to: its SHA-256 modulo 100, looked up in `SPLITS`."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, (low, high) in SPLITS.items() if low <= bucket < high)


def load_questions(dataset: str, split: str, *, size: int | None = None, seed: int = 0) -> list[Question]:
    """`size` different questions of a set: of a mini set, spread evenly over its families and levels.

    size: None for all questions of a hub set; a mini set is generated without end and needs a number.  The same arguments give
    the same questions on every machine.  Raises ValueError for an unknown dataset or split, and where the set does not hold
    `size` different questions; `hubsets.HubSetError`, a ValueError, where a hub set cannot be read.
    """
    known = {*DATASETS, *_reported()}
    if dataset not in known:
        raise ValueError(f"unknown dataset {dataset!r}; use one of {_names(known)}")
    allowed = _ALLOWED_SPLITS.get(dataset, ("test",))
    if split not in allowed:
        raise ValueError(f"dataset {dataset!r} has no split {split!r}; use one of {_names(allowed)}")
    if dataset not in DATASETS:
        from corea import hubsets  # here, as it needs `datasets`, which the mini sets do without

        return hubsets.draw(dataset, split, size=size, seed=seed)
    if size is None:
        raise ValueError(f"dataset {dataset!r} is generated without end; give its size, a number of questions")
    sketches = _distinct(draw(DATASETS[dataset], split, f"{dataset}/{split}/{seed}"), size)
    if len(sketches) < size:
        raise ValueError(f"{dataset}/{split} holds {len(sketches)} different questions of the {size} asked for")
    return [
        Question(f"{dataset}/{split}/{seed}/{n:05d}", dataset, family, level, s.text, s.answer, s.answer_type)
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
        raise ValueError(f"{path}: {len(wrong)} wrong line{'s' if len(wrong) > 1 else ''} ({lines}); line {first}: {wrong[first]}")
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
    return Question(str(own), dataset, dataset, 1, text["question"], text["answer"], kind)


def _text(row: dict, key: str) -> str:
    value = row.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {'missing' if value is None else 'not text'}" if value != "" else f"{key} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} is not valid UTF-8 text") from error
    return value


def draw(
    families: Sequence[str], split: str, seed: str, levels: Sequence[float] | None = None
) -> Iterator[tuple[str, int, mini.Sketch]]:
    """Endless (family, level, sketch) of one split; `levels` weighs the ladder, without it cells come in turn.

    Repeats are possible.  A cell whose questions all belong to other splits is passed over.
    """
    rng = random.Random(seed)
    cells = [(family, level) for level in range(1, mini.LEVELS + 1) for family in families]
    while True:
        rng.shuffle(cells)
        turn = cells
        if levels is not None:
            turn = rng.choices(cells, weights=[levels[level - 1] for _, level in cells], k=len(cells))
        for family, level in turn:
            sketch = _draw_one(rng, family, level, split)
            if sketch is not None:
                yield family, level, sketch


def _draw_one(rng: random.Random, family: str, level: int, split: str) -> mini.Sketch | None:
    for _ in range(200):
        sketch = mini.FAMILIES[family](rng, level)
        if split_of(sketch.text) == split:
            return sketch
    return None


def _distinct(stream: Iterator[tuple[str, int, mini.Sketch]], size: int) -> list:
    found: dict[str, tuple[str, int, mini.Sketch]] = {}
    for tries, item in enumerate(stream):
        if len(found) >= size or tries > size * _DRAWS_PER_QUESTION:
            break
        found.setdefault(item[2].text, item)
    return list(found.values())


def _reported() -> tuple[str, ...]:
    return tuple(name for suite in SUITES for name in test_datasets(suite))


def _names(names) -> str:
    return ", ".join(sorted(names))
