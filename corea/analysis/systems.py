"""The cascades by name: which SLM answers, where its confidence comes from, and who is paid."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade
from corea.analysis import sources
from corea.costs import PriceList
from corea.questions.base import CALIBRATION, GROUPS, test_datasets

STANDING_ALONE = ("SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM", "LLM")
KINDS = ("paper", "ours", "baseline", "bound")  # of systems, in the order of the tables
# Sources that read only the question: what they defer pays only the LLM.
ROUTERS = {"Router", "Length"}
SCORES = {"Gain", "Oracle", "Length", "Random"}  # sources that rank and are no probabilities
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
    kind: str = "ours"  # of `KINDS`; a "bound" looks at the answers it decides on


def _systems(kind: str, *names: str) -> tuple[System, ...]:
    """Systems by names of SLM and source, with a hyphen between."""
    parts = (name.rpartition("-") for name in names)
    return tuple(System(f"{slm}-{source}", slm, source, kind=kind) for slm, _, source in parts)


PAPER = (
    *_systems("paper", "SLM-Verb", "RLVR-SLM-Verb", "RLVR-SLM-AvgProb", "RLVR-SLM-Probe"),
    System("Router+RLVR-SLM", "RLVR-SLM", "Router", kind="paper"),
    *_systems("paper", "Brier-SLM-Verb", "L1-SLM-Verb"),
)
OURS = (
    *_systems("ours", "L1-SLM-Digits", "L1-SLM-Probe", "L1-SLM-AvgProb", "RLVR-SLM-AnswerProb"),
    *_systems("ours", "RLVR-SLM-Digits"),
    *(System(f"L1-SLM-Verb-{m.title()}", "L1-SLM", "Verb", m) for m in sources.RECALIBRATIONS),
    *_systems("ours", "L1-SLM-Gain"),
)
BASELINES = (  # what a trained confidence has to beat, and what bounds it
    *_systems("baseline", "SLM-Digits", "SLM-AvgProb", "SLM-AnswerProb", "SLM-Probe", "SLM-Gain"),
    *_systems("baseline", "RLVR-SLM-Consistency", "RLVR-SLM-Consistency2", "L1-SLM-Length+Verb"),
    System("L1-SLM-AvgProb-Isotonic", "L1-SLM", "AvgProb", "isotonic", "baseline"),
    System("Length+L1-SLM", "L1-SLM", "Length", kind="baseline"),
    System("Random", "L1-SLM", "Random", kind="baseline"),
    *_systems("bound", "L1-SLM-Others"),
    System("Oracle-L1-SLM", "L1-SLM", "Oracle", kind="bound"),
    System("Oracle", "RLVR-SLM", "Oracle", kind="bound"),
)
_SHOWN = ("SLM-Digits", "RLVR-SLM-AvgProb", "L1-SLM-AvgProb")
COREA, COREA_PLUS = "L1-SLM-Verb", "COREA+"
# COREA+ is the cheapest of these on the calibration split. They are every trained SLM with every
# source that costs no more than its one answer.
CANDIDATES = tuple(
    System(f"{slm}-{source}", slm, source)
    for slm in ("RLVR-SLM", "Brier-SLM", "L1-SLM")
    for source in ("Verb", "Digits", "AvgProb", "Probe", "Gain")
)
# What the tables show under other decodings too.
DECODED = tuple(
    system
    for system in (*PAPER, *OURS, *BASELINES)
    if system.recalibrated is None and (system.source == "Verb" or system.name in _SHOWN)
)


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
    "Consistency2": lambda slm, **_: sources.self_consistency(slm, votes=2),
    "Length": _source(lambda slm, **_: sources.brevity(slm)),
    "Length+Verb": _source(lambda slm, **_: sources.length_and_stated(slm)),
    "Others": _source(lambda slm, **_: sources.others_right(slm)),
    "Random": lambda slm, **_: slm.assign(confidence=0.5),  # says nothing: one threshold, a coin
    "Oracle": _source(lambda slm, *, llm, **_: sources.oracle_confidence(slm, llm)),
}


def rows_of(system: System, records: pd.DataFrame) -> pd.DataFrame:
    """The records of a system's SLM with the system's confidence, as `corea.cascade` takes them.

    What is fitted is fitted on the calibration split, for each training seed. A seed for which the
    source has nothing, such as no probe, is left out if another has something. Gain and Oracle need
    the LLM's records too.
    """
    if system.source not in SOURCES:
        known = f"use one of {', '.join(SOURCES)}"
        raise ValueError(f"{system.name}: unknown source of confidence {system.source!r}; {known}")
    slm = records[records["system"] == system.slm]
    if slm.empty:
        raise ValueError(f"{system.name} needs records of {system.slm}, and there are none")
    llm, seeds = records[records["system"] == "LLM"], []
    for _, of_seed in slm.groupby("seed"):
        rows = SOURCES[system.source](of_seed, llm=llm)
        if system.recalibrated is not None:
            rows = rows.assign(confidence=sources.recalibrated(system.recalibrated, rows))
        if system.source != "Verb":  # which alone reads the numeral in the way asked for
            rows = rows.assign(numeral="expected" if system.source == "Digits" else None)
        seeds.append(rows.assign(system=system.name))
    return pd.concat([rows for rows in seeds if rows["confidence"].notna().any()] or seeds)


def one_decoding(records: pd.DataFrame) -> str:
    """The decoding of records; ValueError if they are of several."""
    if len(found := sorted(records["decoding"].unique())) != 1:
        raise ValueError(f"records of the decodings {', '.join(found)}; choose one of them")
    return found[0]


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
    """The mean cost-accuracy curve of a group's datasets and seeds, cost as a share of the LLM's.

    It has a row for `threshold` and for every other at which something changes, rising.
    """
    sweeps, replayed = [], cascade.replay(slm, llm, threshold, prices)
    for _, rows in replayed.groupby(["dataset", "seed"], sort=False):
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
    # By rule and system, without those for which it finds none: numbers by the paper's, else mixes.
    thresholds: Mapping[str, Mapping[str, Any]]
    routers: tuple[str, ...] = ()  # systems that decide before generation
    scores: tuple[str, ...] = ()  # systems whose confidence ranks and is no probability
    kinds: Mapping[str, str] = field(default_factory=dict)  # of `KINDS`, by system; else "paper"
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

    def of_kind(self, *kinds: str) -> "Comparison":
        """The same of the systems of some kinds, as they stand."""
        return self.of(*(name for name in self.rows if self.kinds.get(name, "paper") in kinds))


def verbalized(
    records: pd.DataFrame, prices: PriceList, threshold: float | None = None
) -> Comparison:
    """Each SLM with its stated confidence ("SLM-Verb", ...), at the paper's threshold or another.

    "LLM" is the LLM by itself: a router that defers everything, so that only the LLM is paid.
    ValueError if the records are of several decodings.
    """
    one_decoding(records)
    llm = records[records["system"] == "LLM"]
    if threshold is None:
        threshold = cascade.llm_pass1(_calibration(llm))
    systems = by_system(records)
    rows = {name if name == "LLM" else f"{name}-Verb": systems[name] for name in systems}
    thresholds = {**dict.fromkeys(rows, threshold), "LLM": cascade.DEFER_ALL}
    return Comparison(rows, llm, prices, {PAPER_RULE: thresholds}, routers=("LLM",))


def compare(
    records: pd.DataFrame,
    prices: PriceList,
    systems: Sequence[System] = (*PAPER, *OURS, *BASELINES),
) -> Comparison:
    """The systems, COREA among them, and COREA+, with thresholds from the calibration split.

    A threshold is one number for all seeds of a system. ValueError for several decodings.
    """
    one_decoding(records)
    chosen, candidates, (budget, pass1) = choose(records, prices)
    best = next(each for each in CANDIDATES if each.name == chosen["system"].iloc[0])
    known = {system.name: system for system in systems}
    known[COREA_PLUS] = replace(best, name=COREA_PLUS)
    names = sorted(known, key=lambda name: KINDS.index(known[name].kind))
    made = {name: candidates.get(name) for name in names}
    made[COREA_PLUS] = candidates[best.name].assign(system=COREA_PLUS)
    rows = {n: rows_of(known[n], records) if made[n] is None else made[n] for n in names}
    llm = records[records["system"] == "LLM"]
    fixed = cascade.llm_pass1(_calibration(llm))
    routers = tuple(name for name in names if known[name].source in ROUTERS)
    scores = tuple(name for name in names if known[name].source in SCORES)
    thresholds: dict[str, dict] = {PAPER_RULE: {n: fixed for n in names if n not in scores}}
    thresholds |= {BUDGET_RULE: {}, EQUAL_RULE: {}}
    for name in names:
        replayed = cascade.replay(_calibration(rows[name]), _calibration(llm), fixed, prices)
        equal = functools.partial(cascade.equal_mix, replayed, before_generation=name in routers)
        with contextlib.suppress(ValueError):  # it never gets there
            thresholds[BUDGET_RULE][name] = equal(budget, "cost")
        with contextlib.suppress(ValueError):
            thresholds[EQUAL_RULE][name] = equal(pass1)
    kinds = {name: known[name].kind for name in names}
    return Comparison(rows, llm, prices, thresholds, routers, scores, kinds, chosen, budget, pass1)


def choose(
    records: pd.DataFrame, prices: PriceList, candidates: Sequence[System] = CANDIDATES
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], tuple[float, float]]:
    """What COREA+ is chosen from, by calibration questions alone.

    Returns:
        The candidates, cheapest first, by their cost at COREA's Pass@1 over COREA's cost; their
        rows; COREA's cost and Pass@1 at the paper's threshold.
    """
    rows = {system.name: rows_of(system, records) for system in candidates}
    llm = _calibration(records[records["system"] == "LLM"])
    sides = llm, cascade.llm_pass1(llm), prices
    replayed = {name: cascade.replay(_calibration(each), *sides) for name, each in rows.items()}
    budget, pass1 = (float(replayed[COREA][column].mean()) for column in ("cost", "correct"))
    alike = [np.full(len(each), 1 / len(each)) for each in replayed.values()]
    weighted = zip(replayed.values(), alike, strict=True)
    costs = [cascade.cost_at_pass1(*each, pass1)[0].item() for each in weighted]
    table = pd.DataFrame({"system": [*rows], "cost": np.divide(costs, budget), "pass1": pass1})
    return table.sort_values(["cost", "system"], ignore_index=True), rows, (budget, pass1)


def decoded(records: pd.DataFrame, prices: PriceList) -> list[Comparison]:
    """`DECODED` at the paper's threshold by each other decoding, and by the greedy numeral.

    What `compare` has of the first decoding of the records is left out.
    """
    compared, first = [], records["decoding"].iloc[0]
    for decoding, rows in records.groupby("decoding", sort=False):
        for numeral in ("sampled", "greedy")[decoding == first :]:
            read = sources.with_numeral(rows, numeral)
            llm = read[read["system"] == "LLM"]
            named = [s for s in DECODED if numeral == "sampled" or s.source == "Verb"]
            of_each = {system.name: rows_of(system, read) for system in named}
            fixed = dict.fromkeys(of_each, cascade.llm_pass1(_calibration(llm)))
            kinds = {system.name: system.kind for system in named}
            compared.append(Comparison(of_each, llm, prices, {PAPER_RULE: fixed}, kinds=kinds))
    return compared


def _calibration(records: pd.DataFrame) -> pd.DataFrame:
    return records[records["group"] == CALIBRATION]


def _curve(replayed: pd.DataFrame, router: bool) -> pd.DataFrame:
    return cascade.sweep(*(replayed[name] for name in cascade.SWEPT), before_generation=router)
