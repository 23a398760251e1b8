"""Claims of the paper, of later work and of ours, each a relation that records decide.

A row of `claims.csv` says that a value lies above or below a bound.  Its verdict follows from the
value's 95% interval; nobody writes one down.  It counts under the headline decoding; those under
the others stand beside it.  So do those of two placebos in place of the system that the claim is
for: the untrained SLM, and a coin, which deals that system's confidences out anew among its
answers.  What a placebo passes says nothing of the system.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis import guarantee, systems
from corea.analysis.sources import NUMERALS, with_numeral
from corea.analysis.systems import COREA, System
from corea.analysis.tables import NEAR
from corea.cascade import Mix
from corea.costs import PriceList
from corea.metrics import Interval
from corea.paper.variants import RUNS
from corea.questions.base import CALIBRATION, GROUPS

CLAIMS = Path(__file__).with_name("claims.csv")
SCOPES: dict[str, tuple[str, ...]] = {group: (group,) for group in GROUPS}
SCOPES |= {"ood": ("ood-math", "ood-nonmath"), "all": tuple(GROUPS)}
_LLM = System("LLM", "LLM", "Verb")
BASE, COIN = "base", "coin"  # the placebos
COLUMNS = [
    *("claim", "source", "firm", "scope", "paper_value", "value", "low", "high", "bound"),
    *("decoding", "verdict", "placebo_base", "placebo_coin", "informative"),
]
# Kinds of value: how many systems each compares, and how, from their draws of one measure.
_KINDS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "value": (1, lambda draws: draws),
    "difference": (2, lambda first, second: first - second),
    "reduction": (2, lambda first, second: 1 - first / second),
}
_METRICS = ("pass1", "ece", "auroc")
_OF_CASCADE = ("pass1_drop", "cost_reduction", "over_random")  # by a way: "cascade over_random"
_WAYS = ("cascade", "certified")  # at the paper's threshold, or one that Learn-then-Test certifies
_COST = "cost at COREA's Pass@1"
_BLIND = ("pass1", "ends")  # measures that do not ask which answer has which confidence
_CERTAINTIES = ("firm", "likely", "weak", "counter", "ours")  # in the order of the table
_TOLD = ("claim", "source", "scope", "paper_value", "certainty", "fails_if")
_QUESTION = ["dataset", "question_id", "seed"]  # as one training answered it
_NEVER = 100.0  # times the LLM's cost, for a Pass@1 that is never reached
_DELTA = 0.1  # chance that a certified cascade loses more than 2 points
# Columns that no claim reads, long ones among them.
_UNREAD = ("text", "gold", "problems", "content_id", "answer_type", "finish", "settings", "commit")
_PARTS = ("", "group", "set")  # behind " by ": of each of these of a scope a claim is to hold
_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of `claims.csv`: a value of `kind` is said to lie above, or below, a bound.

    "&" joins measures, and bounds, that are to hold together; "|" joins systems of each of which
    the claim is to hold, as it is of each part of a scope "by group" or "by set". The value is that
    of the worst of them; of several measures, how far inside its bound the worst lies.
    """

    claim: str
    source: str  # who says so, and how we know
    certainty: str  # of that; "counter": later work against the paper; "ours": our own
    scope: str
    kind: str  # of `_KINDS`
    measure: str  # see `Evidence.draws`
    systems: str  # by ";", each read in `scope`, or in its own: "L1-SLM-Verb @ ood-math"
    bound: str  # "above 0.3"
    paper_value: str  # what the source reports
    fails_if: str  # in words, what would contradict it

    def __post_init__(self):
        whole, _, part = self.scope.partition(" by ")
        ways = (f"{way} {name}" for way in _WAYS for name in _OF_CASCADE)
        measures = (*_METRICS, *_OF_ANSWERS, *ways, _COST)
        for name, values, allowed in (
            ("kind=", [self.kind], _KINDS),
            ("measure=", self.measure.split(" & "), measures),
            ("scope=", [whole], SCOPES),
            ("scope= is by ", [part], _PARTS),
            ("certainty=", [self.certainty], _CERTAINTIES),
            ("systems are in ", [scope for _, scope in self.terms if scope != self.scope], SCOPES),
        ):
            if wrong := [value for value in values if value not in allowed]:
                raise ValueError(f"{name}{wrong[0]!r}; use one of {', '.join(allowed)}")
        if len(self.terms) != (count := _KINDS[self.kind][0]):
            raise ValueError(f"{len(self.terms)} systems; a {self.kind} is of {count}")
        if len(self.relations) != len(self.measure.split(" & ")):
            raise ValueError(
                f"measure={self.measure!r}, bound={self.bound!r}; use a bound for each"
            )

    @property
    def relations(self) -> list[tuple[str, int, float]]:
        """Each measure, 1 for above or -1 for below, and its bound."""
        found = []
        for measure, bound in zip(self.measure.split(" & "), self.bound.split(" & "), strict=False):
            if not (relation := re.fullmatch(r"(above|below) (-?\d+(?:\.\d+)?)", bound)):
                raise ValueError(f"bound={bound!r}; use 'above' or 'below' and a number")
            found.append((measure, 1 if relation[1] == "above" else -1, float(relation[2])))
        return found

    @property
    def limit(self) -> tuple[int, float]:
        """The side and the bound of the value: above 0 if it is the worst of several measures."""
        return self.relations[0][1:] if len(self.relations) == 1 else (1, 0.0)

    @property
    def terms(self) -> list[tuple[list[str], str]]:
        """The systems compared: for each place its name, or names by turns, and its scope."""
        terms = (term.partition(" @ ") for term in self.systems.split("; "))
        return [(name.split(" | "), scope or self.scope) for name, _, scope in terms]

    @property
    def cases(self) -> list[list[tuple[System, str]]]:
        """What is compared, systems with their scopes: the claim is to hold of each such list."""
        turns = range(max(len(names) for names, _ in self.terms))
        return [[(system_of(names[n % len(names)]), at) for names, at in self.terms] for n in turns]


def system_of(name: str) -> System:
    """A system by name: of the tables; "L1-SLM-AvgProb", a run by a source; a run as it states."""
    known = {each.name: each for each in (*systems.PAPER, *systems.OURS, *systems.BASELINES)}
    slm, _, source = name.rpartition("-")
    by_source = slm in RUNS and source in systems.SOURCES
    return known.get(name) or System(name, *((slm, source) if by_source else (name, "Verb")))


def read_claims(path: str | Path = CLAIMS) -> list[Claim]:
    """The claims of a file; raises ValueError, in one line, for a wrong row."""
    claims = []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for line, row in enumerate(table.to_dict("records"), start=2):
        try:
            claims.append(Claim(**row))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
    return claims


def verdict(low: float, high: float, bound: float, above: bool) -> str:
    """The verdict of the one rule: "reproduced", "contradicted" or "undecided"."""
    return metrics.verdict(low, high, bound, above, words=("reproduced", "contradicted"))


class Evidence:
    """Records of one decoding behind the claims, and their bootstrap draws.

    All draws in a scope resample the same questions alike, so that they can be subtracted.

    Args:
        records: of the main systems, with the calibration split, and of other runs.
    """

    def __init__(self, records: pd.DataFrame, prices: PriceList, **options: int):
        self.records, self.prices = records.drop(columns=[*_UNREAD], errors="ignore"), prices
        self._options: dict[str, Any] = options
        llm = records[records["system"] == "LLM"]
        self.threshold = cascade.llm_pass1(llm[llm["group"] == CALIBRATION])
        self._runs = set(records["system"])
        self._rows = functools.cache(self._rows_of)
        self._by_set = functools.cache(self._draws_by_set)
        self._certified = functools.cache(self._certified_way)
        self._cost = functools.cache(self._cost_at_coreas)

    def has(self, claim: Claim) -> bool:
        """Whether there are records of every run behind a claim."""
        return all(system.slm in self._runs for case in claim.cases for system, _ in case)

    def parts(self, scope: str) -> list[str]:
        """The scopes, or datasets, of each of which a claim is to hold."""
        whole, _, part = scope.partition(" by ")
        return {"": [whole], "group": [*SCOPES[whole]], "set": self._sets(whole)}[part]

    def rows(self, system: System, scope: str) -> pd.DataFrame:
        """Rows of a system, or of a coin in its place, in a scope or of one dataset."""
        rows = self._rows(system)
        inside = rows["group"].isin(SCOPES[scope]) if scope in SCOPES else rows["dataset"] == scope
        return rows[inside]

    def stand_in(self, placebo: str, system: System) -> System:
        """A placebo in a system's place; the untrained SLM is the run's own base if it has one."""
        own = f"{system.slm} base"
        untrained = own if own in self._runs else "SLM"
        return replace(system, kind=placebo, slm=system.slm if placebo == COIN else untrained)

    def draws(self, measure: str, system: System, scope: str) -> np.ndarray:
        """Draws of a measure, (1 + resamples,), its mean over the sets of the scope."""
        if measure == _COST:
            return self._cost(system, scope)
        if measure in _OF_ANSWERS:
            rows = self.rows(system, scope)
            weights = metrics.row_weights(rows, **self._options)
            return _OF_ANSWERS[measure](rows, weights, self.threshold)
        way, _, name = measure.rpartition(" ")
        by_set = self._by_set(system, way)
        return np.mean([by_set[each][name] for each in self._sets(scope)], axis=0)

    def _sets(self, scope: str) -> list[str]:
        inside = self.records["group"].isin(SCOPES.get(scope, ()))
        return [*self.records.loc[inside, "dataset"].unique()] or [scope]

    def _rows_of(self, system: System) -> pd.DataFrame:
        if system.kind == COIN:
            return tossed(self._rows(system_of(system.name)))
        return systems.rows_of(system, self.records)

    def _draws_by_set(self, system: System, way: str) -> dict[str, metrics.Draws]:
        if not way:
            return metrics.set_draws(self.rows(system, "all"), **self._options)
        policy = self.threshold if way == "cascade" else self._certified(system)
        return cascade.set_draws(self._replayed(system, "all", policy), **self._options)

    def _replayed(self, system: System, scope: str, policy: Mix | float) -> pd.DataFrame:
        slm = self.rows(system, scope).sort_values([*cascade.KEY, "seed"])
        router = {"before_generation": system.source in systems.ROUTERS}
        return cascade.replay(slm, self.rows(_LLM, scope), policy, self.prices, **router)

    def _certified_way(self, system: System) -> Mix:
        """The way that Learn-then-Test certifies; the source must not be fitted on calibration."""
        rows = self._replayed(system, CALIBRATION, cascade.DEFER_ALL)
        question = rows.groupby(cascade.KEY[:2]).ngroup().to_numpy()
        loss = (rows["llm_correct"].astype(float) - rows["slm_correct"]).to_numpy()
        answers = question, rows["confidence"].to_numpy(float), loss
        way = guarantee.guaranteed(*answers, max_loss=NEAR, delta=_DELTA)
        return way or Mix(cascade.LLM_ALONE, cascade.LLM_ALONE, 0.0)

    def _cost_at_coreas(self, system: System, scope: str) -> np.ndarray:
        replayed = [self._replayed(s, scope, self.threshold) for s in (system_of(COREA), system)]
        weights, own = (metrics.row_weights(rows, **self._options) for rows in replayed)
        target, spent = (weights @ replayed[0][n].to_numpy(float) for n in ("correct", "llm_cost"))
        router = {"before_generation": system.source in systems.ROUTERS}
        (cost,) = cascade.cost_at_pass1(replayed[1], own, target, **router)
        return np.nan_to_num(cost / spent, nan=_NEVER)


def by_decoding(
    records: pd.DataFrame, prices: PriceList, **options: int
) -> Iterator[tuple[str, Evidence]]:
    """Evidence by each decoding of the records, then by other numerals of the first, the headline.

    Names: "t0.7", "greedy", "numeral_expected". `options` are those of the bootstrap.
    """
    headline = records["decoding"].iloc[0]
    for decoding, rows in records.groupby("decoding", sort=False):
        yield str(decoding), Evidence(rows, prices, **options)
    for numeral in NUMERALS[1:]:
        rows = with_numeral(records[records["decoding"] == headline], numeral)
        yield f"numeral_{numeral}", Evidence(rows, prices, **options)


def tossed(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The rows, each training's confidences dealt out anew at random within each dataset."""
    rng = np.random.default_rng(seed)
    by_set = rows.groupby(["dataset", "seed"])["confidence"]
    return rows.assign(confidence=by_set.transform(lambda c: rng.permutation(c.to_numpy())))


def _at_the_ends(rows: pd.DataFrame, weights: np.ndarray, _: float) -> np.ndarray:
    """Draws of the share of answers whose confidence is 0 or 1."""
    return weights @ rows["confidence"].isin((0, 1)).to_numpy(dtype=float)


def _kept(rows: pd.DataFrame, weights: np.ndarray, threshold: float) -> np.ndarray:
    """Draws of how far the accuracy of the answers that a threshold keeps lies above it."""
    kept = weights * cascade.keeps(rows["confidence"], threshold)
    with np.errstate(invalid="ignore"):
        return kept @ rows["correct"].to_numpy(dtype=float) / kept.sum(axis=1) - threshold


def _ranking_within(rows: pd.DataFrame, weights: np.ndarray, _: float) -> np.ndarray:
    """Draws of the mean AUROC over questions that have right and wrong answers."""
    rows = rows.assign(rank=rows["confidence"].fillna(-1))  # not stated ranks last
    right = rows["correct"].to_numpy(dtype=bool)
    pairs = rows[right].merge(rows[~right], on=_QUESTION)
    won = (pairs["rank_x"] > pairs["rank_y"]) + (pairs["rank_x"] == pairs["rank_y"]) / 2
    scores = won.groupby([pairs[name] for name in _QUESTION]).mean()
    is_first = ~rows.duplicated(_QUESTION).to_numpy()
    questions = pd.MultiIndex.from_frame(rows.loc[is_first, _QUESTION])
    score = scores.reindex(questions).to_numpy()
    mixed = weights[:, is_first] * ~np.isnan(score)
    with np.errstate(invalid="ignore"):
        return mixed @ np.nan_to_num(score) / mixed.sum(axis=1)


_OF_ANSWERS = {"ends": _at_the_ends, "within": _ranking_within, "kept": _kept}


def table_claims(
    evidence: Iterable[tuple[str, Evidence]], claims: Sequence[Claim] | None = None
) -> pd.DataFrame:
    """Every claim, of `claims.csv` unless given, with its value, 95% interval and verdicts.

    Args:
        evidence: as from `by_decoding`, the headline's first: it gives value, verdict and placebos,
            each other a column "verdict_greedy". A claim without its runs is undecided, with no
            value. A placebo that has nothing to say of a claim is blank, as are other decodings
            without its runs.
    """
    claims = read_claims() if claims is None else claims
    claims = sorted(claims, key=lambda claim: _CERTAINTIES.index(claim.certainty))
    table = pd.DataFrame()
    for name, each in evidence:
        if table.empty:
            table = pd.DataFrame([_row(claim, each) for claim in claims]).assign(decoding=name)
        else:
            table[f"verdict_{name}"] = [_judged(claim, each)[1] for claim in claims]
    return table[[*COLUMNS, *(name for name in table if name not in COLUMNS)]]


def _row(claim: Claim, evidence: Evidence) -> dict[str, Any]:
    """A row of the table, of the headline's evidence."""
    row = {name: getattr(claim, name) for name in _TOLD} | {"firm": claim.certainty == "firm"}
    (side, bound), (interval, found) = claim.limit, _judged(claim, evidence)
    row |= {"bound": f"{'above' if side > 0 else 'below'} {bound:g}", **asdict(interval)}
    placebos = {f"placebo_{name}": _placebo(claim, evidence, name) for name in (BASE, COIN)}
    passed = "reproduced" in placebos.values() and found != "contradicted"
    row |= placebos | {"verdict": found or "undecided"}
    row["informative"] = "no" if passed else "yes" if any(placebos.values()) else ""
    if found:
        row |= metrics.sizes(evidence.rows(claim.cases[0][0][0], claim.scope.split(" by ")[0]))
    return row


def _placebo(claim: Claim, evidence: Evidence, name: str) -> str:
    """The verdict with a placebo; "" if it has nothing to say: of no training, of no ranking."""
    first = claim.cases[0][0][0]
    is_trained = first.slm in RUNS and RUNS[first.slm].reward is not None
    states = first.source == "Verb" and first.recalibrated is None
    ranks = any(measure not in _BLIND for measure, *_ in claim.relations)
    has_say = (is_trained and states) if name == BASE else ranks
    return _judged(claim, evidence, name)[1] if has_say else ""


def _judged(claim: Claim, evidence: Evidence, placebo: str = "") -> tuple[Interval, str]:
    """The interval of a claim, and its verdict or "" if it has no value.

    A placebo that is named stands in for the claim's first system.

    Of several parts, of each of which the claim is to hold, the worst counts. That all hold needs
    no correction for their number; that the worst fails does, for the worst of many fails by
    chance: that end's level is divided by it (Bonferroni).
    """
    if not evidence.has(claim):
        return _UNKNOWN, ""
    inside = []  # how far inside its bound each part lies
    for part in evidence.parts(claim.scope):
        for case in claim.cases:
            terms = [(system, part if at == claim.scope else at) for system, at in case]
            if placebo:
                terms[0] = (evidence.stand_in(placebo, terms[0][0]), terms[0][1])
            for measure, side, bound in claim.relations:
                draws = [evidence.draws(measure, *term) for term in terms]
                inside.append(side * (_KINDS[claim.kind][1](*draws) - bound))
    values, rest = np.array(inside)[:, 0], np.array(inside)[:, 1:]
    if np.isnan(values).any():
        return _UNKNOWN, ""
    lows, highs = np.nanpercentile(rest, [2.5, 100 - 2.5 / len(rest)], axis=1)
    side, bound = claim.limit
    worst = np.array([values, np.minimum(lows, values), np.maximum(highs, values)]).min(axis=1)
    value, low, high = bound + side * worst
    low, high = min(low, high), max(low, high)
    return Interval(value, low, high), verdict(low, high, bound, side > 0)
