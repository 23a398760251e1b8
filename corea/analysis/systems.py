"""The cascades by name: which SLM answers, where its confidence comes from, and who is paid."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from corea import cascade
from corea.analysis import sources
from corea.costs import PriceList
from corea.questions.base import CALIBRATION, GROUPS, test_datasets

STANDING_ALONE = ("SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM", "LLM")
ROUTERS = {"Router"}  # sources that read only the question: what they defer pays only the LLM
SCORES = {"Gain", "Oracle"}  # sources that rank and are no probabilities
PAPER_RULE = "LLM Pass@1"  # as the paper does; not for scores
BUDGET_RULE = "equal budget"  # the highest Pass@1 for COREA's cost at the paper's threshold
EQUAL_RULE = "equal Pass@1"  # the least cost that reaches COREA's Pass@1 at the paper's threshold


@dataclass(frozen=True, slots=True)
class System:
    """A cascade: `slm` answers, and `source` (of `SOURCES`), recalibrated or not, decides."""

    name: str
    slm: str
    source: str
    recalibrated: str | None = None


def _system(name: str) -> System:
    return System(name, *name.rsplit("-", 1))


PAPER = (
    *map(_system, ("SLM-Verb", "RLVR-SLM-Verb", "RLVR-SLM-AvgProb", "RLVR-SLM-Probe")),
    System("Router+RLVR-SLM", "RLVR-SLM", "Router"),
    *map(_system, ("Brier-SLM-Verb", "L1-SLM-Verb")),
)
OURS = (
    *map(_system, ("SLM-Digits", "L1-SLM-Digits", "L1-SLM-Probe", "L1-SLM-AvgProb")),
    *map(_system, ("RLVR-SLM-AnswerProb", "RLVR-SLM-Digits", "RLVR-SLM-Consistency")),
    *(System(f"L1-SLM-Verb-{m.title()}", "L1-SLM", "Verb", m) for m in sources.RECALIBRATIONS),
    _system("L1-SLM-Gain"),
    System("Random", "L1-SLM", "Random"),
    System("Oracle-L1-SLM", "L1-SLM", "Oracle"),
    System("Oracle", "RLVR-SLM", "Oracle"),
)
COREA, COREA_PLUS = "L1-SLM-Verb", "COREA+"
# COREA+ is the cheapest of these on the calibration split. They are every trained SLM with every
# source that costs no more than its one answer.
CANDIDATES = tuple(
    _system(f"{slm}-{source}")
    for slm in ("RLVR-SLM", "Brier-SLM", "L1-SLM")
    for source in ("Verb", "Digits", "AvgProb", "Probe", "Gain")
)
_LINES = ("Random", "Oracle-L1-SLM", "Oracle")  # below and above all others, last in the tables


def _source(confidence: Callable[..., pd.Series]) -> Callable[..., pd.DataFrame]:
    """A source from a function of the SLM's records to their confidences."""
    return lambda slm, **others: slm.assign(confidence=confidence(slm, **others))


SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "Verb": lambda slm, **_: slm,
    "AvgProb": _source(lambda slm, **_: sources.average_probability(slm)),
    "AnswerProb": _source(lambda slm, **_: sources.average_probability(slm, "answer")),
    "Digits": _source(lambda slm, **_: sources.digit_expectation(slm)["digits"]),
    "Probe": _source(lambda slm, **_: slm["probe"]),
    "Router": _source(lambda slm, **_: sources.router_confidences(slm)),
    "Gain": _source(lambda slm, *, llm, **_: sources.deferral_gain(slm, llm)),
    "Consistency": lambda slm, **_: sources.self_consistency(slm),
    "Random": _source(lambda slm, **_: sources.random_confidence(slm)),
    "Oracle": _source(lambda slm, *, llm, **_: sources.oracle_confidence(slm, llm)),
}


def rows_of(system: System, records: pd.DataFrame) -> pd.DataFrame:
    """The records of a system's SLM with the system's confidence, as `corea.cascade` takes them.

    What is fitted is fitted on the calibration split. Gain and Oracle need the LLM's records too.
    """
    if system.source not in SOURCES:
        known = f"use one of {', '.join(SOURCES)}"
        raise ValueError(f"{system.name}: unknown source of confidence {system.source!r}; {known}")
    slm = records[records["system"] == system.slm]
    if slm.empty:
        raise ValueError(f"{system.name} needs records of {system.slm}, and there are none")
    rows = SOURCES[system.source](slm, llm=records[records["system"] == "LLM"])
    if system.recalibrated is not None:
        rows = rows.assign(confidence=sources.recalibrated(system.recalibrated, rows))
    return rows.assign(system=system.name)


def by_system(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The records of each system on the test sets: the paper's systems first, the LLM last."""
    order = [*test_datasets(), *sorted(set(records["dataset"]) - set(test_datasets()))]
    rows = records.sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")
    rows = rows[rows["group"].isin(GROUPS)]
    if rows.empty:
        raise ValueError("no records to report, apart from the calibration split")
    return {system: rows[rows["system"] == system] for system in ordered(rows["system"])}


def ordered(systems: Iterable[str]) -> list[str]:
    """Different stand-alone systems: those of the paper in its order, others before the LLM."""
    rank = {system: n for n, system in enumerate(STANDING_ALONE)}
    return sorted(set(systems), key=lambda system: (rank.get(system, len(rank) - 1.5), system))


def groups_of(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each group, in the order of the tables, without the calibration split."""
    groups = set(records["group"])
    return {group: records[records["group"] == group] for group in GROUPS if group in groups}


def cells(rows: pd.DataFrame | Mapping[str, pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame]]:
    """(system, group, its rows) in the order of the tables, from records or rows by system."""
    systems = by_system(rows) if isinstance(rows, pd.DataFrame) else rows
    return [
        (name, *cell) for name, of_name in systems.items() for cell in groups_of(of_name).items()
    ]


def mean_curve(
    slm: pd.DataFrame, llm: pd.DataFrame, prices: PriceList, threshold: float, router: bool = False
) -> pd.DataFrame:
    """The mean cost-accuracy curve of a group's datasets, cost as a share of the LLM's.

    It has a row for `threshold` and for every other at which something changes, rising.
    """
    sweeps = []
    for _, rows in cascade.replay(slm, llm, threshold, prices).groupby("dataset", sort=False):
        sweep = _curve(rows, router)
        sweeps.append(sweep.assign(cost=sweep["cost"] / rows["llm_cost"].mean()))
    thresholds = np.unique([threshold, *pd.concat(sweeps)["threshold"]])
    # Between two thresholds of a sweep nothing changes: the upper one keeps the same answers.
    aligned = [sweep.iloc[np.searchsorted(sweep["threshold"], thresholds)] for sweep in sweeps]
    names = ["cost", "pass1", "llm_share"]
    mean = np.mean([sweep[names].to_numpy() for sweep in aligned], axis=0)
    return pd.DataFrame(mean, columns=names).assign(threshold=thresholds)


@dataclass(frozen=True)
class Comparison:
    """Rows by system, side by side; all else was chosen on the calibration split."""

    rows: Mapping[str, pd.DataFrame]
    llm: pd.DataFrame
    prices: PriceList
    thresholds: Mapping[str, Mapping[str, float]]  # by rule and system, NaN if there is none
    routers: tuple[str, ...] = ()  # systems that decide before generation
    scores: tuple[str, ...] = ()  # systems whose confidence ranks and is no probability
    # Candidates for COREA+, cheapest first: cost at COREA's Pass@1 over COREA's cost.
    chosen: pd.DataFrame = field(default_factory=pd.DataFrame)
    budget: float = math.nan  # COREA's cost and Pass@1 at the paper's threshold
    pass1: float = math.nan

    @property
    def threshold(self) -> float:
        """The paper's threshold: the LLM's Pass@1 on the calibration split."""
        return self.thresholds[PAPER_RULE][COREA]

    def of(self, *names: str) -> "Comparison":
        """The same of the systems named, in that order."""
        return replace(self, rows={name: self.rows[name] for name in names})


def verbalized(
    records: pd.DataFrame, prices: PriceList, threshold: float | None = None
) -> Comparison:
    """Each SLM with its stated confidence ("SLM-Verb", ...), at the paper's threshold or another.

    "LLM" is the LLM by itself: a router that defers everything, so that only the LLM is paid.
    """
    llm = records[records["system"] == "LLM"]
    if threshold is None:
        threshold = cascade.llm_pass1(_calibration(llm))
    systems = by_system(records)
    rows = {name if name == "LLM" else f"{name}-Verb": systems[name] for name in systems}
    thresholds = {**dict.fromkeys(rows, threshold), "LLM": cascade.DEFER_ALL}
    return Comparison(rows, llm, prices, {PAPER_RULE: thresholds}, routers=("LLM",))


def compare(
    records: pd.DataFrame, prices: PriceList, systems: Sequence[System] = (*PAPER, *OURS)
) -> Comparison:
    """The systems, COREA among them, and COREA+, with thresholds from the calibration split."""
    known = {system.name: system for system in (*systems, *CANDIDATES)}
    rows = {name: rows_of(system, records) for name, system in known.items()}
    llm = records[records["system"] == "LLM"]
    fixed = cascade.llm_pass1(_calibration(llm))
    replayed = {
        name: cascade.replay(_calibration(its_rows), _calibration(llm), fixed, prices)
        for name, its_rows in rows.items()
    }
    budget, pass1 = (float(replayed[COREA][column].mean()) for column in ("cost", "correct"))
    alike = np.full(len(replayed[COREA]), 1 / len(replayed[COREA]))
    chosen = pd.DataFrame({"system": [system.name for system in CANDIDATES]})
    costs = [cascade.cost_at_pass1(replayed[name], alike, pass1) for name in chosen["system"]]
    chosen = chosen.assign(cost=np.ravel(costs) / budget, pass1=pass1)
    chosen = chosen.sort_values(["cost", "system"], ignore_index=True)
    best = chosen["system"].iloc[0]
    known[COREA_PLUS], replayed[COREA_PLUS] = known[best], replayed[best]
    rows[COREA_PLUS] = rows[best].assign(system=COREA_PLUS)
    names = [system.name for system in systems if system.name not in _LINES]
    names += [COREA_PLUS, *(name for name in _LINES if name in known)]
    rows = {name: rows[name] for name in names}
    routers = tuple(name for name in names if known[name].source in ROUTERS)
    scores = tuple(name for name in names if known[name].source in SCORES)
    curves = {name: _curve(replayed[name], name in routers) for name in names}
    thresholds = {
        PAPER_RULE: {name: math.nan if name in scores else fixed for name in names},
        BUDGET_RULE: _each(cascade.best_under_budget, curves, budget),
        EQUAL_RULE: _each(cascade.cheapest_at_pass1, curves, pass1),
    }
    return Comparison(rows, llm, prices, thresholds, routers, scores, chosen, budget, pass1)


def _calibration(records: pd.DataFrame) -> pd.DataFrame:
    return records[records["group"] == CALIBRATION]


def _curve(replayed: pd.DataFrame, router: bool) -> pd.DataFrame:
    return cascade.sweep(*(replayed[name] for name in cascade.SWEPT), before_generation=router)


def _each(rule: Callable, curves: Mapping[str, pd.DataFrame], bound: float) -> dict[str, float]:
    """A rule's threshold for each curve, NaN if it finds none."""
    thresholds = dict.fromkeys(curves, math.nan)
    for name, curve in curves.items():
        with contextlib.suppress(ValueError):
            thresholds[name] = rule(curve, bound)
    return thresholds
