"""What a question is, and which splits, groups and suites of sets there are.

Splits are disjoint by construction: a question belongs to the one split that a hash of its text
names, so no test question can be met in training, whatever the seeds and sizes.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace

from corea.grader import ANSWER_TYPES
from corea.questions import generated

CALIBRATION = "calibration"  # that split's name beside the test sets
SPLITS = {
    "pretrain": (0, 60), "train": (60, 75), "design": (75, 80), CALIBRATION: (80, 88),
    "test": (88, 100),
}  # fmt: skip
GROUPS = {
    "in-domain": ("drill",),
    "ood-math": generated.OOD_MATH,
    "ood-nonmath": generated.OOD_NONMATH,
}
DATASETS = {  # of the mini world, by families
    "drill": generated.IN_DOMAIN,
    "everything": tuple(generated.FAMILIES),
    **{family: (family,) for family in (*generated.OOD_MATH, *generated.OOD_NONMATH)},
}
# Weights of the ladder's rungs, fixed on the design split before any reinforcement.
_OF_GROUP: dict[str, tuple[float, ...]] = {}
RUNGS = {name: _OF_GROUP[group] for group in _OF_GROUP for name in GROUPS[group]}
SUITES = {
    "mini": GROUPS,
    "paper": {
        "in-domain": ("deepmath",),
        "ood-math": ("math500", "gsm8k", "olympiadbench"),
        "ood-nonmath": ("gpqa", "commonsenseqa"),
    },
}
TRAINING = {"mini": "drill", "paper": "deepmath"}  # the set that has more splits than "test"
ALLOWED_SPLITS = {
    **dict.fromkeys((*generated.OOD_MATH, *generated.OOD_NONMATH), ("design", "test")),
    "deepmath": ("train", CALIBRATION, "test"),
    "drill": ("train", "design", CALIBRATION, "test"),
    "everything": ("pretrain",),
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its text, and as much more as is known of it.

    Example:
        >>> Question("What is 17 * 23?").id
        'e2c334e51f79'
    """

    text: str
    gold: str | None = None  # the right answer, a number as its text; without it nothing is graded
    answer_type: str = "math"  # how answers are graded: "math", "choice" or "text"
    _: KW_ONLY
    id: str = ""  # by default `content_id` of the text
    dataset: str = "own"  # the set that it belongs to; "own" for a user's question
    family: str = ""  # the kind of question within its set; by default the set's name
    level: int = 1  # difficulty, 1 or more; 1 (easy) to 8 in the mini sets

    def __post_init__(self):
        gold: object = self.gold
        if type(gold) in (int, float):
            object.__setattr__(self, "gold", str(gold))
        for name, value in (("text", self.text), ("gold", self.gold or "")):
            if not isinstance(value, str):
                raise ValueError(f"a question's {name} is {value!r}, not text")
        if self.answer_type not in ANSWER_TYPES:
            allowed = ", ".join(ANSWER_TYPES)
            raise ValueError(f"answer_type {self.answer_type!r} is not one of {allowed}")
        object.__setattr__(self, "id", self.id or content_id(self.text))
        object.__setattr__(self, "family", self.family or self.dataset)

    def hashed(self) -> dict[str, str | int | None]:
        """The fields that hashes of settings are made of; they stay these, whatever is added."""
        names = ("id", "dataset", "family", "level", "text", "gold", "answer_type")
        return {name: getattr(self, name) for name in names}


def content_id(text: str) -> str:
    """A question's id by its content: 12 hexadecimal digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_questions(questions: Iterable[str | Question]) -> list[Question]:
    """Questions as they are; a plain text becomes a question without a gold answer."""
    if isinstance(questions, str):
        raise ValueError("one text was given for a list of questions; put it into a list")
    return [Question(q) if isinstance(q, str) else q for q in questions]


def with_distinct_ids(questions: Iterable[str | Question]) -> list[Question]:
    """The questions; the second of one id is renamed to "id-2", the third to "id-3" and so on."""
    distinct: dict[str, Question] = {}
    for question in as_questions(questions):
        name, number = question.id, 2
        while name in distinct:
            name, number = f"{question.id}-{number}", number + 1
        distinct[name] = replace(question, id=name)
    return list(distinct.values())


def group_of(dataset: str) -> str:
    """The group ("in-domain", "ood-math", "ood-nonmath") that reports a set of either suite."""
    for group, datasets in (item for suite in SUITES.values() for item in suite.items()):
        if dataset in datasets:
            return group
    known = ", ".join(sorted(name for suite in SUITES for name in test_datasets(suite)))
    raise ValueError(f"dataset {dataset!r} has no group; use one of {known}")


def test_datasets(suite: str = "mini") -> tuple[str, ...]:
    """Names of the sets that a suite reports, in the order of the tables."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; use one of {', '.join(sorted(SUITES))}")
    return tuple(name for datasets in SUITES[suite].values() for name in datasets)


def split_of(text: str) -> str:
    """The one split of a question's text: its SHA-256 modulo 100, looked up in `SPLITS`."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, (low, high) in SPLITS.items() if low <= bucket < high)
