"""The cascades by name: which SLM answers, where its confidence comes from, and who is paid.

A system turns the records of its SLM into the rows that `corea.cascade` takes, with the system's own confidence in the column
`confidence`.  `COREA_PLUS` has no fixed recipe: it is the candidate that is cheapest on the calibration split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from corea import cascade
from corea.analysis import sources
from corea.costs import PriceList
from corea.questions.base import CALIBRATION

ROUTERS = {
    "Router"
}  # sources that read the question alone, so that the SLM is paid for what it keeps only
SCORES = {"Gain", "Oracle"}  # sources that rank and are no probabilities
PAPER_RULE, BUDGET_RULE, EQUAL_RULE = "LLM Pass@1", "equal budget", "equal Pass@1"


@dataclass(frozen=True, slots=True)
class System:
    """A cascade: `slm` answers, `source` (of `SOURCES`) says how sure it is, `recalibrated` maps that (or None).

    A router decides before generation, so that what it defers pays the LLM alone.
    """

    name: str
    slm: str
    source: str
    recalibrated: str | None = None

    @property
    def before_generation(self) -> bool:
        """Whether it decides before the SLM is paid."""
        return self.source in ROUTERS

    @property
    def is_score(self) -> bool:
        """Whether its confidence is a score that ranks, and no probability: calibration and the paper's rule do not apply."""
        return self.source in SCORES


def _system(name: str, recalibrated: str | None = None) -> System:
    slm, source = name.rsplit("-", 1)
    return System(
        name if recalibrated is None else f"{name}-{recalibrated.title()}",
        slm,
        source,
        recalibrated,
    )


PAPER = (
    _system("SLM-Verb"),
    _system("RLVR-SLM-Verb"),
    _system("RLVR-SLM-AvgProb"),
    _system("RLVR-SLM-Probe"),
    System("Router+RLVR-SLM", "RLVR-SLM", "Router"),
    _system("Brier-SLM-Verb"),
    _system("L1-SLM-Verb"),
)
OURS = (
    _system("SLM-Digits"),
    _system("L1-SLM-Digits"),
    _system("L1-SLM-Probe"),
    _system("L1-SLM-AvgProb"),
    _system("RLVR-SLM-AnswerProb"),
    _system("RLVR-SLM-Digits"),
    _system("RLVR-SLM-Consistency"),
    _system("L1-SLM-Verb", "isotonic"),
    _system("L1-SLM-Verb", "platt"),
    _system("L1-SLM-Verb", "temperature"),
    _system("L1-SLM-Gain"),
    System("Random", "L1-SLM", "Random"),
    System("Oracle-L1-SLM", "L1-SLM", "Oracle"),
    System("Oracle", "RLVR-SLM", "Oracle"),
)
COREA, COREA_PLUS = "L1-SLM-Verb", "COREA+"
# What COREA+ may be: every trained SLM with every source that costs no more than its one answer.
CANDIDATES = tuple(
    _system(f"{slm}-{source}")
    for slm in ("RLVR-SLM", "Brier-SLM", "L1-SLM")
    for source in ("Verb", "Digits", "AvgProb", "Probe", "Gain")
)


def _replaced(name: str) -> Callable[..., pd.DataFrame]:
    def confidence(slm: pd.DataFrame, **_) -> pd.DataFrame:
        return slm.assign(confidence=slm[name])

    return confidence


SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "Verb": lambda slm, **_: slm,
    "AvgProb": lambda slm, **_: slm.assign(confidence=sources.average_probability(slm)),
    "AnswerProb": lambda slm, **_: slm.assign(
        confidence=sources.average_probability(slm, "answer")
    ),
    "Digits": lambda slm, **_: slm.assign(confidence=sources.digit_expectation(slm)["digits"]),
    "Probe": _replaced("probe"),
    "Router": lambda slm, **_: slm.assign(confidence=sources.router_confidences(slm, CALIBRATION)),
    "Gain": lambda slm, *, llm, **_: slm.assign(
        confidence=sources.deferral_gain(slm, llm, CALIBRATION)
    ),
    "Consistency": lambda slm, **_: sources.self_consistency(slm),
    "Random": lambda slm, **_: slm.assign(confidence=sources.random_confidence(slm)),
    "Oracle": lambda slm, *, llm, **_: slm.assign(confidence=sources.oracle_confidence(slm, llm)),
}


def rows_of(system: System, records: pd.DataFrame) -> pd.DataFrame:
    """The records of a system's SLM, its confidence in the column `confidence`; fitted on group `calibration` alone.

    records: of its SLM and, for the oracle, the LLM, with the calibration split.  Raises
    ValueError where the SLM has no records, and for a source that is not in `SOURCES`.
    """
    if system.source not in SOURCES:
        raise ValueError(
            f"{system.name}: unknown source of confidence {system.source!r}; use one of {', '.join(SOURCES)}"
        )
    slm = records[records["system"] == system.slm]
    if slm.empty:
        raise ValueError(f"{system.name} needs records of {system.slm}, and there are none")
    found = SOURCES[system.source](slm, llm=records[records["system"] == "LLM"])
    if system.recalibrated is not None:
        found = found.assign(
            confidence=sources.recalibrated(system.recalibrated, found, CALIBRATION)
        )
    return found.assign(system=system.name)


def all_rows(
    records: pd.DataFrame, systems: Sequence[System] = (*PAPER, *OURS)
) -> dict[str, pd.DataFrame]:
    """`rows_of` for each system, by name."""
    return {system.name: rows_of(system, records) for system in systems}


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds of every system by each rule, all from the calibration split.

    PAPER_RULE: the LLM's Pass@1; NaN for scores that are no probabilities.  BUDGET_RULE: highest Pass@1 at no more than COREA's
    cost under the paper's rule; NaN where every threshold costs more.
    EQUAL_RULE: least cost at no less than COREA's Pass@1 under the paper's rule; NaN where a system never reaches it.
    """

    budget: float
    pass1: float
    thresholds: Mapping[str, Mapping[str, float]]  # rule -> system -> threshold


def choose_thresholds(
    rows: Mapping[str, pd.DataFrame],
    llm: pd.DataFrame,
    prices: PriceList,
    routers: Sequence[str] = (),
    scores: Sequence[str] = (),
) -> Rules:
    """The thresholds of every system.

    rows: by system, as from `all_rows`, COREA among them; llm: the LLM's records, with the calibration split; routers,
    scores: names of the systems that decide before generation, and of those whose confidence is no probability.
    """
    known = llm[llm["group"] == CALIBRATION]
    fixed = cascade.llm_pass1(known)
    curves = {
        name: _calibration_curve(part, known, prices, name in routers)
        for name, part in rows.items()
    }
    ours = rows[COREA]
    at = cascade.replay(ours[ours["group"] == CALIBRATION], known, fixed, prices)
    budget, pass1 = float(at["cost"].mean()), float(at["correct"].mean())
    return Rules(
        budget,
        pass1,
        {
            PAPER_RULE: {name: float("nan") if name in scores else fixed for name in rows},
            BUDGET_RULE: {
                name: _quietly(cascade.best_under_budget, curve, budget)
                for name, curve in curves.items()
            },
            EQUAL_RULE: {
                name: _quietly(cascade.cheapest_at_pass1, curve, pass1)
                for name, curve in curves.items()
            },
        },
    )


def choose_plus(
    rows: Mapping[str, pd.DataFrame], llm: pd.DataFrame, prices: PriceList
) -> pd.DataFrame:
    """The candidates for COREA+, cheapest first: cost on the calibration split at COREA's Pass@1 there.

    rows: by candidate, COREA among them.  Columns: system, cost (a share of COREA's), and pass1, the target.  The first
    row's system is COREA+.  It looks at no question of a test set.
    """
    known = llm[llm["group"] == CALIBRATION]
    fixed = cascade.llm_pass1(known)
    parts = {
        name: cascade.replay(part[part["group"] == CALIBRATION], known, fixed, prices)
        for name, part in rows.items()
    }
    target, spent = (float(parts[COREA][column].mean()) for column in ("correct", "cost"))
    table = [
        (
            name,
            float(cascade.cost_at_pass1(part, [[1 / len(part)] * len(part)], target)[0][0]) / spent,
            target,
        )
        for name, part in parts.items()
    ]
    found = pd.DataFrame(table, columns=["system", "cost", "pass1"])
    return found.sort_values(["cost", "system"], ignore_index=True)


def with_plus(
    rows: Mapping[str, pd.DataFrame], records: pd.DataFrame, prices: PriceList
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The rows with `COREA_PLUS` among them, and the table by which it was chosen."""
    candidates = {
        s.name: rows[s.name] if s.name in rows else rows_of(s, records) for s in CANDIDATES
    }
    chosen = choose_plus(candidates, records[records["system"] == "LLM"], prices)
    plus = candidates[chosen["system"].iloc[0]].assign(system=COREA_PLUS)
    lines = {name: rows[name] for name in ("Random", "Oracle-L1-SLM", "Oracle") if name in rows}
    return {
        **{name: part for name, part in rows.items() if name not in lines},
        COREA_PLUS: plus,
        **lines,
    }, chosen


def _calibration_curve(
    rows: pd.DataFrame, llm: pd.DataFrame, prices: PriceList, router: bool
) -> pd.DataFrame:
    part = cascade.replay(rows[rows["group"] == CALIBRATION], llm, 0.5, prices)
    columns = [
        part[name] for name in ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
    ]
    return cascade.sweep(*columns, before_generation=router)


def _quietly(
    rule: Callable[[pd.DataFrame, float], float], curve: pd.DataFrame, bound: float
) -> float:
    """A threshold, or NaN where the rule finds none; that it keeps or defers all shows in the table's LLM share."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return rule(curve, bound)
        except ValueError:
            return float("nan")


@dataclass(frozen=True)
class Comparison:
    """All systems of one run, side by side.

    rows: by system, COREA+ among them; llm: the LLM's records; rules: thresholds of each by each rule; chosen: the table by
    which COREA+ was chosen; routers: the systems that decide before generation; scores: those whose confidence is none.
    """

    rows: Mapping[str, pd.DataFrame]
    llm: pd.DataFrame
    prices: PriceList
    rules: Rules
    chosen: pd.DataFrame
    routers: tuple[str, ...]
    scores: tuple[str, ...]

    @property
    def threshold(self) -> float:
        """The paper's threshold: the LLM's Pass@1 on the calibration split."""
        return self.rules.thresholds[PAPER_RULE][COREA]

    def of(self, *names: str) -> dict[str, pd.DataFrame]:
        """The rows of the systems named, in that order."""
        return {name: self.rows[name] for name in names}


def compare(
    records: pd.DataFrame, prices: PriceList, systems: Sequence[System] = (*PAPER, *OURS)
) -> Comparison:
    """The systems, COREA among them, and COREA+, with thresholds from the calibration split."""
    llm = records[records["system"] == "LLM"]
    routers = tuple(system.name for system in systems if system.before_generation)
    rows, chosen = with_plus(all_rows(records, systems), records, prices)
    is_score = {system.name: system.is_score for system in (*systems, *CANDIDATES)}
    is_score[COREA_PLUS] = is_score[chosen["system"].iloc[0]]
    scores = tuple(name for name in rows if is_score[name])
    rules = choose_thresholds(rows, llm, prices, routers, scores)
    return Comparison(rows, llm, prices, rules, chosen, routers, scores)
