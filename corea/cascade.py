"""The cascade: the SLM answers first, and the LLM only where the SLM is not sure enough.

The one rule, in `keeps`: the SLM's answer is kept if a confidence was stated and is at least the
threshold; otherwise the question is deferred and both models are paid.  `Cascade` applies it
online, asking the LLM for deferred questions only; `replay`, `sweep` and `evaluate_cascade` apply
it to recorded answers of both models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corea import metrics
from corea.costs import PriceList
from corea.parser import parse

if TYPE_CHECKING:
    from corea.engines.base import Completion, Engine
    from corea.questions.base import Question

KEY = ["dataset", "question_id", "sample"]
DEFER_ALL = math.inf
_POINTS = 256  # of a curve whose every draw is kept in memory


# --- online ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CascadeAnswer:
    """One answer of the cascade.

    confidence: the SLM's, which decided; cost: in units of the price list, None without one;
    source: "slm" or "llm".
    """

    question_id: str
    sample: int
    answer: str | None
    confidence: float | None
    source: str
    cost: float | None
    slm_completion: Completion
    llm_completion: Completion | None


class Cascade:
    """An SLM and an LLM behind one `answer`.

    threshold: from `fixed`, `llm_pass1` or `best_under_budget`; prices: a `PriceList`, or None to
    leave costs out.
    """

    def __init__(self, slm: Engine, llm: Engine, threshold: float, prices: PriceList | None = None):
        self.slm, self.llm, self.prices = slm, llm, prices
        self.threshold = _checked_threshold(threshold)

    def answer(
        self, questions: Sequence[Question], *, samples: int = 1, seed: int = 0
    ) -> list[CascadeAnswer]:
        """Answers to all questions, `samples` each, by question and then by sample.

        The LLM is asked in one call for the questions of which a sample is deferred, or not at all.
        An engine's completion depends on question id, sample index and seed, so it is asked for
        samples up to the last deferred index; those between that were not deferred are dropped and
        not counted as cost.  With `samples=1` there are none.
        """
        attempts = _complete(self.slm, dict(enumerate(questions)), samples, seed)
        responses = {key: parse(completion.text) for key, completion in attempts.items()}
        deferred = [k for k, r in responses.items() if not keeps(r.confidence, self.threshold)]
        rescues = {}
        if deferred:
            asked = {q: questions[q] for q, _ in deferred}
            found = _complete(self.llm, asked, 1 + max(s for _, s in deferred), seed)
            rescues = {key: found[key] for key in deferred}
        return [
            self._answer(questions[q].id, s, response, attempts[q, s], rescues.get((q, s)))
            for (q, s), response in responses.items()
        ]

    def _answer(self, question_id, sample, response, attempt, rescue) -> CascadeAnswer:
        answer = response.answer if rescue is None else parse(rescue.text).answer
        cost = None if self.prices is None else self.prices.cascade_cost(attempt, rescue)
        source = "slm" if rescue is None else "llm"
        return CascadeAnswer(
            question_id, sample, answer, response.confidence, source, cost, attempt, rescue
        )


def keeps(confidence, threshold: float) -> np.ndarray:
    """Whether the SLM's answer is kept: stated (not None, not NaN) and at least the threshold."""
    return np.asarray(confidence, dtype=float) >= threshold


def _complete(
    engine: Engine, questions: dict[int, Question], samples: int, seed: int
) -> dict[tuple[int, int], Completion]:
    """Completions by (the question's number, sample)."""
    rows = engine.complete(list(questions.values()), samples=samples, seed=seed)
    if len(rows) != len(questions) or any(len(row) != samples for row in rows):
        raise ValueError(
            f"engine {engine.name!r} gave completions for {len(rows)} questions, "
            f"not {samples} for each of {len(questions)}"
        )
    return {(q, s): c for q, row in zip(questions, rows, strict=True) for s, c in enumerate(row)}


# --- offline: one threshold, or all ---------------------------------------------------------------


def sweep(
    confidence, slm_correct, llm_correct, slm_cost, llm_cost, *, before_generation: bool = False
) -> pd.DataFrame:
    """The whole cost-accuracy curve of a cascade, from rows that both models answered.

    All arguments have shape (rows,).  One row for each threshold at which something changes: 0
    (every stated confidence kept), each distinct confidence, and infinity (all deferred).  Columns:
    threshold, pass1 and cost (means over rows), llm_share (share deferred), kept (rows).  The
    result does not depend on the order of the rows, to the last bit.  One sort and running sums.
    before_generation: the decision is a router's, so that a deferred question pays the LLM alone.
    With `slm_correct` as the confidence it gives the curve of an oracle.
    """
    confidence, slm_right, llm_right, slm_spent, llm_spent, unit = _columns(
        confidence, slm_correct, llm_correct, slm_cost, llm_cost
    )
    order = np.argsort(confidence)  # NaN, never kept, goes last
    stated = len(order) - np.isnan(confidence).sum()
    rising = confidence[order[:stated]]
    first = np.flatnonzero(np.diff(rising, prepend=-np.inf))
    thresholds = rising[first]
    if not stated or thresholds[0] > 0:
        thresholds, first = np.append(0.0, thresholds), np.append(0, first)
    thresholds, first = np.append(thresholds, DEFER_ALL), np.append(first, stated)
    deferred = llm_spent if before_generation else slm_spent + llm_spent
    return _curve(
        thresholds,
        kept=stated - first,
        right=llm_right.sum() + _from(first, (slm_right - llm_right)[order[:stated]]),
        spent=deferred.sum() + _from(first, (slm_spent - deferred)[order[:stated]]),
        rows=len(order),
        unit=unit,
    )


def at_threshold(
    confidence,
    slm_correct,
    llm_correct,
    slm_cost,
    llm_cost,
    threshold: float,
    *,
    before_generation: bool = False,
) -> dict[str, float]:
    """The row of `sweep` for any one threshold, as a dict."""
    confidence, slm_right, llm_right, slm_spent, llm_spent, unit = _columns(
        confidence, slm_correct, llm_correct, slm_cost, llm_cost
    )
    kept = keeps(confidence, _checked_threshold(threshold))
    right = np.where(kept, slm_right, llm_right).sum()
    deferred = llm_spent if before_generation else slm_spent + llm_spent
    spent = np.where(kept, slm_spent, deferred).sum()
    row = _curve([threshold], kept=kept.sum(), right=right, spent=spent, rows=len(kept), unit=unit)
    return row.iloc[0].to_dict()


def _columns(confidence, slm_correct, llm_correct, slm_cost, llm_cost):
    """The columns, checked; costs as whole multiples of `unit`, a power of two, for exact sums."""
    slm_right, confidence = metrics.checked(slm_correct, confidence)
    llm_right, _ = metrics.checked(llm_correct, confidence)
    costs = [np.asarray(column, dtype=float) for column in (slm_cost, llm_cost)]
    if not len(confidence) or any(cost.shape != confidence.shape for cost in costs):
        sizes = [len(confidence), *(np.size(cost) for cost in costs)]
        raise ValueError(f"confidence and costs have {sizes} rows; use one number, at least 1")
    if not all(np.isfinite(cost).all() and (cost >= 0).all() for cost in costs):
        raise ValueError("a cost is negative or not finite")
    bound = max(1e-200, sum(len(cost) * float(cost.max()) for cost in costs))
    unit = 2.0 ** (math.frexp(bound)[1] - 62)
    slm_spent, llm_spent = (np.rint(cost / unit).astype(np.int64) for cost in costs)
    return confidence, slm_right, llm_right, slm_spent, llm_spent, unit


def _from(first: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` from each index of `first` to the end."""
    before = np.append(0, np.cumsum(values))
    return before[-1] - before[first]


def _curve(thresholds, *, kept, right, spent, rows: int, unit: float) -> pd.DataFrame:
    table = {
        "threshold": thresholds,
        "pass1": right / rows,
        "cost": spent * unit / rows,
        "llm_share": (rows - kept) / rows,
        "kept": kept,
    }
    return pd.DataFrame(table)


def cost_at_pass1(
    rows: pd.DataFrame, weights, *targets, before_generation: bool = False
) -> list[np.ndarray]:
    """The least cost at which a cascade reaches each target Pass@1, one for each set of weights; NaN where it never does.

    rows: as from `replay`, any threshold.  weights: (draws, rows), each summing to 1.  targets: numbers or (draws,).
    Read from the whole curve, between two thresholds on the straight line that tossing a coin between them gives, so that
    sources of many and of few distinct confidences compare fairly.  Of a source of many, every n-th threshold is used, 256
    or fewer in all.  In the unit of the rows' costs.
    """
    weights = np.atleast_2d(np.asarray(weights, dtype=float))
    confidence = rows["confidence"].to_numpy(dtype=float)
    order = np.argsort(-confidence, kind="stable")  # NaN, never kept, goes last
    stated = order[: len(order) - int(np.isnan(confidence).sum())]
    starts = np.flatnonzero(
        np.diff(confidence[stated], prepend=np.inf)
    )  # the first row of each level
    starts = starts[:: 1 + len(starts) // _POINTS]
    slm, llm, slm_cost, llm_cost = (
        rows[name].to_numpy(dtype=float)
        for name in ("slm_correct", "llm_correct", "slm_cost", "llm_cost")
    )
    deferred = llm_cost if before_generation else slm_cost + llm_cost
    ordered, curve = weights[:, stated], []
    for all_deferred, gained in ((llm, slm - llm), (deferred, slm_cost - deferred)):
        start = (weights @ all_deferred)[:, None]
        if len(starts):
            kept = np.add.reduceat(ordered * gained[stated], starts, axis=1).cumsum(axis=1)
            start = np.concatenate([start, start + kept], axis=1)
        curve.append(start)
    pass1, cost = curve
    return [
        _cheapest(pass1, cost, np.broadcast_to(np.asarray(target, dtype=float), len(weights)))
        for target in targets
    ]


def _cheapest(pass1: np.ndarray, cost: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least cost over the points, and the segments between neighbours, that reach the target (last axis: thresholds)."""
    slack = 1e-12  # sums of the same rows in another order
    reaches = pass1 >= target[:, None] - slack
    best = np.where(reaches, cost, np.inf).min(axis=1)
    left, right = pass1[:, :-1], pass1[:, 1:]
    crosses = reaches[:, :-1] != reaches[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (target[:, None] - left) / (right - left)
        between = cost[:, :-1] + share * (cost[:, 1:] - cost[:, :-1])
    best = np.minimum(best, np.where(crosses, between, np.inf).min(axis=1, initial=np.inf))
    return np.where(np.isfinite(best), best, np.nan)


def random_deferral(
    slm_pass1: float, llm_pass1: float, slm_cost: float, llm_cost: float, points: int = 11
) -> pd.DataFrame:
    """What deferring a random share is expected to give: the line a useful confidence must beat.

    The SLM is paid always and the LLM for the share deferred, so the line ends at the LLM's
    accuracy and the cost of both.  Columns llm_share, pass1, cost; `points` rows from share 0 to 1.
    Costs are means in one unit.
    """
    share = np.linspace(0, 1, points)
    pass1 = (1 - share) * slm_pass1 + share * llm_pass1
    return pd.DataFrame({"llm_share": share, "pass1": pass1, "cost": slm_cost + share * llm_cost})


# --- offline: from records ------------------------------------------------------------------------


def replay(
    slm_records: pd.DataFrame,
    llm_records: pd.DataFrame,
    threshold: float,
    prices: PriceList,
    *,
    confidence: str = "confidence",
    before_generation: bool = False,
) -> pd.DataFrame:
    """What `Cascade.answer` would have given, row by row, from the records of both models.

    confidence: the column of `slm_records` that decides; before_generation: as in `sweep`.  Columns: dataset, question_id, sample,
    answer, correct, confidence, source, cost, and slm_correct, llm_correct, slm_cost, llm_cost
    (arguments of `sweep`).  Raises ValueError where a (dataset, question_id, sample) is doubled, or
    on one side only.
    """
    rows = _joined(slm_records, llm_records, confidence)
    kept = keeps(rows["confidence"], _checked_threshold(threshold))
    for side, price in (("slm", prices.slm), ("llm", prices.llm)):
        rows[f"{side}_cost"] = price.cost(
            rows[f"{side}_prompt_tokens"], rows[f"{side}_completion_tokens"]
        )
    for name in ("answer", "correct"):
        rows[name] = rows[f"slm_{name}"].where(kept, rows[f"llm_{name}"])
    rows["source"] = np.where(kept, "slm", "llm")
    deferred = rows["llm_cost"] if before_generation else rows["slm_cost"] + rows["llm_cost"]
    rows["cost"] = rows["slm_cost"].where(kept, deferred)
    both = ["slm_correct", "llm_correct", "slm_cost", "llm_cost"]
    return rows[[*KEY, "answer", "correct", "confidence", "source", "cost", *both]]


def evaluate_cascade(
    slm_records: pd.DataFrame,
    llm_records: pd.DataFrame,
    threshold: float,
    prices: PriceList,
    *,
    confidence: str = "confidence",
    before_generation: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The cascade at one threshold: a row for each dataset, then "mean", their plain mean.

    Columns: dataset, threshold, questions, samples (a question), and each of these with _low and
    _high (95%, bootstrap over questions, cascade and LLM on the same resamples): pass1; pass1_drop,
    the LLM's Pass@1 less the cascade's; cost, in price units per 1,000 questions asked once;
    cost_reduction, 1 - cost / the LLM's cost alone; llm_share.  Arguments and errors as in
    `replay`.
    """
    options: dict[str, Any] = {"confidence": confidence, "before_generation": before_generation}
    rows = replay(slm_records, llm_records, threshold, prices, **options)
    sets = set_draws(rows, resamples=resamples, seed=seed)
    names = list(sets["mean"])
    table = []
    for dataset, draws in sets.items():
        part = rows if dataset == "mean" else rows[rows["dataset"] == dataset]
        questions = len(part[KEY[:2]].drop_duplicates())
        samples = len(part) / questions
        row = {"dataset": dataset, "threshold": threshold, "questions": questions}
        row["samples"] = int(samples) if samples.is_integer() else samples
        for name in names:
            found = metrics.interval(draws[name])
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        table.append(row)
    return pd.DataFrame(table)


def set_draws(
    rows: pd.DataFrame, *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """The draws behind `evaluate_cascade`, from the rows of `replay`: for each dataset, then their "mean"."""
    sets = {
        dataset: _draws(part, resamples, metrics.dataset_seed(seed, dataset))
        for dataset, part in rows.groupby("dataset", sort=False)
    }
    names = next(iter(sets.values()))
    return {
        **sets,
        "mean": {name: np.mean([draws[name] for draws in sets.values()], axis=0) for name in names},
    }


def _draws(rows: pd.DataFrame, resamples: int, seed) -> dict[str, np.ndarray]:
    columns = {name: rows[name] for name in ("correct", "llm_correct", "cost", "llm_cost")}
    columns["deferred"] = rows["source"] == "llm"
    means = metrics.paired_bootstrap(rows["question_id"], columns, resamples=resamples, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = 1 - means["cost"] / means["llm_cost"]
    return {
        "pass1": means["correct"],
        "pass1_drop": means["llm_correct"] - means["correct"],
        "cost": 1000 * means["cost"],
        "cost_reduction": reduction,
        "llm_share": means["deferred"],
    }


def _joined(slm_records: pd.DataFrame, llm_records: pd.DataFrame, confidence: str) -> pd.DataFrame:
    kept = ["answer", "correct", "prompt_tokens", "completion_tokens"]
    sides = []
    for side, records, extra in (("slm", slm_records, [confidence]), ("llm", llm_records, [])):
        missing = [name for name in (*KEY, *kept, *extra) if name not in records]
        if missing:
            raise ValueError(f"{side} records lack the column {missing[0]!r}")
        doubled = records.duplicated(KEY)
        if doubled.any():
            raise ValueError(f"{side} records hold {_first(records[doubled])} twice")
        names = {name: f"{side}_{name}" for name in kept} | dict.fromkeys(extra, "confidence")
        sides.append(records[[*KEY, *kept, *extra]].rename(columns=names))
    slm, llm = sides
    keys = [pd.MultiIndex.from_frame(side[KEY]) for side in sides]
    for name, lone in (("slm", llm[~keys[1].isin(keys[0])]), ("llm", slm[~keys[0].isin(keys[1])])):
        if len(lone):
            raise ValueError(f"{name} records lack {_first(lone)}, which the other model answered")
    if slm.empty:
        raise ValueError("no records to cascade")
    return slm.merge(llm, on=KEY, how="left")  # in the order of the SLM's records


def _first(rows: pd.DataFrame) -> str:
    dataset, question, sample = rows[KEY].iloc[0]
    return f"question {question!r} of {dataset!r}, sample {sample}"


# --- thresholds -----------------------------------------------------------------------------------


def fixed(value: float, slm_calibration: pd.DataFrame | None = None) -> float:
    """A threshold given as a number in [0, 1], or infinity to defer all; else ValueError.

    With the SLM's calibration records it warns where the threshold decides nothing there, as do the
    other rules.
    """
    value = _checked_threshold(value)
    if slm_calibration is not None:
        kept = keeps(slm_calibration["confidence"], value)
        _warn_degenerate(value, kept.sum(), slm_calibration["confidence"].notna().sum())
    return value


def llm_pass1(llm_calibration: pd.DataFrame, slm_calibration: pd.DataFrame | None = None) -> float:
    """The paper's rule: the LLM's Pass@1.

    Measured on the calibration split, which is our choice: which split the paper used is not known.
    llm_calibration: the LLM's records (dataset, question_id, correct).  Warns, in one line, where
    they hold no error, and where the threshold keeps or defers all that the SLM stated on
    `slm_calibration`.  ValueError without records.
    """
    if llm_calibration.empty:
        raise ValueError("the LLM has no calibration records to take a threshold from")
    value = float(llm_calibration.groupby(KEY[:2])["correct"].mean().mean())
    if value == 1:
        _warn("the LLM made no error on the calibration split: the threshold of 1 says little")
    return fixed(value, slm_calibration)


def best_under_budget(curve: pd.DataFrame, budget: float) -> float:
    """The threshold of highest Pass@1 within a budget; of equals, the cheaper.

    curve: `sweep` of a calibration split; budget: mean cost of a row, in the unit of the curve.
    Raises ValueError where no threshold is that cheap.
    """
    if not isinstance(budget, Real) or math.isnan(budget):
        raise ValueError(f"budget={budget!r}; it must be a number, in the unit of the curve's cost")
    affordable = curve[curve["cost"] <= budget]
    if affordable.empty:
        cheapest = curve["cost"].min()
        raise ValueError(f"no threshold costs at most {budget:g}; the cheapest costs {cheapest:g}")
    best = affordable.sort_values(["pass1", "cost"], ascending=[False, True], kind="stable").iloc[0]
    if (curve["pass1"] == 1).all():
        _warn("the calibration split holds no error: every threshold is as good there")
    _warn_degenerate(best["threshold"], best["kept"], curve["kept"].max())
    return float(best["threshold"])


def cheapest_at_pass1(curve: pd.DataFrame, pass1: float) -> float:
    """The threshold of least cost that reaches a Pass@1; of equals, the more accurate.

    curve: `sweep` of a calibration split.  Raises ValueError where no threshold is that accurate.
    """
    good = curve[curve["pass1"] >= pass1 - 1e-12]
    if good.empty:
        raise ValueError(
            f"no threshold reaches a Pass@1 of {pass1:g}; the best has {curve['pass1'].max():g}"
        )
    best = good.sort_values(["cost", "pass1"], ascending=[True, False], kind="stable").iloc[0]
    _warn_degenerate(best["threshold"], best["kept"], curve["kept"].max())
    return float(best["threshold"])


def _checked_threshold(value: float) -> float:
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    if not is_number or not (0 <= value <= 1 or value == DEFER_ALL):
        raise ValueError(f"threshold={value!r}; it must be in [0, 1], or infinity to defer all")
    return float(value)


def _warn_degenerate(threshold: float, kept: int, stated: int) -> None:
    if kept in (0, stated):
        what = "defers everything" if kept == 0 else "keeps every stated confidence"
        _warn(f"the threshold {threshold:g} {what} on the calibration split")


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)
