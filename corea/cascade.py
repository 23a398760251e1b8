"""The cascade: the SLM answers first, and the LLM only if the SLM is not sure enough.

The one rule is `keeps`. `Cascade` applies it to questions; `replay`, `sweep` and `evaluate_cascade`
apply it to recorded answers of both models. A deferred question pays both models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from corea import metrics
from corea.costs import PriceList
from corea.parser import parse
from corea.questions.base import Question, with_distinct_ids

if TYPE_CHECKING:
    from corea.engines.base import Completion, Engine
    from corea.policies import Policy

KEY = ["dataset", "question_id", "sample"]
DEFER_ALL = math.inf
SWEPT = ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
_POINTS = 256  # of a curve whose every draw is kept in memory


@dataclass(frozen=True, slots=True)
class CascadeAnswer:
    """One answer of a cascade.

    Attributes:
        text: the completion that is kept, of the model `source`, "slm" or "llm".
        answer: parsed from it; None if it commits to none.
        confidence: what the SLM stated, which decided; None if it stated none.
        cost: of the completions used, the SLM's and after a deferral the LLM's, in the unit of the
            prices; None without prices. What `Cascade.answer` drops is not in it.
    """

    question_id: str
    sample: int
    text: str
    answer: str | None
    confidence: float | None
    source: str
    cost: float | None


class Cascade:
    """An SLM that answers first, and an LLM for the questions on which it is not sure enough.

    Args:
        policy: a `Policy`, or only the least confidence that is kept; infinity defers all.
        prices: of both models, if costs are wanted.
    """

    def __init__(
        self, slm: Engine, llm: Engine, policy: Policy | float, prices: PriceList | None = None
    ):
        self.slm, self.llm, self.prices = slm, llm, prices
        self._keeps = _rule(policy)

    def __call__(self, question: str | Question) -> CascadeAnswer:
        """The answer to one question."""
        return self.answer([question])[0]

    def answer(
        self, questions: Sequence[str | Question], *, samples: int = 1, seed: int = 0
    ) -> list[CascadeAnswer]:
        """The answers to all questions, `samples` of each, by question and then by sample.

        The LLM is asked in one call, for the questions of which a sample is deferred, and up to the
        last deferred sample. With several samples, some of its completions may then be of samples
        that were not deferred: they are dropped, and in no answer's cost, though a server bills
        them.
        """
        items = with_distinct_ids(questions)
        attempts = _complete(self.slm, dict(enumerate(items)), samples, seed)
        stated = {key: parse(attempt.text).confidence for key, attempt in attempts.items()}
        deferred = [key for key, confidence in stated.items() if not self._keeps(confidence)]
        rescues: dict[tuple[int, int], Completion] = {}
        if deferred:
            deferred_items = {number: items[number] for number, _ in deferred}
            last = max(sample for _, sample in deferred)
            completions = _complete(self.llm, deferred_items, last + 1, seed)
            rescues = {key: completions[key] for key in deferred}
        answers = []
        for (number, sample), attempt in attempts.items():
            rescue = rescues.get((number, sample))
            kept, source = (attempt, "slm") if rescue is None else (rescue, "llm")
            confidence, answer = stated[number, sample], parse(kept.text).answer
            cost = None if self.prices is None else self.prices.cascade_cost(attempt, rescue)
            item = items[number].id, sample
            answers.append(CascadeAnswer(*item, kept.text, answer, confidence, source, cost))
        return answers


def keeps(confidence, threshold: float) -> np.ndarray:
    """Whether the SLM's answer is kept: stated (not None, not NaN) and at least the threshold."""
    return np.asarray(confidence, dtype=float) >= threshold


def _rule(policy: Policy | float):
    """What keeps an answer by its confidence: the policy's own rule, or that of a threshold."""
    if hasattr(policy, "keeps"):
        return policy.keeps
    return partial(keeps, threshold=checked_threshold(policy))


def checked_threshold(value: float) -> float:
    """The threshold as a float; ValueError if it is neither in [0, 1] nor infinity."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    if not is_number or not (0 <= value <= 1 or value == DEFER_ALL):
        raise ValueError(f"threshold={value!r}; it must be in [0, 1], or infinity to defer all")
    return float(value)


def _complete(
    engine: Engine, questions: dict[int, Question], samples: int, seed: int
) -> dict[tuple[int, int], Completion]:
    """Completions by (the question's number, sample)."""
    rows = engine.complete(list(questions.values()), samples=samples, seed=seed)
    if [len(row) for row in rows] != [samples] * len(questions):
        given = f"engine {engine.name!r} gave completions for {len(rows)} questions"
        raise ValueError(f"{given}, not {samples} for each of {len(questions)}")
    return {(q, s): c for q, row in zip(questions, rows, strict=True) for s, c in enumerate(row)}


def sweep(
    confidence, slm_correct, llm_correct, slm_cost, llm_cost, *, before_generation: bool = False
) -> pd.DataFrame:
    """The cost-accuracy curve of a cascade, from columns (rows,) of what both models answered.

    Args:
        before_generation: the decision is a router's, so a deferred question pays only the LLM.

    Returns:
        A row per threshold at which something changes: 0, each distinct confidence, and infinity.
        Columns: threshold, pass1 and cost (means), llm_share (share deferred), kept (rows).
    """
    slm_right, confidence = metrics.checked(slm_correct, confidence)
    llm_right, _ = metrics.checked(llm_correct, confidence)
    costs = [np.asarray(column, dtype=float) for column in (slm_cost, llm_cost)]
    if not len(confidence) or any(cost.shape != confidence.shape for cost in costs):
        shapes = ", ".join(str(column.shape) for column in (confidence, *costs))
        raise ValueError(f"confidence and costs are {shapes}; all must be (rows,), 1 row or more")
    if not np.isfinite(costs).all() or np.min(costs) < 0:
        raise ValueError("a cost is negative or not finite")
    columns = np.array([confidence, slm_right, llm_right, *costs])
    # Sorted by all columns, so that no sum depends on the order in which the rows were given.
    columns = columns[:, np.lexsort(columns[::-1])]
    rows = len(confidence)
    levels, kept, pass1, cost = _curve(columns, np.ones((1, rows)), before_generation)
    thresholds = np.unique([0.0, *levels, DEFER_ALL])
    at = np.searchsorted(-levels, -thresholds, side="right")  # how many levels each keeps
    curve = {"threshold": thresholds, "pass1": pass1[0, at] / rows, "cost": cost[0, at] / rows}
    return pd.DataFrame(curve | {"llm_share": (rows - kept[at]) / rows, "kept": kept[at]})


def cost_at_pass1(
    rows: pd.DataFrame, weights, *targets, before_generation: bool = False
) -> list[np.ndarray]:
    """The least cost (draws,) at which a cascade reaches each target Pass@1; NaN if it never does.

    Between two thresholds of the curve, it is the straight line that tossing a coin between them
    gives, so that sources of many and of few distinct confidences compare fairly. Of a source of
    many, every n-th threshold is used, 256 or fewer in all.

    Args:
        rows: as from `replay`, at any threshold.
        weights: shape (draws, rows), each summing to 1.
        targets: numbers, or arrays (draws,).
    """
    weights = np.atleast_2d(np.asarray(weights, dtype=float))
    columns = rows[[*SWEPT]].to_numpy(dtype=float).T
    _, _, pass1, cost = _curve(columns, weights, before_generation, most=_POINTS)
    levels = [np.broadcast_to(np.asarray(target, dtype=float), len(weights)) for target in targets]
    return [_cheapest(pass1, cost, target) for target in levels]


def _curve(
    columns: np.ndarray, weights: np.ndarray, before_generation: bool, most: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A cascade as its threshold falls past each level of confidence, from columns `SWEPT`.

    Returns the levels (L,), then from none to all of them kept: rows kept (1 + L,) and weighted
    sums (draws, 1 + L) of right answers and costs. Of more than `most` levels, every n-th is used.
    """
    confidence, slm, llm, slm_cost, llm_cost = columns
    stated = np.argsort(-confidence, kind="stable")[: np.isfinite(confidence).sum()]  # NaN is last
    starts = np.flatnonzero(np.diff(confidence[stated], prepend=np.inf))
    starts = starts[:: 1 if most is None else 1 + len(starts) // most]

    def sums(of_kept: np.ndarray, of_deferred: np.ndarray) -> np.ndarray:
        gained = weights[:, stated] * (of_kept - of_deferred)[stated]
        by_level = np.add.reduceat(gained, starts, axis=1).cumsum(axis=1)
        return (weights @ of_deferred)[:, None] + np.insert(by_level, 0, 0, axis=1)

    cost = sums(slm_cost, llm_cost if before_generation else slm_cost + llm_cost)
    return confidence[stated][starts], np.append(starts, len(stated)), sums(slm, llm), cost


def _cheapest(pass1: np.ndarray, cost: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least cost over the points, and the segments between them, that reach the target."""
    reaches = pass1 >= target[:, None] - 1e-12  # sums of the same rows in another order
    best = np.where(reaches, cost, np.inf).min(axis=1)
    left, right = pass1[:, :-1], pass1[:, 1:]
    crosses = reaches[:, :-1] != reaches[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (target[:, None] - left) / (right - left)
        between = cost[:, :-1] + share * (cost[:, 1:] - cost[:, :-1])
    best = np.minimum(best, np.where(crosses, between, np.inf).min(axis=1, initial=np.inf))
    return np.where(np.isfinite(best), best, np.nan)


def replay(
    slm_records: pd.DataFrame,
    llm_records: pd.DataFrame,
    policy: Policy | float,
    prices: PriceList,
    *,
    before_generation: bool = False,
) -> pd.DataFrame:
    """What `Cascade.answer` would have given, row by row, from the records of both models.

    The order is that of `slm_records`. Columns: dataset, question_id, sample; answer, correct,
    confidence, source and cost of the cascade; slm_correct, llm_correct, slm_cost, llm_cost.
    """
    columns = ("answer", "correct", "prompt_tokens", "completion_tokens")
    rows = paired(slm_records, llm_records, columns)
    kept = _rule(policy)(rows["confidence"])
    for side, price in (("slm", prices.slm), ("llm", prices.llm)):
        tokens = rows[f"{side}_prompt_tokens"], rows[f"{side}_completion_tokens"]
        rows[f"{side}_cost"] = price.cost(*tokens)
    for name in ("answer", "correct"):
        rows[name] = rows[f"slm_{name}"].where(kept, rows[f"llm_{name}"])
    rows["source"] = np.where(kept, "slm", "llm")
    deferred = rows["llm_cost"] if before_generation else rows["slm_cost"] + rows["llm_cost"]
    rows["cost"] = rows["slm_cost"].where(kept, deferred)
    return rows[[*KEY, "answer", "correct", "confidence", "source", "cost", *SWEPT[1:]]]


def evaluate_cascade(
    slm_records: pd.DataFrame,
    llm_records: pd.DataFrame,
    policy: Policy | float,
    prices: PriceList,
    *,
    before_generation: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The cascade by one policy: a row per dataset, then "mean", their plain mean.

    Columns: dataset, threshold, questions, samples (per question), and each of these with _low and
    _high (95%; cascade and LLM on the same resamples of questions): pass1; pass1_drop, the LLM's
    Pass@1 less the cascade's; cost, in price units per 1,000 questions; cost_reduction, 1 - cost /
    the LLM's own cost; llm_share. Arguments and errors are those of `replay`.
    """
    rows = replay(slm_records, llm_records, policy, prices, before_generation=before_generation)
    threshold = getattr(policy, "threshold", policy)
    table = []
    for dataset, draws in set_draws(rows, resamples=resamples, seed=seed).items():
        set_rows = rows if dataset == "mean" else rows[rows["dataset"] == dataset]
        row = {"dataset": dataset, "threshold": threshold, **metrics.sizes(set_rows)}
        table.append(row | metrics.flat(metrics.intervals(draws)))
    return pd.DataFrame(table)


def set_draws(rows: pd.DataFrame, **options) -> dict[str, metrics.Draws]:
    """The draws behind `evaluate_cascade`, from the rows of `replay`: per dataset, then "mean"."""
    return metrics.set_draws(rows, _draws, **options)


def _draws(rows: pd.DataFrame, **options) -> metrics.Draws:
    columns = {name: rows[name] for name in ("correct", "llm_correct", "cost", "llm_cost")}
    means = metrics.question_means(rows, columns | {"llm": rows["source"] == "llm"}, **options)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = 1 - means["cost"] / means["llm_cost"]
    drop, cost = means["llm_correct"] - means["correct"], 1000 * means["cost"]
    draws = {"pass1": means["correct"], "pass1_drop": drop, "cost": cost}
    return draws | {"cost_reduction": reduction, "llm_share": means["llm"]}


def paired(
    slm_records: pd.DataFrame, llm_records: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """`KEY`, the SLM's confidence, and each column of both models as slm_... and llm_..."""
    sides = []
    for side, records in (("slm", slm_records), ("llm", llm_records)):
        names = [*KEY, *columns, *(["confidence"] if side == "slm" else [])]
        if missing := [name for name in names if name not in records]:
            raise ValueError(f"{side} records lack the column {missing[0]!r}")
        if (doubled := records.duplicated(KEY)).any():
            raise ValueError(f"{side} records hold {_first(records[doubled])} twice")
        sides.append(records[names].rename(columns={name: f"{side}_{name}" for name in columns}))
    for side, ours, others in (("slm", *sides), ("llm", *sides[::-1])):
        alone = others.merge(ours[KEY], on=KEY, how="left_anti")
        if len(alone):
            raise ValueError(f"{side} records lack {_first(alone)}, which the other model answered")
    if sides[0].empty:
        raise ValueError("no records to cascade")
    return sides[0].merge(sides[1], on=KEY, how="left")


def _first(rows: pd.DataFrame) -> str:
    dataset, question, sample = rows[KEY].iloc[0]
    return f"question {question!r} of {dataset!r}, sample {sample}"


def llm_pass1(llm_calibration: pd.DataFrame) -> float:
    """The paper's rule for a threshold: the LLM's Pass@1, on a split that we chose."""
    if llm_calibration.empty:
        raise ValueError("the LLM has no calibration records to take a threshold from")
    value = float(llm_calibration.groupby(KEY[:2])["correct"].mean().mean())
    if value == 1:
        warnings.warn("the LLM made no error on the calibration split", stacklevel=2)
    return checked_threshold(value)


def best_under_budget(curve: pd.DataFrame, budget: float) -> float:
    """The most accurate threshold of a `sweep` at a mean cost in `budget`; of equals, the
    cheaper."""
    affordable = curve[curve["cost"] <= budget].sort_values("cost", kind="stable")
    if affordable.empty:
        cheapest = curve["cost"].min()
        raise ValueError(f"no threshold costs at most {budget:g}; the cheapest costs {cheapest:g}")
    return float(affordable["threshold"].iloc[affordable["pass1"].argmax()])


def cheapest_at_pass1(curve: pd.DataFrame, pass1: float) -> float:
    """The cheapest threshold of a `sweep` that reaches a Pass@1; of equals, the more accurate."""
    accurate = curve[curve["pass1"] >= pass1 - 1e-12]
    if accurate.empty:
        most = curve["pass1"].max()
        raise ValueError(f"no threshold reaches a Pass@1 of {pass1:g}; the best has {most:g}")
    accurate = accurate.sort_values("pass1", ascending=False, kind="stable")
    return float(accurate["threshold"].iloc[accurate["cost"].argmin()])
