"""Correctness, format and confidence as TRL reward functions, and named ways to weigh them.

Hand them to `trl.GRPOTrainer` or name them to `trl grpo`; `functools.partial` binds their settings.
They read the training set's columns: the right answer is `gold`, else `solution`, else `answer`;
`answer_type` is optional; rows of one question share `question_id`, else their prompt.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from corea.grader import shared_grader
from corea.parser import Response, parse
from corea.support import processes

_SILENCE = -1.0  # what no confidence earns: were it any better, silence would be the safe bid
_EPSILON = 0.01  # "kl" and "log" clip confidences to [_EPSILON, 1 - _EPSILON]
_WEIGHTS = ("correctness_weight", "format_weight", "confidence_weight")


def _kl(c: float, t: float) -> float:
    """Bernoulli KL(t || c) over its largest value, log(1 / _EPSILON)."""
    c = min(max(c, _EPSILON), 1 - _EPSILON)
    divergence = sum(p * math.log(p / q) for p, q in ((t, c), (1 - t, 1 - c)) if p > 0)
    return min(1.0, max(0.0, divergence / math.log(1 / _EPSILON)))


def _log(c: float, t: float) -> float:
    """Cross-entropy of t and c, scaled as KL, whose advantages it shares if a group has one t."""
    c = min(max(c, _EPSILON), 1 - _EPSILON)
    return min(1.0, -(t * math.log(c) + (1 - t) * math.log(1 - c)) / math.log(1 / _EPSILON))


# From a stated confidence c to an estimate t of P(correct), all in [0, 1]. The best c is the median
# of t for "l1", COREA's distance, and its mean for the others.
DISTANCES: dict[str, Callable[[float, float], float]] = {
    "l1": lambda c, t: abs(c - t),
    "l2": lambda c, t: (c - t) ** 2,  # RLCR's Brier score if t is the rollout's own 0 or 1
    "kl": _kl,
    "log": _log,
}


def correctness_reward(completions, gold=None, *, grader=None, **columns) -> list[float]:
    """Reward 1 for a right answer, 0 for a wrong or missing one; arguments as `confidence_reward`.

    Example:
        >>> correctness_reward(["<answer>1/2</answer>", "2"], solution=["0.5", "2"])
        [1.0, 0.0]
    """
    return [float(right) for _, right in graded(completions, gold, columns, grader)]


def format_reward(completions, **columns) -> list[float]:
    """Reward 1 for a well-formed completion (`Response.well_formed`), 0 for any other.

    Example:
        >>> format_reward(["<think></think><answer>4</answer><confidence>1</confidence>", "4"])
        [1.0, 0.0]
    """
    return [float(parse(text_of(completion)).well_formed) for completion in completions]


def confidence_reward(
    completions,
    gold=None,
    *,
    distance="l1",
    target="group",
    num_generations=None,
    grader=None,
    **columns,
) -> list[float]:
    """Reward a stated confidence for being near the chance of being right.

    Args:
        completions: TRL's completions, text or chat messages.
        gold: the right answers; column `solution` or `answer` is read if it is missing.
        distance: "l1", "l2", "kl" or "log".
        target: "group" (share of the question's rollouts that are right, over all processes),
            "sample" (the rollout's own 0 or 1), or the weight of "sample" in a mix, in [0, 1].
        num_generations: rollouts of a group; if given, every group is checked to be whole.
        grader: a `corea.Grader`, by default the one that all calls of this process share.
        **columns: the training set's other columns, and TRL's `prompts`.

    Returns:
        Minus the distance, in [-1, 0], per completion; -1 if no confidence was stated.

    Raises:
        ValueError: for an unknown setting, a missing column, or rows that make no whole groups.

    Example:
        >>> rollouts = [f"<answer>{a}</answer><confidence>.75</confidence>" for a in (4, 5)]
        >>> confidence_reward(rollouts, gold=["4", "4"], question_id=["q", "q"])
        [-0.25, -0.25]
    """
    weight = _checked(distance, target)
    rows = graded(completions, gold, columns, grader)
    targets = _targets([right for _, right in rows], weight, columns, num_generations)
    return [
        _SILENCE if r.confidence is None else 0.0 - DISTANCES[distance](r.confidence, t)
        for (r, _), t in zip(rows, targets, strict=True)
    ]


def graded(completions, gold, columns: dict, grader=None) -> list[tuple[Response, int]]:
    """Each completion parsed, and 1 if its answer is right, else 0."""
    responses = [parse(text_of(completion)) for completion in completions]
    count = len(responses)
    columns = {"gold": gold, "answer_type": ["math"] * count, **columns}
    named = [n for n in ("gold", "solution", "answer") if columns.get(n) is not None]
    if not named:
        raise ValueError("there is no column 'gold', 'solution' or 'answer' to grade by")
    golds, types = (_column(name, columns, count) for name in (named[0], "answer_type"))
    golds = [str(g) if type(g) in (int, float) else g for g in golds]
    grades = (grader or shared_grader()).grade([r.answer for r in responses], golds, types)
    if len(grades) != count or any(grade not in (True, False) for grade in grades):
        raise ValueError(f"{count} answers need as many grades, True or False; got {grades[:20]}")
    return list(zip(responses, map(int, grades), strict=True))


def _targets(right: list[int], weight: float, columns: dict, num_generations: int | None):
    """Each row's own 0 or 1, weighted, and the mean of its question's rows over all processes."""
    if weight == 1:
        return right
    key = "prompts" if columns.get("question_id") is None else "question_id"
    values = _column(key, columns, len(right))
    questions = [json.dumps(value) if isinstance(value, list) else value for value in values]
    groups = defaultdict[Hashable, list[int]](list)
    for question, won in processes.gathered(list(zip(questions, right, strict=True))):
        groups[question].append(won)
    _check_whole({question: len(group) for question, group in groups.items()}, num_generations)
    means = {question: sum(group) / len(group) for question, group in groups.items()}
    rows = zip(right, questions, strict=True)
    return [weight * own + (1 - weight) * means[question] for own, question in rows]


def _check_whole(rows: dict[Hashable, int], num_generations: int | None) -> None:
    # TRL does not tell rewards the size of a group, and a question may be drawn twice in a call.
    # Unless the size is given, only counts that no size explains are refused: 4, 4, 2 may be pairs.
    size = num_generations or math.gcd(*rows.values())
    if broken := [question for question, count in rows.items() if size < 2 or count % size]:
        question = min(broken, key=rows.__getitem__)
        known = f"not a multiple of {num_generations=}"
        raise ValueError(
            f"question {str(question)[:80]!r} has {rows[question]} rows in this call, "
            f"{known if num_generations else f'another {max(rows.values())}'}: no whole groups; "
            "per_device_train_batch_size x processes x steps_per_generation must be a multiple of "
            "num_generations, 2 or more"
        )


def _column(name: str, columns: dict, count: int) -> list:
    if (values := columns.get(name)) is None:
        raise ValueError(f"rewards read a column {name!r}, which is missing")
    if len(values) != count:
        raise ValueError(f"column {name!r} has {len(values)} rows for {count} completions")
    if any(value is None for value in values):
        raise ValueError(f"column {name!r} has rows without a value")
    return list(values)


def text_of(completion: str | Sequence[dict]) -> str:
    """The text of a completion: a string, or the last chat message's text or parts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """Which reward a run trains with: correctness + format + confidence, weighted."""

    distance: str | None = "l1"  # as for `confidence_reward`; None leaves that reward out
    target: str | float = "group"  # as for `confidence_reward`
    correctness_weight: float = 1.0  # finite, 0 or more; the paper's weights are not known
    format_weight: float = 0.1
    confidence_weight: float = 1.0

    def __post_init__(self):
        _checked("l1" if self.distance is None else self.distance, self.target)
        for name in _WEIGHTS:
            weight = getattr(self, name)
            if type(weight) not in (int, float) or not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight!r} is not a finite number of 0 or more")

    def hashed(self) -> dict:
        """What a run's hash is made from: a field that comes later must not change it."""
        return {name: getattr(self, name) for name in ("distance", "target", *_WEIGHTS)}

    def functions(self, num_generations: int | None = None) -> list[Callable[..., list[float]]]:
        """The TRL reward functions; `num_generations` as for `confidence_reward`."""
        if self.distance is None:
            return [correctness_reward, format_reward]
        settings = {"distance": self.distance, "target": self.target}
        confidence = partial(confidence_reward, num_generations=num_generations, **settings)
        return [correctness_reward, format_reward, confidence]

    @property
    def weights(self) -> list[float]:
        """The weight of each of `functions`, in the same order."""
        return [getattr(self, name) for name in _WEIGHTS[: 2 if self.distance is None else 3]]


def _checked(distance: str, target: str | float) -> float:
    """The weight of the rollout's own 0 or 1 in the target; the rest is the group's."""
    if distance not in DISTANCES:
        raise ValueError(f"distance={distance!r} is not one of {', '.join(DISTANCES)}")
    if target in ("group", "sample"):
        return float(target == "sample")
    if type(target) not in (int, float) or not 0 <= float(target) <= 1:
        raise ValueError(f"target={target!r} is not 'group', 'sample' or a weight in [0, 1]")
    return float(target)


REWARDS = {
    "RLVR": RewardSpec(distance=None),
    "Brier": RewardSpec("l2", "sample"),
    "L1": RewardSpec("l1", "group"),
    "L2": RewardSpec("l2", "group"),
    "KL": RewardSpec("kl", "group"),
    "log": RewardSpec("log", "sample"),
}
