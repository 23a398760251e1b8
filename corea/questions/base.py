"""Question sets: what a question is, and which splits, groups and suites there are.

The mini sets are drawn from `corea.questions.generated`, those of the paper come from the hub (`corea.questions.hub`).  Splits are disjoint by
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
from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace

from corea.questions import generated

SPLITS = {"pretrain": (0, 60), "train": (60, 80), "calibration": (80, 88), "test": (88, 100)}
GROUPS = {
    "in-domain": ("drill",),
    "ood-math": generated.OOD_MATH,
    "ood-nonmath": generated.OOD_NONMATH,
}
DATASETS = {
    "drill": generated.IN_DOMAIN,
    "everything": tuple(generated.FAMILIES),
    **{family: (family,) for family in (*generated.OOD_MATH, *generated.OOD_NONMATH)},
}
SUITES = {
    "mini": GROUPS,
    "paper": {
        "in-domain": ("deepmath",),
        "ood-math": ("math500", "gsm8k", "olympiadbench"),
        "ood-nonmath": ("gpqa", "commonsenseqa"),
    },
}
TRAINING = {
    "mini": "drill",
    "paper": "deepmath",
}  # the set of each suite that has training and calibration questions
ALLOWED_SPLITS = {
    **dict.fromkeys(TRAINING.values(), ("train", "calibration", "test")),
    "everything": ("pretrain",),
}
CALIBRATION = "calibration"  # the name of that split where it stands beside the test sets
ANSWER_TYPES = ("math", "choice", "text")


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its text, and as much more as is known of it.

    Attributes:
        gold: the right answer; None if it is not known, and then no answer can be graded.
        answer_type: how answers are graded, "math", "choice" or "text".
        id: by default `content_id` of the text.
        dataset: the set it is of; a user's own are of "own".
        family: the kind of question within its set; by default the set's name.
        level: difficulty, 1 or more; 1 (easy) to 8 in the mini sets.
    """

    text: str
    gold: str | None = None
    answer_type: str = "math"
    _: KW_ONLY
    id: str = ""
    dataset: str = "own"
    family: str = ""
    level: int = 1

    def __post_init__(self):
        if self.answer_type not in ANSWER_TYPES:
            raise ValueError(
                f"answer_type {self.answer_type!r} is not one of {', '.join(ANSWER_TYPES)}"
            )
        object.__setattr__(self, "id", self.id or content_id(self.text))
        object.__setattr__(self, "family", self.family or self.dataset)

    def hashed(self) -> dict[str, str | int | None]:
        """What the hashes of settings are made of: these fields for good, whatever else a question comes to hold."""
        names = ("id", "dataset", "family", "level", "text", "gold", "answer_type")
        return {name: getattr(self, name) for name in names}


def content_id(text: str) -> str:
    """A question's id by its content: 12 hexadecimal digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def with_distinct_ids(questions: Iterable[Question]) -> list[Question]:
    """The questions, the second of one id renamed to "id-2", the third to "id-3" and so on."""
    seen, distinct = Counter[str](), []
    for question in questions:
        seen[question.id] += 1
        count = seen[question.id]
        distinct.append(question if count == 1 else replace(question, id=f"{question.id}-{count}"))
    return distinct


def group_of(dataset: str) -> str:
    """The group ("in-domain", "ood-math", "ood-nonmath") that reports the dataset, in whichever suite it is."""
    for groups in SUITES.values():
        for group, datasets in groups.items():
            if dataset in datasets:
                return group
    raise ValueError(f"dataset {dataset!r} has no group; use one of {_names(reported())}")


def test_datasets(suite: str = "mini") -> tuple[str, ...]:
    """Names of the sets that a suite reports, in the order of the tables."""
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; use one of {_names(SUITES)}")
    return tuple(name for datasets in SUITES[suite].values() for name in datasets)


def split_of(text: str) -> str:
    """The one split a question's text belongs to: its SHA-256 modulo 100, looked up in `SPLITS`."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, (low, high) in SPLITS.items() if low <= bucket < high)


def reported() -> tuple[str, ...]:
    """Names of the sets that any suite reports."""
    return tuple(name for suite in SUITES for name in test_datasets(suite))


def _names(names) -> str:
    return ", ".join(sorted(names))
