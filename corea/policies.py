"""Policies: when a cascade keeps the SLM's answer, and what is promised of it."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from corea import metrics
from corea.cascade import DEFER_ALL, KEY, checked_threshold, keeps, paired
from corea.records import read_records

_GRID = np.arange(101) / 100  # the thresholds that are tested, fixed before any record is seen
_COLUMNS = ["confidence", "slm_correct", "llm_correct"]
_LARGEST_BET = 0.75  # share of the capital that one question may cost


@dataclass(frozen=True, slots=True)
class Policy:
    """A threshold on a confidence, and its promise.

    With probability `confidence` over the draw of the calibration questions, the cascade loses at
    most `max_loss` of Pass@1 to the LLM, in expectation over questions of the same kind.

    Attributes:
        threshold: the least confidence that is kept; infinity defers all.
        holds: whether a threshold that keeps anything could be promised.
        questions: number of calibration questions.
        figures: measured on them: Pass@1 of both models and the cascade, share deferred, AUROC.
    """

    threshold: float
    max_loss: float
    confidence: float
    holds: bool
    questions: int
    figures: Mapping[str, float]

    def __post_init__(self) -> None:
        checked_threshold(self.threshold)
        if not (0 <= self.max_loss < 1 and 0 < self.confidence < 1):
            given = f"max_loss={self.max_loss}, confidence={self.confidence}"
            raise ValueError(f"{given}; use a loss in [0, 1), a confidence in (0, 1)")

    def keeps(self, confidences) -> np.ndarray:
        """Whether each answer is kept, by its confidence (None or NaN if none was stated)."""
        return keeps(confidences, self.threshold)


def calibrate(
    records: pd.DataFrame | str | Path,
    *,
    slm: str | None = None,
    llm: str | None = None,
    max_loss: float = 0.02,
    confidence: float = 0.9,
    seed: int = 0,
) -> Policy:
    """The policy that defers least among those whose loss of accuracy is bounded.

    Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052): thresholds are tested downwards,
    until one is not shown to lose at most `max_loss`. Future questions must be drawn like these.

    Args:
        records: of both models on the same questions and samples, graded, or a file of them; the
            promise is void for questions that a model was trained on.
        slm: name of the small model; by default the first system, but saving sorts by system.
        llm: name of the large model; by default the second system.
        max_loss: Pass@1 that may be lost to the LLM, in [0, 1).
        confidence: probability of the promise, at least, in (0, 1).

    Returns:
        The policy. If nothing can be promised, it defers all, and a warning says why.

    Raises:
        ValueError: the records are not of two models, pair by pair and graded; or none is named,
            and the first is right more often than the second.
    """
    rows = _both(records, slm, llm)
    losses = np.random.default_rng(seed).permutation(_losses(rows))
    policy = Policy(DEFER_ALL, max_loss, confidence, False, len(losses), _figures(rows, DEFER_ALL))
    threshold = _least_safe(losses, max_loss, confidence)
    least_kept = rows["confidence"].where(rows["confidence"] >= threshold).min()
    if np.isnan(least_kept):
        warnings.warn(_why_not(rows, losses, policy), stacklevel=2)
        return policy
    # Of the thresholds that keep the same answers the highest: often a number that was stated.
    threshold = float(_GRID[least_kept >= _GRID].max())
    return replace(policy, threshold=threshold, holds=True, figures=_figures(rows, threshold))


def _both(records, slm: str | None, llm: str | None) -> pd.DataFrame:
    """A row per answer: question (a number), confidence, slm_correct, llm_correct."""
    records = records if isinstance(records, pd.DataFrame) else read_records(records)
    systems = list(dict.fromkeys(records["system"]))
    by_order = slm is None and llm is None and len(systems) == 2
    if by_order:
        slm, llm = systems
    if slm == llm or not {slm, llm} <= set(systems):
        raise ValueError(f"records of the systems {systems}; name two of them by slm= and llm=")
    small, large = (records[records["system"] == name] for name in (slm, llm))
    rows = paired(small, large, ["correct"])
    if rows[_COLUMNS[1:]].isna().any(axis=None):
        raise ValueError("a record without `correct`: calibrate needs questions with gold answers")
    if by_order and rows["slm_correct"].mean() > rows["llm_correct"].mean():
        first = f"the first system, {slm!r}, is right more often than the second, {llm!r}"
        raise ValueError(f"{first}; say by slm= and llm= which is the small model")
    return rows[_COLUMNS].astype(float).assign(question=rows.groupby(KEY[:2]).ngroup())


def _losses(rows: pd.DataFrame) -> np.ndarray:
    """What keeping loses to the LLM: a row per question, a column per threshold of the grid."""
    confidence, slm, llm = rows[_COLUMNS].to_numpy().T
    level = np.searchsorted(_GRID, np.nan_to_num(confidence, nan=-1), side="right")
    question, levels = rows["question"].to_numpy(), len(_GRID) + 1
    loss = (llm - slm) / np.bincount(question)[question]
    cells = np.bincount(question * levels + level, loss, (question.max() + 1) * levels)
    return cells.reshape(-1, levels)[:, :0:-1].cumsum(axis=1)[:, ::-1]


def _least_safe(losses: np.ndarray, max_loss: float, confidence: float) -> float:
    """The lowest threshold above the highest one that is not shown to be safe."""
    unsafe = np.flatnonzero(_p_values(losses, max_loss, confidence) > 1 - confidence)
    return float(np.append(_GRID, DEFER_ALL)[unsafe.max(initial=-1) + 1])


def _p_values(losses: np.ndarray, max_loss: float, confidence: float) -> np.ndarray:
    """P-values, by column, of a mean loss over `max_loss`; losses in [-1, 1], in random order.

    If it is true, the capital of bets against it, one per row, is not expected to grow. The bets
    are the predictable plug-in ones of Waudby-Smith and Ramdas (2024, arXiv 2010.09686).
    """
    count = np.arange(2, len(losses) + 2)[:, None]
    mean = losses.cumsum(axis=0) / count
    variance = (1 + ((losses - mean) ** 2).cumsum(axis=0)) / count
    before = np.vstack([np.ones_like(variance[:1]), variance[:-1]])
    bets = np.sqrt(2 * math.log(1 / (1 - confidence)) / (len(losses) * before))
    bets = bets.clip(max=_LARGEST_BET / (1 - max_loss))
    capital = np.log1p(-bets * (losses - max_loss)).cumsum(axis=0).max(axis=0)
    return np.exp(-capital.clip(min=0))


def _figures(rows: pd.DataFrame, threshold: float) -> dict[str, float]:
    """Means over questions of their samples' means, and the AUROC, if it is defined."""
    kept = keeps(rows["confidence"], threshold)
    correct = rows["slm_correct"].where(kept, rows["llm_correct"])
    columns = rows[_COLUMNS[1:]].assign(correct=correct, llm_share=~kept)
    figures = columns.groupby(rows["question"]).mean().mean().to_dict()
    figures["auroc"] = metrics.auroc(rows["confidence"], rows["slm_correct"])
    return {name: round(value, 6) for name, value in figures.items() if not np.isnan(value)}


def _why_not(rows: pd.DataFrame, losses: np.ndarray, policy: Policy) -> str:
    """Why nothing can be promised, in one line."""
    surest = rows["confidence"].max()
    if np.isnan(surest):
        return "all is deferred: no confidence was stated"
    loss = losses[:, surest >= _GRID][:, -1]
    if loss.mean() >= policy.max_loss:
        lost = f"keeping only answers stated at {surest:g} still loses {loss.mean():.3f} of Pass@1"
        slm, llm = policy.figures["slm_correct"], policy.figures["llm_correct"]
        above = f"above max_loss {policy.max_loss:g} (SLM {slm:.3f}, LLM {llm:.3f})"
        advice = "raise max_loss, or train the SLM to be right when it is sure"
        return f"all is deferred: {lost}, {above}; {advice}"
    bets = np.linspace(0, _LARGEST_BET / (1 - policy.max_loss), 50)[:, None]
    growth = np.log1p(-bets * (loss - policy.max_loss)).mean(axis=1).max()  # per question
    more = max(10, round(1.5 * math.log(1 / (1 - policy.confidence)) / growth - len(loss), -1))
    too_few = f"{len(loss)} questions are too few to promise a loss of at most {policy.max_loss:g}"
    return f"all is deferred: {too_few}; ask about {more:.0f} more"
