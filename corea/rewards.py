"""Correctness, format and confidence as TRL reward functions, and named ways to weigh them.

A reward function here is a small callable object: it can be pickled, TRL logs it under its
`__name__`, and it is called as `f(prompts=, completions=, question_id=, gold=, answer_type=, ...)`
with one row a rollout, completions being strings or chat messages.  It returns one finite float a
row.  TRL hands over the rows of one process, does not say how many make a group, and sums over NaN,
so groups, lengths and finiteness are checked here; a group that is spread over several processes is
put together again.

Weights, and the penalty for a missing confidence, are our choice: the paper's are not known.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from corea.parser import Response, parse
from corea.support import processes

if TYPE_CHECKING:
    from corea.grader import Grader

RewardFunction = Callable[..., list[float]]
WORST = -1.0  # what a missing confidence earns: were it any better, silence would be the safe bid
KL_EPSILON = 0.01


# --- distances between a stated confidence c and an estimate t of P(correct), all in [0, 1] -------


def l1(confidence: float, target: float) -> float:
    """|c - t|, COREA's distance.  Its best c is the median of t."""
    return abs(confidence - target)


def l2(confidence: float, target: float) -> float:
    """(c - t)^2, RLCR's Brier score where t is the rollout's own 0/1.  Its best c is t's mean."""
    return (confidence - target) ** 2


def kl(confidence: float, target: float) -> float:
    """Bernoulli KL(t || c) over its largest value.  Its best c is the mean of t.

    c is clipped to [KL_EPSILON, 1 - KL_EPSILON], where KL is at most log(1 / KL_EPSILON); that
    divides it.  A c of exactly 0 or 1 is therefore a hair (.002) off even where t is the same.
    """
    c = min(max(confidence, KL_EPSILON), 1 - KL_EPSILON)
    pairs = ((target, c), (1 - target, 1 - c))
    divergence = sum(t * math.log(t / q) for t, q in pairs if t > 0)
    return min(1.0, max(0.0, divergence / math.log(1 / KL_EPSILON)))


def log(confidence: float, target: float) -> float:
    """Cross-entropy of t and c over its largest value: the logarithmic score where t is the rollout's own 0/1.

    Clipped and scaled as `kl`, from which it differs by the entropy of t: within a group with one target the two give the
    same advantages, so "log" says something new with target "sample" or a mix only.  Its best c is the mean of t.
    """
    c = min(max(confidence, KL_EPSILON), 1 - KL_EPSILON)
    entropy = -(target * math.log(c) + (1 - target) * math.log(1 - c))
    return min(1.0, entropy / math.log(1 / KL_EPSILON))


DISTANCES = {"l1": l1, "l2": l2, "kl": kl, "log": log}


# --- the three rewards ----------------------------------------------------------------------------


def correctness_reward(*, grader: Grader) -> RewardFunction:
    """Reward 1 for a right answer, 0 for a wrong or missing one.

    Reads columns gold and answer_type.
    """
    return _Correctness(grader)


def format_reward() -> RewardFunction:
    """Reward 1 for a well-formed completion (`Response.well_formed`), 0 for any other."""
    return _Format()


def confidence_reward(
    distance: str = "l1", target: str | float = "group", *, num_generations: int, grader: Grader
) -> RewardFunction:
    """Reward minus the distance between stated confidence and an estimate of P(correct): [-1, 0].

    distance: a name of `DISTANCES`.  target: "group" (mean correctness of all rollouts of the question
    in the call), "sample" (this rollout's own 0/1) or a float in [0, 1], the weight of sample in a
    mix of both.  A missing confidence earns -1.  Reads columns gold, answer_type and question_id;
    without the last, rows with the same prompt are of one question.

    Where several processes train together, each calls with its own rows and the mean is taken over all
    of them: the same number, to the last bit, as in one process.

    Raises ValueError for unknown settings, and in a call where a question's rows are not a multiple
    of num_generations: a mean over a part of a group is another target.  "sample" needs no groups.
    """
    weight = _sample_weight(target)
    _check_distance(distance)
    if type(num_generations) is not int or num_generations < 1:
        raise ValueError(f"num_generations={num_generations!r} is not a whole number of 1 or more")
    return _Confidence(distance, weight, num_generations, grader)


@dataclass(frozen=True, slots=True)
class _Correctness:
    __name__ = "correctness_reward"
    grader: Grader

    def __call__(self, *, completions, gold=None, answer_type=None, **_) -> list[float]:
        return [float(r) for r in _grades(self.grader, _parsed(completions), gold, answer_type)]


@dataclass(frozen=True, slots=True)
class _Format:
    __name__ = "format_reward"

    def __call__(self, *, completions, **_) -> list[float]:
        return [float(response.well_formed) for response in _parsed(completions)]


@dataclass(frozen=True, slots=True)
class _Confidence:
    __name__ = "confidence_reward"
    distance: str
    sample_weight: float
    num_generations: int
    grader: Grader

    def __call__(
        self, *, completions, prompts=None, gold=None, answer_type=None, question_id=None, **_
    ) -> list[float]:
        responses = _parsed(completions)
        right = _grades(self.grader, responses, gold, answer_type)
        targets = [float(own) for own in right]
        if self.sample_weight < 1:
            questions = _questions(question_id, prompts, len(right))
            means = _group_means(questions, right, self.num_generations)
            w = self.sample_weight
            targets = [w * own + (1 - w) * mean for own, mean in zip(targets, means, strict=True)]
        distance = DISTANCES[self.distance]
        return [
            WORST if response.confidence is None else 0.0 - distance(response.confidence, target)
            for response, target in zip(responses, targets, strict=True)
        ]


def _group_means(questions: list[Hashable], right: list[int], size: int) -> list[float]:
    """Mean correctness of each row's question over all processes: a ratio of whole numbers, the same in any order."""
    rows, wins = Counter[Hashable](), Counter[Hashable]()
    for question, won in processes.gathered(list(zip(questions, right, strict=True))):
        rows[question] += 1
        wins[question] += won
    for question, count in rows.items():
        if count % size:
            raise ValueError(
                f"question {str(question)[:80]!r} has {count} rows in this call, not a multiple of "
                f"num_generations={size}; per_device_train_batch_size x processes x steps_per_generation "
                f"must be a multiple of num_generations so that groups stay whole"
            )
    return [wins[question] / rows[question] for question in questions]


def _questions(question_id, prompts, count: int) -> list[Hashable]:
    """What tells each row's question: its id or, where the dataset has no ids, its prompt."""
    if question_id is not None:
        return _column("question_id", question_id, count)
    prompts = _column("prompts", prompts, count)
    return [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in prompts]


def _parsed(completions) -> list[Response]:
    return [parse(text_of(completion)) for completion in completions]


def _grades(grader: Grader, responses: list[Response], gold, answer_type) -> list[int]:
    """1 or 0 a row, from one call of the grader."""
    count = len(responses)
    gold, types = _column("gold", gold, count), _column("answer_type", answer_type, count)
    grades = list(grader.grade([response.answer for response in responses], gold, types))
    if len(grades) != count or any(grade not in (True, False) for grade in grades):
        raise ValueError(f"{count} answers need as many grades, True or False; got {grades[:20]}")
    return [int(grade) for grade in grades]


def _column(name: str, values: Sequence | None, count: int) -> list:
    if values is None:
        raise ValueError(f"rewards read a column {name!r}, which the training set does not have")
    if len(values) != count:
        raise ValueError(f"column {name!r} has {len(values)} rows for {count} completions")
    if any(value is None for value in values):
        raise ValueError(f"column {name!r} has rows without a value")
    return list(values)


def text_of(completion: str | Sequence[dict]) -> str:
    """The text of a completion as TRL hands it over: a string, or chat messages.

    The last message counts; its content is a string, None (no text) or a list of parts with "text".
    """
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


# --- a whole reward as settings -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """Which reward a run trains with: correctness + format + confidence, weighted.

    distance and target: as for `confidence_reward`; a distance of None leaves the confidence reward
    out.  Weights: finite, 0 or more.  Raises ValueError otherwise.
    """

    distance: str | None = "l1"
    target: str | float = "group"
    correctness_weight: float = 1.0
    format_weight: float = 0.1
    confidence_weight: float = 1.0

    def __post_init__(self):
        _sample_weight(self.target)
        if self.distance is not None:
            _check_distance(self.distance)
        for name in ("correctness_weight", "format_weight", "confidence_weight"):
            weight = getattr(self, name)
            if not _is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight!r} is not a finite number of 0 or more")

    def functions(self, num_generations: int, grader: Grader) -> list[RewardFunction]:
        """The TRL reward functions, for groups of `num_generations` rollouts."""
        functions = [correctness_reward(grader=grader), format_reward()]
        if self.distance is None:
            return functions
        confidence = confidence_reward(
            self.distance, self.target, num_generations=num_generations, grader=grader
        )
        return [*functions, confidence]

    @property
    def weights(self) -> list[float]:
        """The weight of each of `functions`, in the same order."""
        weights = [self.correctness_weight, self.format_weight, self.confidence_weight]
        return weights[:2] if self.distance is None else weights


def _check_distance(distance: str) -> None:
    if distance not in DISTANCES:
        raise ValueError(f"distance={distance!r} is not one of {', '.join(DISTANCES)}")


def _sample_weight(target: str | float) -> float:
    """The weight of the rollout's own 0/1 in the target; the rest is the group's."""
    if isinstance(target, str) and target in ("group", "sample"):
        return float(target == "sample")
    if not _is_number(target) or not 0 <= target <= 1:
        raise ValueError(f"target={target!r} is not 'group', 'sample' or a weight in [0, 1]")
    return float(target)


def _is_number(value) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


REWARDS = {
    "RLVR": RewardSpec(distance=None),
    "Brier": RewardSpec("l2", "sample"),
    "L1": RewardSpec("l1", "group"),
    "L2": RewardSpec("l2", "group"),
    "KL": RewardSpec("kl", "group"),
    "log": RewardSpec("log", "sample"),
}
