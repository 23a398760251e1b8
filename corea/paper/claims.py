"""Claims of the paper, and claims against it, each as a relation that records can decide.

A claim is a number that is said to lie above or below a bound.  Its verdict comes from the 95% interval alone, by `verdict`;
nobody writes one down.  The interval is over questions; where trainings are compared and several seeds were run, the spread
from seed to seed widens it.  Sources: the paper (EACL 2026, pp. 4480-4501) and later work, by arXiv number or name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis.systems import COREA, Comparison
from corea.metrics import Interval
from corea.paper.variants import TRAINED
from corea.questions.base import GROUPS

COLUMNS = [
    "claim",
    "source",
    "scope",
    "paper_value",
    "value",
    "low",
    "high",
    "n",
    "verdict",
    "certainty",
]
SCOPES = {
    **{group: (group,) for group in GROUPS},
    "ood": ("ood-math", "ood-nonmath"),
    "all": tuple(GROUPS),
}
_CASCADE_MEASURES = ("pass1_drop", "cost_reduction")
_NEVER = 100.0
CANNOT_SAY = (
    "the absolute Pass@1, ECE, AUROC and cost of 7B and 32B models: a mini world has its own;",
    "how much the token probabilities of a large model tell: here many an error is an unlikely token drawn at temperature 1,"
    " which AvgProb sees at once;",
    "how 0.69 would do as a threshold on DeepMath500: thresholds do not carry over;",
    "what reasoning text a large model writes, and whether its length follows its confidence;",
    "how much knowledge, other than arithmetic and string handling, a confidence carries over;",
    "whether stated numerals collapse to 10-22 levels (CREDO): the mini models know eleven;",
    "whether separate advantages for reasoning and confidence tokens help (DCPO): that is another trainer;",
    "what a threshold with a finite-sample guarantee costs (Learn-then-Test): none is fitted here;",
    "how RLCC behaves over thousands of steps, or with a vocabulary in which a numeral has many spellings.",
)


verdict = functools.partial(metrics.verdict, words=("reproduced", "contradicted"))


class Evidence:
    """Records behind the claims, and their bootstrap draws: first the value, then one for each resample of questions.

    compared: the systems of one run; ablations: records of ablation runs, of seeds ("L1-SLM-seed-1") and bases ("tiny base"), by
    name, or empty.  All draws of a scope resample the same questions alike, so they can be subtracted.
    """

    def __init__(
        self,
        compared: Comparison,
        ablations: Mapping[str, pd.DataFrame],
        *,
        resamples: int = 1000,
        seed: int = 0,
    ):
        self.compared, self.threshold, self.prices = compared, compared.threshold, compared.prices
        self.records = {**ablations, **compared.rows, "LLM": compared.llm}
        self.options: dict[str, Any] = {"resamples": resamples, "seed": seed}
        self.metric = functools.cache(self._metric)
        self.together = functools.cache(self._together)
        self.seed_sd = functools.cache(self._seed_sd)

    def part(self, system: str, scope: str) -> pd.DataFrame:
        """Rows of a system or an ablation run in one scope."""
        found = self.records[system]
        return found[found["group"].isin(SCOPES[scope])]

    def questions(self, system: str, scope: str) -> int:
        """How many questions stand behind a draw."""
        return len(self.part(system, scope)[["dataset", "question_id"]].drop_duplicates())

    def _metric(self, system: str, scope: str) -> dict[str, np.ndarray]:
        """Draws of every metric of a stand-alone system, the mean over sets, and two more.

        over: mean confidence less accuracy, of the answers that state one.  within: chance that, of a right and a wrong
        answer to the same question, the right one is the more confident (ties count half), the mean over such questions.
        """
        part = self.part(system, scope)
        weights = metrics.row_weights(part, **self.options)
        stated = part["confidence"].notna().to_numpy(dtype=float)
        gap = (part["confidence"].fillna(0) - part["correct"]).to_numpy(dtype=float) * stated
        found = metrics.set_draws(part, **self.options)["mean"]
        return found | {
            "over": weights @ gap / (weights @ stated),
            "within": _within(part, weights),
        }

    def _together(self, system: str, scope: str) -> dict[str, np.ndarray]:
        """Draws of a cascade at the paper's threshold, the mean over sets; as `cascade.set_draws`."""
        return cascade.set_draws(self.replayed(system, scope), **self.options)["mean"]

    def replayed(self, system: str, scope: str) -> pd.DataFrame:
        """The rows of `cascade.replay` for one system in one scope."""
        return cascade.replay(
            self.part(system, scope).sort_values(cascade.KEY), self.part("LLM", scope), self.threshold, self.prices,
            before_generation=system in self.compared.routers,
        )  # fmt: skip

    def cost_beyond_coreas(self, system: str, scope: str) -> np.ndarray:
        """Draws of a system's cost at COREA's Pass@1, less COREA's there, as a share of the LLM's; both from the whole curve.

        A Pass@1 that is never reached counts as `_NEVER` times the LLM's cost.
        """
        ours, theirs = self.replayed(COREA, scope), self.replayed(system, scope)
        weights = metrics.row_weights(ours, **self.options)
        target, spent = (
            weights @ ours["correct"].to_numpy(dtype=float),
            weights @ ours["llm_cost"].to_numpy(),
        )
        costs = [
            cascade.cost_at_pass1(
                rows, weights, target, before_generation=name in self.compared.routers
            )[0]
            / spent
            for name, rows in ((system, theirs), (COREA, ours))
        ]
        return np.nan_to_num(costs[0], nan=_NEVER) - np.nan_to_num(costs[1], nan=_NEVER)

    def ends(self, system: str, scope: str) -> np.ndarray:
        """Draws of the share of answers whose confidence is 0 or 1."""
        part = self.part(system, scope)
        return metrics.row_weights(part, **self.options) @ part["confidence"].isin((0, 1)).to_numpy(
            dtype=float
        )

    def misses(self, scope: str, kept: bool) -> Interval:
        """The largest miss of COREA's threshold over the sets of a scope, with an interval that allows for their number.

        A miss is how far, on one set, the accuracy of the answers kept lies under the threshold (kept), or that of the SLM's
        answers deferred lies over it (not kept).  The largest of several noisy numbers is too large, so each set's interval is
        widened for their number (Bonferroni) before the largest is taken.
        """
        found, level = [], 2.5 / len(self.replayed(COREA, scope)["dataset"].unique())
        for _, rows in self.replayed(COREA, scope).groupby("dataset", sort=False):
            weights = metrics.row_weights(rows, **self.options)
            among = (rows["source"] == ("slm" if kept else "llm")).to_numpy(dtype=float)
            total = weights @ among
            if (total > 0).all():
                accuracy = weights @ (among * rows["slm_correct"].to_numpy(dtype=float)) / total
                draws = (self.threshold - accuracy) * (1 if kept else -1)
                found.append((draws[0], *np.percentile(draws[1:], [level, 100 - level])))
        return Interval(*np.max(found, axis=0)) if found else Interval(*[float("nan")] * 3)

    def _seed_sd(self, name: str, scope: str) -> float:
        """Seed-to-seed standard deviation of a measure; NaN where there is one seed only.

        Of a metric: pooled over the three trained systems.  Of a cascade's measure (cost_reduction, ...): of COREA.
        """
        variances = []
        for system in TRAINED:
            runs = [
                f"{system}-Verb",
                *(run for run in sorted(self.records) if run.startswith(f"{system}-seed-")),
            ]
            if len(runs) > 1 and name in _CASCADE_MEASURES and system == "L1-SLM":
                variances.append(
                    np.var([self.together(run, scope)[name][0] for run in runs], ddof=1)
                )
            if len(runs) > 1 and name not in _CASCADE_MEASURES:
                found = [
                    self.metric(run, scope)[name.removesuffix(" reduction")][0] for run in runs
                ]
                if name == "ece reduction":
                    found = [1 - ece / self.metric("SLM-Verb", scope)["ece"][0] for ece in found]
                variances.append(np.var(found, ddof=1))
        return float(np.sqrt(np.mean(variances))) if variances else float("nan")


def _within(part: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """See `Evidence._metric`; part and weights row for row."""
    confidence = part["confidence"].fillna(-1).to_numpy(dtype=float)
    correct = part["correct"].to_numpy(dtype=bool)
    question = part.groupby(["dataset", "question_id"], sort=False).ngroup().to_numpy()
    first = np.unique(question, return_index=True)[1]
    score = np.full(len(first), np.nan)
    for n, rows in enumerate(
        np.split(np.argsort(question, kind="stable"), np.cumsum(np.bincount(question))[:-1])
    ):
        right, wrong = confidence[rows][correct[rows]], confidence[rows][~correct[rows]]
        if len(right) and len(wrong):
            higher = right[:, None] - wrong[None, :]
            score[n] = np.mean((higher > 0) + 0.5 * (higher == 0))
    mixed = ~np.isnan(score)
    own = weights[:, first][:, mixed]
    with np.errstate(invalid="ignore"):
        return own @ score[mixed] / own.sum(axis=1)


@dataclass(frozen=True, slots=True)
class Claim:
    """A relation that is said to hold: `value` lies above, or below, `bound`.

    value: from `Evidence`, draws or an interval.  paper_value: what the source reports, as text.  certainty: how surely that is
    known (firm, likely, weak), "counter" for later work against the paper, "ours" for our own trials.  systems: whose records
    are read; the first one's questions are counted.  measure, trainings: the measure, and how many trainings that chance
    could have made otherwise are compared; their seed-to-seed spread widens the interval.
    """

    claim: str
    source: str
    scope: str
    value: Callable[[Evidence], np.ndarray | Interval]
    bound: float = 0.0
    above: bool = True
    paper_value: str = ""
    certainty: str = "likely"
    systems: tuple[str, ...] = (COREA,)
    measure: str = ""
    trainings: int = 0


def _cascade(claim: str, scope: str, measure: str, **rest) -> Claim:
    """A claim about COREA's own measure at the paper's threshold."""
    return Claim(
        claim,
        _PAPER,
        scope,
        lambda e: e.together(COREA, scope)[measure],
        measure=measure,
        trainings=1,
        **rest,
    )


def _between_scopes(claim: str, measure: str, first: str, second: str, **rest) -> Claim:
    """A claim that COREA's measure is larger in one scope than in another."""
    return Claim(
        claim,
        _PAPER,
        "all",
        lambda e: e.together(COREA, first)[measure] - e.together(COREA, second)[measure],
        **rest,
    )


def _less(
    claim: str,
    source: str,
    scope: str,
    measure: str,
    first: str,
    second: str,
    trainings: int = 1,
    **rest,
) -> Claim:
    """A claim about the first system's metric less the second's."""
    return Claim(
        claim, source, scope, lambda e: e.metric(first, scope)[measure] - e.metric(second, scope)[measure],
        systems=(first, second), measure=measure, trainings=trainings, **rest,
    )  # fmt: skip


def _reduction(claim: str, bound: float, above: bool, paper_value: str) -> Claim:
    """A claim about the share of the SLM's ECE that training removes."""
    return Claim(
        claim, _PAPER, "all", lambda e: 1 - e.metric(COREA, "all")["ece"] / e.metric("SLM-Verb", "all")["ece"], bound, above,
        paper_value, systems=(COREA, "SLM-Verb"), measure="ece reduction", trainings=1,
    )  # fmt: skip


def _auroc_gain(e: Evidence, after: str, before: str) -> np.ndarray:
    return e.metric(after, "ood")["auroc"] - e.metric(before, "ood")["auroc"]


def _routers_cost(e: Evidence, scope: str) -> np.ndarray:
    return e.cost_beyond_coreas("Router+RLVR-SLM", scope)


_PAPER, _LATER = "paper", "counter"
_ROLLOUTS = ("anchor", "rollouts-4", "rollouts-16", "rollouts-32")
CLAIMS: tuple[Claim, ...] = (
    _cascade("COREA costs less than the LLM alone", "ood-math", "cost_reduction", paper_value="21.5%", certainty="firm"),
    _cascade("COREA costs less than the LLM alone", "ood-nonmath", "cost_reduction", paper_value="16.8%", certainty="firm"),
    _cascade("COREA costs less than the LLM alone", "in-domain", "cost_reduction", paper_value="6.7%"),
    _between_scopes("COREA saves more on OOD math than on OOD non-math", "cost_reduction", "ood-math", "ood-nonmath", paper_value="21.5% to 16.8%", certainty="firm"),
    _between_scopes("COREA saves more on OOD math than in domain", "cost_reduction", "ood-math", "in-domain", paper_value="21.5% to 6.7%"),
    _between_scopes("COREA saves more on OOD non-math than in domain", "cost_reduction", "ood-nonmath", "in-domain", paper_value="16.8% to 6.7%"),
    *(
        _cascade("COREA's Pass@1 is within 2 points of the LLM's", scope, "pass1_drop", bound=0.02, above=False, paper_value="at most 2 points", certainty="firm")
        for scope in GROUPS
    ),
    _cascade("COREA is less accurate than the LLM alone", "ood-math", "pass1_drop", paper_value="77.9 to 79.6", certainty="weak"),
    _between_scopes("COREA is more accurate on OOD math than in domain", "pass1", "ood-math", "in-domain", paper_value="77.9 to 67.5", certainty="weak"),
    _between_scopes("COREA is more accurate on OOD math than on OOD non-math", "pass1", "ood-math", "ood-nonmath", paper_value="77.9 to 69.7", certainty="weak"),
    _between_scopes("COREA is more accurate on OOD non-math than in domain", "pass1", "ood-nonmath", "in-domain", paper_value="69.7 to 67.5", certainty="weak"),
    _less("L1-SLM is better calibrated than the SLM (ECE)", _PAPER, "all", "ece", COREA, "SLM-Verb", above=False, paper_value="0.12", certainty="weak"),
    _less("L1-SLM's confidence ranks better than the SLM's (AUROC)", _PAPER, "all", "auroc", COREA, "SLM-Verb", paper_value="0.72", certainty="weak"),
    _reduction("RLCC lowers ECE by 30% or more", 0.30, True, "30%"),
    _reduction("RLCC lowers ECE by 50% or less", 0.50, False, "50%"),
    _less("RLCC raises Pass@1 in domain", _PAPER, "in-domain", "pass1", COREA, "SLM-Verb", paper_value="up to 10 points"),
    _less("RLCC raises Pass@1 in domain by 10 points or less", _PAPER, "in-domain", "pass1", COREA, "SLM-Verb", bound=0.10, above=False, paper_value="up to 10 points"),
    _less("L1-SLM is better calibrated than RLVR-SLM (ECE)", _PAPER, "all", "ece", COREA, "RLVR-SLM-Verb", 2, above=False),
    _less("L1-SLM is better calibrated than Brier-SLM (ECE)", _PAPER, "all", "ece", COREA, "Brier-SLM-Verb", 2, above=False),
    _less("L1 calibrates better than KL (ECE, short runs)", _PAPER, "all", "ece", "anchor", "kl", 2, above=False),
    *(
        _less(f"with {run.split('-')[-1] if run != 'anchor' else 8} rollouts a group, ECE falls below the SLM's", _PAPER, "in-domain", "ece", run, "SLM-Verb", above=False, paper_value="4-32")
        for run in _ROLLOUTS
    ),
    Claim("L1-SLM states 0 or 1 in more than half of its answers: confidences stay discretised", _PAPER, "all", lambda e: e.ends(COREA, "all"), 0.5, paper_value="stated limit"),
    *(
        _less("a probe of RLVR-SLM ranks better than COREA's stated confidence (AUROC)", "IPoET", scope, "auroc", "RLVR-SLM-Probe", COREA, 2, paper_value=".862 to .625", certainty=_LATER)
        for scope in ("in-domain", "ood")
    ),
    _less("digit expectation ranks better than the sampled numeral: SLM (AUROC)", "CREDO", "all", "auroc", "SLM-Digits", "SLM-Verb", 0, paper_value=".644 to .765", certainty=_LATER),
    _less("digit expectation ranks better than the sampled numeral: L1-SLM (AUROC)", "CREDO", "all", "auroc", "L1-SLM-Digits", COREA, 0, paper_value=".775 to .864", certainty=_LATER),
    _less("a mixed target (.5) ranks better than the pure group target (AUROC, L2)", "CREDO", "all", "auroc", "mix-0.5", "l2", 2, paper_value="best of its mixes", certainty=_LATER),
    _less("a mixed target (.5) calibrates better than the pure group target (ECE, L2)", "CREDO", "all", "ece", "mix-0.5", "l2", 2, above=False, paper_value="best of its mixes", certainty=_LATER),
    _less("a pure group target teaches difficulty: it ranks answers to one question worse than the answer's own target (L2)", "CREDO", "all", "within", "l2", "brier", 2, above=False, certainty=_LATER),
    _less("the answer's own correctness is the better target (ECE, L2)", "CALIBER 2606.24281", "all", "ece", "brier", "l2", 2, above=False, certainty=_LATER),
    _less("dividing by the group's standard deviation raises confidence above accuracy", "2508.11800", "all", "over", "anchor", "no-std", 2, certainty=_LATER),
    *(
        Claim("a router that decides before generation is cheaper than COREA at its Pass@1", "2605.06350", scope, functools.partial(_routers_cost, scope=scope), above=False, paper_value="4 of 5 datasets", certainty=_LATER, systems=(COREA, "Router+RLVR-SLM"))
        for scope in ("in-domain", "ood")
    ),
    _less("isotonic recalibration lowers ECE out of domain", "UCCI 2605.18796", "ood", "ece", "L1-SLM-Verb-Isotonic", COREA, 0, above=False, certainty=_LATER),
    Claim("one threshold carried over keeps answers that are right less often than it says, on some set", "RLCR files", "ood", lambda e: e.misses("ood", kept=True), paper_value=".495 kept at .69", certainty=_LATER),
    Claim("one threshold carried over defers answers that are right more often than it says, on some set", "RLCR files", "ood", lambda e: e.misses("ood", kept=False), paper_value=".975 kept at .69", certainty=_LATER),
    Claim("a base that knows nothing of itself gains less AUROC out of domain", "our trials", "ood", lambda e: _auroc_gain(e, "honest-0", "honest-0 base") - _auroc_gain(e, "anchor", "SLM-Verb"), above=False, certainty="ours", systems=("anchor", "honest-0", "honest-0 base", "SLM-Verb"), measure="auroc", trainings=2),
)  # fmt: skip


def table_claims(evidence: Evidence, claims: tuple[Claim, ...] = CLAIMS) -> pd.DataFrame:
    """Every claim with its value, 95% interval and verdict; a claim whose runs are not there is undecided, without a value.

    Columns `COLUMNS`, and bound ("above 0") and seed_sd, by which the interval was widened; n is the number of questions behind
    the value.
    """
    table = []
    for claim in claims:
        there = all(system in evidence.records for system in claim.systems)
        found, seed_sd = (
            _interval(claim, evidence) if there else (Interval(*[float("nan")] * 3), float("nan"))
        )
        table.append({
            "claim": claim.claim, "source": claim.source, "scope": claim.scope, "paper_value": claim.paper_value,
            "value": found.value, "low": found.low, "high": found.high,
            "n": evidence.questions(claim.systems[0], claim.scope) if there else 0,
            "verdict": verdict(found.low, found.high, claim.bound, claim.above), "certainty": claim.certainty,
            "bound": f"{'above' if claim.above else 'below'} {claim.bound:g}", "seed_sd": seed_sd,
        })  # fmt: skip
    return pd.DataFrame(table, columns=[*COLUMNS, "bound", "seed_sd"])


def _interval(claim: Claim, evidence: Evidence) -> tuple[Interval, float]:
    """Value and interval over questions, widened by the spread that as many trainings have from seed to seed."""
    found = claim.value(evidence)
    found = found if isinstance(found, Interval) else metrics.interval(found)
    sd = evidence.seed_sd(claim.measure, claim.scope) if claim.trainings else float("nan")
    if np.isnan(sd):
        return found, sd
    chance = 1.96 * sd * np.sqrt(claim.trainings)
    low, high = (
        np.hypot(side, chance) for side in (found.value - found.low, found.high - found.value)
    )
    return Interval(found.value, found.value - low, found.value + high), sd
