"""Claims of the paper, and of later work against it, each a relation that records decide.

A row of `claims.csv` says that a value lies above or below a bound.  Its verdict follows from the
value's 95% interval; nobody writes one down.  The interval is over questions.  If trainings are
compared and several seeds were run, the spread from seed to seed widens it.  Sources are the paper
(EACL 2026, pp. 4480-4501) and later work, by arXiv number or name.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis.systems import COREA, Comparison
from corea.metrics import Interval
from corea.paper.variants import TRAINED
from corea.questions.base import GROUPS

CLAIMS = Path(__file__).with_name("claims.csv")
_RESULT = ["value", "low", "high", "n", "verdict"]
COLUMNS = ["claim", "source", "scope", "paper_value", *_RESULT, "certainty"]
SCOPES: dict[str, tuple[str, ...]] = {group: (group,) for group in GROUPS}
SCOPES |= {"ood": ("ood-math", "ood-nonmath"), "all": tuple(GROUPS)}
# Kinds of value: how many systems each compares, and how, from their draws of one measure.
_KINDS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "value": (1, lambda draws: draws),
    "difference": (2, lambda first, second: first - second),
    "reduction": (2, lambda first, second: 1 - first / second),
    "difference of differences": (4, lambda a, b, c, d: (a - b) - (c - d)),
}
_MISS = "largest miss"  # a kind of its own, of one system: its interval is not that of draws
_MISSES = ("kept", "deferred")
_METRICS = ("pass1", "ece", "brier", "auroc", "aurc")
_OF_CASCADE = ("cascade pass1", "cascade pass1_drop", "cascade cost_reduction")
_COST = "cost at COREA's Pass@1"
_CERTAINTIES = ("firm", "likely", "weak", "counter", "ours")
_QUESTION = ["dataset", "question_id"]
_NEVER = 100.0  # times the LLM's cost, for a Pass@1 that is never reached
_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of `claims.csv`: a value of `kind` is said to lie above, or below, a bound."""

    claim: str
    source: str
    scope: str
    kind: str  # of `_KINDS`, or "largest miss"
    measure: str  # see `Evidence.draws`; "kept" or "deferred" for a largest miss
    systems: tuple[str, ...]  # each read in `scope`, or in its own: "L1-SLM-Verb @ ood-math"
    above: bool = True
    bound: float = 0.0
    trainings: int = 0  # how many, which chance could have made otherwise, are compared
    paper_value: str = ""  # what the source reports
    certainty: str = "likely"  # of that; "counter": later work against the paper; "ours": our trial

    def __post_init__(self):
        is_miss, scopes = self.kind == _MISS, [scope for _, scope in self.terms]
        measures = (*_METRICS, *_OF_ANSWERS, *_OF_CASCADE, _COST)
        for name, values, allowed in (
            ("kind=", [self.kind], (*_KINDS, _MISS)),
            ("measure=", [self.measure], _MISSES if is_miss else measures),
            ("scope=", [self.scope], SCOPES),
            ("certainty=", [self.certainty], _CERTAINTIES),
            ("systems are in ", scopes, SCOPES),
        ):
            if wrong := [value for value in values if value not in allowed]:
                raise ValueError(f"{name}{wrong[0]!r}; use one of {', '.join(allowed)}")
        if len(self.systems) != (count := 1 if is_miss else _KINDS[self.kind][0]):
            raise ValueError(f"{len(self.systems)} systems; a {self.kind} is of {count}")

    @property
    def terms(self) -> list[tuple[str, str]]:
        """The name and the scope of each system."""
        names = (system.partition(" @ ") for system in self.systems)
        return [(name, scope or self.scope) for name, _, scope in names]


def read_claims(path: str | Path = CLAIMS) -> list[Claim]:
    """The claims of a file; raises ValueError, in one line, for a wrong row."""
    claims = []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for line, row in enumerate(table.to_dict("records"), start=2):
        try:
            claims.append(_claim(**row))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
    return claims


def _claim(bound: str, systems: str, trainings: str, **row: Any) -> Claim:
    if not (relation := re.fullmatch(r"(above|below) (\d+(?:\.\d+)?)", bound)):
        raise ValueError(f"bound={bound!r}; use 'above' or 'below' and a number")
    if not trainings.isdigit():
        raise ValueError(f"trainings={trainings!r}; use a whole number")
    row |= {"above": relation[1] == "above", "bound": float(relation[2])}
    return Claim(**row, systems=tuple(systems.split("; ")), trainings=int(trainings))


verdict = functools.partial(metrics.verdict, words=("reproduced", "contradicted"))


class Evidence:
    """Records behind the claims, and their bootstrap draws: the value, then one per resample.

    All draws in a scope resample the same questions alike, so that they can be subtracted.

    Args:
        compared: the systems of one run.
        ablations: records by run, of ablations, seeds ("L1-SLM-seed-1") and bases ("tiny base").
    """

    def __init__(self, compared: Comparison, ablations: Mapping[str, pd.DataFrame], **options: int):
        self.compared, self.threshold = compared, compared.threshold
        self._options: dict[str, Any] = options
        self.records = {**ablations, **compared.rows, "LLM": compared.llm}
        self._means = functools.cache(self._means_over_sets)

    def rows(self, system: str, scope: str) -> pd.DataFrame:
        """Rows of a system or an ablation run in one scope."""
        records = self.records[system]
        return records[records["group"].isin(SCOPES[scope])]

    def draws(self, measure: str, system: str, scope: str) -> np.ndarray:
        """Draws of a measure, (1 + resamples,), its mean over the sets of the scope."""
        if measure == _COST:
            return self._cost_at_coreas(system, scope)
        if measure in _OF_ANSWERS:
            rows = self.rows(system, scope)
            return _OF_ANSWERS[measure](rows, metrics.row_weights(rows, **self._options))
        means = self._means(system, scope, measure in _OF_CASCADE)
        return means[measure.removeprefix("cascade ")]

    def misses(self, scope: str, kept: bool) -> Interval:
        """The largest miss of COREA's threshold over the sets of a scope.

        A miss is how far, on one set, the accuracy of the answers kept lies under the threshold
        (kept), or that of the SLM's answers deferred lies over it.  The largest of several noisy
        numbers is too large, so each set's interval is widened for their number (Bonferroni) first.
        """
        replayed = self._replayed(COREA, scope)
        intervals, level = [], 2.5 / replayed["dataset"].nunique()
        for _, rows in replayed.groupby("dataset", sort=False):
            weights = metrics.row_weights(rows, **self._options)
            counted = (rows["source"] == ("slm" if kept else "llm")).to_numpy(dtype=float)
            total = weights @ counted
            if (total > 0).all():
                accuracy = weights @ (counted * rows["slm_correct"].to_numpy(dtype=float)) / total
                draws = (self.threshold - accuracy) * (1 if kept else -1)
                intervals.append((draws[0], *np.percentile(draws[1:], [level, 100 - level])))
        return Interval(*np.max(intervals, axis=0)) if intervals else _UNKNOWN

    def _replayed(self, system: str, scope: str) -> pd.DataFrame:
        slm, llm = self.rows(system, scope).sort_values(cascade.KEY), self.rows("LLM", scope)
        router = {"before_generation": system in self.compared.routers}
        return cascade.replay(slm, llm, self.threshold, self.compared.prices, **router)

    def _means_over_sets(self, system: str, scope: str, cascaded: bool) -> dict[str, np.ndarray]:
        if cascaded:
            return cascade.set_draws(self._replayed(system, scope), **self._options)["mean"]
        return metrics.set_draws(self.rows(system, scope), **self._options)["mean"]

    def _cost_at_coreas(self, system: str, scope: str) -> np.ndarray:
        ours, theirs = self._replayed(COREA, scope), self._replayed(system, scope)
        weights = metrics.row_weights(ours, **self._options)
        target = weights @ ours["correct"].to_numpy(dtype=float)
        is_router = system in self.compared.routers
        cost = cascade.cost_at_pass1(theirs, weights, target, before_generation=is_router)[0]
        return np.nan_to_num(cost / (weights @ ours["llm_cost"].to_numpy()), nan=_NEVER)


def _overconfidence(rows: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Draws of the mean confidence less accuracy of answers that state one."""
    stated = rows["confidence"].notna().to_numpy(dtype=float)
    gap = (rows["confidence"].fillna(0) - rows["correct"]).to_numpy(dtype=float) * stated
    return weights @ gap / (weights @ stated)


def _at_the_ends(rows: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Draws of the share of answers whose confidence is 0 or 1."""
    return weights @ rows["confidence"].isin((0, 1)).to_numpy(dtype=float)


def _ranking_within(rows: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Draws of the mean AUROC over questions that have right and wrong answers."""
    ranks = rows.assign(rank=(rows["confidence"].fillna(-1) + 1) / 2)  # not stated ranks last
    by_question = ranks.groupby(_QUESTION, sort=False)[["rank", "correct"]]
    scores = np.array([metrics.auroc(each["rank"], each["correct"]) for _, each in by_question])
    is_mixed = ~np.isnan(scores)
    question_weights = weights[:, ~rows.duplicated(_QUESTION)][:, is_mixed]
    with np.errstate(invalid="ignore"):
        return question_weights @ scores[is_mixed] / question_weights.sum(axis=1)


_OF_ANSWERS = {"over": _overconfidence, "ends": _at_the_ends, "within": _ranking_within}


def table_claims(evidence: Evidence, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """Every claim, of `claims.csv` unless given, with its value, 95% interval and verdict.

    n is how many questions are behind the value, seed_sd what the interval was widened by. A claim
    without its runs is undecided, with no value.
    """
    table = []
    for claim in read_claims() if claims is None else claims:
        interval, seed_sd, questions = _UNKNOWN, float("nan"), 0
        if all(name in evidence.records for name, _ in claim.terms):
            interval, seed_sd = _interval(claim, evidence)
            rows = evidence.rows(claim.terms[0][0], claim.scope)
            questions = len(rows[_QUESTION].drop_duplicates())
        held = verdict(interval.low, interval.high, claim.bound, claim.above)
        bound = f"{'above' if claim.above else 'below'} {claim.bound:g}"
        known = (claim.claim, claim.source, claim.scope, claim.paper_value)
        result = (*astuple(interval), questions, held)
        table.append((*known, *result, claim.certainty, bound, seed_sd))
    return pd.DataFrame(table, columns=[*COLUMNS, "bound", "seed_sd"])


def _interval(claim: Claim, evidence: Evidence) -> tuple[Interval, float]:
    """Value and interval, and the spread from seed to seed by which it was widened."""
    if claim.kind == _MISS:
        return evidence.misses(claim.scope, kept=claim.measure == "kept"), float("nan")
    terms = [evidence.draws(claim.measure, name, scope) for name, scope in claim.terms]
    interval = metrics.interval(_KINDS[claim.kind][1](*terms))
    seed_sd = _seed_sd(claim, evidence) if claim.trainings else float("nan")
    value, chance = interval.value, 1.96 * np.nan_to_num(seed_sd) * np.sqrt(claim.trainings)
    low = value - np.hypot(value - interval.low, chance)
    return Interval(value, low, value + np.hypot(interval.high - value, chance)), seed_sd


def _seed_sd(claim: Claim, evidence: Evidence) -> float:
    """Seed-to-seed standard deviation of a claim's measure; NaN if there is only one seed.

    Of a metric it is pooled over the trained systems, of a cascade's measure it is COREA's.
    """
    variances = []
    for system in ("L1-SLM",) if claim.measure in _OF_CASCADE else TRAINED:
        seeds = [run for run in sorted(evidence.records) if run.startswith(f"{system}-seed-")]
        runs = [f"{system}-Verb", *seeds]
        values = np.array([evidence.draws(claim.measure, run, claim.scope)[0] for run in runs])
        if claim.kind == "reduction":
            values = 1 - values / evidence.draws(claim.measure, claim.systems[1], claim.scope)[0]
        if seeds:
            variances.append(np.var(values, ddof=1))
    return float(np.sqrt(np.mean(variances))) if variances else float("nan")
