"""Claims of the paper, and claims against it, each as a relation that records can decide.

A claim is a number that is said to lie above or below a bound.  Its verdict comes from the 95% interval alone, by `verdict`;
nobody writes one down.  Sources: the paper (EACL 2026, pp. 4480-4501) and later work, by arXiv number or name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from corea import cascade, comparisons, metrics
from corea.costs import PriceList
from corea.systems import COREA
from corea.tasks import GROUPS

COLUMNS = ["claim", "source", "scope", "paper_value", "value", "low", "high", "n", "verdict", "certainty"]
SCOPES = {**{group: (group,) for group in GROUPS}, "ood": ("ood-math", "ood-nonmath"), "all": tuple(GROUPS)}
CANNOT_SAY = (
    "the absolute Pass@1, ECE, AUROC and cost of 7B and 32B models: a mini world has its own;",
    "how much the token probabilities of a large model tell: here many an error is an unlikely token drawn at temperature 1,"
    " which AvgProb sees at once;",
    "how 0.69 would do as a threshold on DeepMath500: thresholds do not carry over;",
    "what reasoning text a large model writes, and whether its length follows its confidence;",
    "how much knowledge, other than arithmetic and string handling, a confidence carries over;",
    "how RLCC behaves over thousands of steps, or with a vocabulary in which a numeral has many spellings.",
)


def verdict(low: float, high: float, bound: float, above: bool) -> str:
    """The one rule: "reproduced" where the whole interval keeps to the claimed side of the bound, "contradicted" where none does.

    "undecided" where the interval reaches across the bound or touches it, or is not known.
    """
    if np.isnan(low) or np.isnan(high):
        return "undecided"
    if not above:
        low, high, bound = -high, -low, -bound
    return "reproduced" if low > bound else "contradicted" if high < bound else "undecided"


class Evidence:
    """Records behind the claims, and their bootstrap draws: first the value, then one for each resample of questions.

    rows: by system, as from `systems.all_rows`; llm: the LLM's records; ablations: records of ablation runs by run, or
    empty; threshold: COREA's.  All draws resample the same questions alike, so they can be subtracted.
    """

    def __init__(
        self,
        rows: Mapping[str, pd.DataFrame],
        llm: pd.DataFrame,
        ablations: Mapping[str, pd.DataFrame],
        threshold: float,
        prices: PriceList,
        *,
        resamples: int = 1000,
        seed: int = 0,
    ):
        self.rows, self.llm, self.ablations = rows, llm, ablations
        self.threshold, self.prices = threshold, prices
        self.options = {"resamples": resamples, "seed": seed}
        self.metric = functools.cache(self._metric)
        self.together = functools.cache(self._together)
        self.at_coreas_pass1 = functools.cache(self._at_coreas_pass1)

    def part(self, system: str, scope: str) -> pd.DataFrame:
        """Rows of a system or an ablation run in one scope.  Raises KeyError where there are none."""
        found = {**self.ablations, **self.rows, "LLM": self.llm}[system]
        return found[found["group"].isin(SCOPES[scope])]

    def questions(self, system: str, scope: str) -> int:
        """How many questions stand behind a draw."""
        return len(self.part(system, scope)[["dataset", "question_id"]].drop_duplicates())

    def _metric(self, system: str, scope: str) -> dict[str, np.ndarray]:
        """Draws of every metric of a stand-alone system, and `over`, mean confidence less accuracy: the mean over sets."""
        part = self.part(system, scope)
        stated = part[part["confidence"].notna()]
        weights = comparisons.row_weights(stated, **self.options)
        over = weights @ (stated["confidence"] - stated["correct"]).to_numpy(dtype=float)
        return metrics.set_draws(part, self.options)["mean"] | {"over": over}

    def _together(self, system: str, scope: str) -> dict[str, np.ndarray]:
        """Draws of a cascade at the threshold, the mean over sets; as `cascade.set_draws`."""
        rows = self._replayed(system, scope)
        return cascade.set_draws(rows, **self.options)["mean"]

    def _replayed(self, system: str, scope: str) -> pd.DataFrame:
        return cascade.replay(
            self.part(system, scope).sort_values(cascade.KEY), self.part("LLM", scope), self.threshold, self.prices,
            before_generation=system.startswith("Router"),
        )  # fmt: skip

    def _at_coreas_pass1(self, system: str, scope: str) -> np.ndarray:
        """Draws of a system's cost at COREA's Pass@1, less COREA's, as a share of the LLM's."""
        ours, theirs = self._replayed(COREA, scope), self._replayed(system, scope)
        weights = comparisons.row_weights(ours, **self.options)
        target = weights @ ours["correct"].to_numpy(dtype=float)
        cost = cascade.cost_at_pass1(theirs, weights, target, before_generation=system.startswith("Router"))[0]
        return (cost - weights @ ours["cost"].to_numpy()) / (weights @ ours["llm_cost"].to_numpy())

    def both_ways(self, scope: str) -> np.ndarray:
        """How far one threshold misses in both directions: the smaller of the two largest misses, over the sets of a scope.

        A miss is the accuracy of the answers kept on a set less the threshold: above 0 more could be kept, below 0 less.
        """
        misses = []
        for dataset, rows in self._replayed(COREA, scope).groupby("dataset", sort=False):
            weights = comparisons.row_weights(rows.assign(dataset=dataset), **self.options)
            kept = (rows["source"] == "slm").to_numpy(dtype=float)
            right = rows["slm_correct"].to_numpy(dtype=float)
            misses.append(weights @ (kept * right) / (weights @ kept) - self.threshold)
        return np.minimum(np.max(misses, axis=0), -np.min(misses, axis=0))


@dataclass(frozen=True, slots=True)
class Claim:
    """A relation that is said to hold: `value` (draws from `Evidence`) lies above, or below, `bound`.

    paper_value: what the source reports, as text; certainty: how surely that is known (firm, likely, weak), as in the paper's
    digest, or "counter" for later work.  system: the one whose questions are counted.
    """

    claim: str
    source: str
    scope: str
    value: Callable[[Evidence], np.ndarray]
    bound: float = 0.0
    above: bool = True
    paper_value: str = ""
    certainty: str = "likely"
    system: str = COREA


def _together(scope: str, name: str, system: str = COREA) -> Callable[[Evidence], np.ndarray]:
    return lambda e: e.together(system, scope)[name]


def _less(scope: str, name: str, first: str, second: str) -> Callable[[Evidence], np.ndarray]:
    return lambda e: e.metric(first, scope)[name] - e.metric(second, scope)[name]


def _ece_reduction(scope: str) -> Callable[[Evidence], np.ndarray]:
    return lambda e: 1 - e.metric(COREA, scope)["ece"] / e.metric("SLM-Verb", scope)["ece"]


def _worst_rollouts(e: Evidence) -> np.ndarray:
    return np.max(
        [e.metric(run, "in-domain")["ece"] for run in ("rollouts-4", "anchor", "rollouts-16", "rollouts-32")], axis=0
    ) - e.metric("SLM-Verb", "in-domain")["ece"]


_PAPER, _LATER = "paper", "counter"
CLAIMS: tuple[Claim, ...] = (
    Claim("COREA costs less than the LLM alone", _PAPER, "ood-math", _together("ood-math", "cost_reduction"), paper_value="21.5%", certainty="firm"),
    Claim("COREA costs less than the LLM alone", _PAPER, "ood-nonmath", _together("ood-nonmath", "cost_reduction"), paper_value="16.8%", certainty="firm"),
    Claim("COREA costs less than the LLM alone", _PAPER, "in-domain", _together("in-domain", "cost_reduction"), paper_value="6.7%"),
    Claim("COREA saves more on OOD math than in domain", _PAPER, "all", lambda e: e.together(COREA, "ood-math")["cost_reduction"] - e.together(COREA, "in-domain")["cost_reduction"], paper_value="21.5% to 6.7%"),
    *(
        Claim("COREA's Pass@1 is within 2 points of the LLM's", _PAPER, scope, _together(scope, "pass1_drop"), 0.02, False, "at most 2 points", "firm")
        for scope in GROUPS
    ),
    Claim("COREA is less accurate than the LLM alone", _PAPER, "ood-math", _together("ood-math", "pass1_drop"), paper_value="77.9 to 79.6", certainty="weak"),
    Claim("COREA is more accurate on OOD math than in domain", _PAPER, "all", lambda e: e.together(COREA, "ood-math")["pass1"] - e.together(COREA, "in-domain")["pass1"], paper_value="77.9 to 67.5", certainty="weak"),
    Claim("COREA is more accurate on OOD non-math than in domain", _PAPER, "all", lambda e: e.together(COREA, "ood-nonmath")["pass1"] - e.together(COREA, "in-domain")["pass1"], paper_value="69.7 to 67.5", certainty="weak"),
    Claim("L1-SLM is better calibrated than the SLM (ECE)", _PAPER, "all", _less("all", "ece", COREA, "SLM-Verb"), above=False, paper_value="0.12", certainty="weak"),
    Claim("L1-SLM's confidence ranks better than the SLM's (AUROC)", _PAPER, "all", _less("all", "auroc", COREA, "SLM-Verb"), paper_value="0.72", certainty="weak"),
    Claim("RLCC lowers ECE by 30% or more", _PAPER, "all", _ece_reduction("all"), 0.30, paper_value="30%"),
    Claim("RLCC lowers ECE by 50% or less", _PAPER, "all", _ece_reduction("all"), 0.50, False, "50%"),
    Claim("RLCC raises Pass@1 in domain", _PAPER, "in-domain", _less("in-domain", "pass1", COREA, "SLM-Verb"), paper_value="up to 10 points"),
    Claim("RLCC raises Pass@1 in domain by 10 points or less", _PAPER, "in-domain", _less("in-domain", "pass1", COREA, "SLM-Verb"), 0.10, False, "up to 10 points"),
    Claim("L1-SLM is better calibrated than RLVR-SLM (ECE)", _PAPER, "all", _less("all", "ece", COREA, "RLVR-SLM-Verb"), above=False),
    Claim("L1-SLM is better calibrated than Brier-SLM (ECE)", _PAPER, "all", _less("all", "ece", COREA, "Brier-SLM-Verb"), above=False),
    Claim("L1 calibrates better than KL (ECE, short runs)", _PAPER, "all", _less("all", "ece", "anchor", "kl"), above=False, system="anchor"),
    Claim("with 4, 8, 16 or 32 rollouts, ECE falls below the SLM's", _PAPER, "in-domain", _worst_rollouts, above=False, paper_value="4-32", system="anchor"),
    *(
        Claim("a probe of RLVR-SLM ranks better than COREA's stated confidence (AUROC)", "IPoET", scope, _less(scope, "auroc", "RLVR-SLM-Probe", COREA), paper_value=".862 to .625", certainty=_LATER)
        for scope in ("in-domain", "ood")
    ),
    Claim("digit expectation ranks better than the sampled numeral: SLM (AUROC)", "CREDO", "all", _less("all", "auroc", "SLM-Digits", "SLM-Verb"), paper_value=".644 to .765", certainty=_LATER),
    Claim("digit expectation ranks better than the sampled numeral: L1-SLM (AUROC)", "CREDO", "all", _less("all", "auroc", "L1-SLM-Digits", COREA), paper_value=".775 to .864", certainty=_LATER),
    Claim("stated numerals collapse to 22 levels or fewer", "CREDO", "all", lambda e: e.metric(COREA, "all")["levels"], 22, False, "10-22", _LATER),
    Claim("a mixed target (.5) ranks better than the pure group target (AUROC, L2)", "CREDO", "all", _less("all", "auroc", "mix-0.5", "l2"), paper_value="best of its mixes", certainty=_LATER, system="l2"),
    Claim("a mixed target (.5) calibrates better than the pure group target (ECE, L2)", "CREDO", "all", _less("all", "ece", "mix-0.5", "l2"), above=False, paper_value="best of its mixes", certainty=_LATER, system="l2"),
    Claim("the answer's own correctness is the better target (ECE, L2)", "CALIBER 2606.24281", "all", _less("all", "ece", "brier", "l2"), above=False, certainty=_LATER, system="l2"),
    Claim("dividing by the group's standard deviation makes overconfident", "2508.11800", "all", _less("all", "over", "anchor", "no-std"), certainty=_LATER, system="anchor"),
    *(
        Claim("a router that decides before generation is cheaper than COREA at its Pass@1", "2605.06350", scope, lambda e, scope=scope: e.at_coreas_pass1("Router+RLVR-SLM", scope), above=False, paper_value="4 of 5 datasets", certainty=_LATER)
        for scope in ("in-domain", "ood")
    ),
    Claim("isotonic recalibration lowers ECE out of domain", "UCCI 2605.18796", "ood", _less("ood", "ece", "L1-SLM-Verb-Isotonic", COREA), above=False, certainty=_LATER),
    Claim("one threshold carried over keeps too much on one set and too little on another", "RLCR files", "ood", lambda e: e.both_ways("ood"), paper_value=".975 and .495 kept at .69", certainty=_LATER),
    Claim("a base that knows nothing of itself gains less AUROC out of domain", "our trials", "ood", lambda e: (e.metric("honest-0", "ood")["auroc"] - e.metric("honest-0 base", "ood")["auroc"]) - (e.metric("anchor", "ood")["auroc"] - e.metric("SLM-Verb", "ood")["auroc"]), above=False, certainty=_LATER, system="anchor"),
)  # fmt: skip


def table_claims(evidence: Evidence, claims: tuple[Claim, ...] = CLAIMS) -> pd.DataFrame:
    """Every claim with its value, 95% interval and verdict; a claim whose runs are not there is undecided, without a value.

    Columns `COLUMNS`, and bound ("above 0"); n is the number of questions behind the value.
    """
    table = []
    for claim in claims:
        try:
            found = metrics.interval(claim.value(evidence))
            questions = evidence.questions(claim.system, claim.scope)
        except KeyError:  # an ablation that was not run here
            found, questions = metrics.Interval(float("nan"), float("nan"), float("nan")), 0
        side = "above" if claim.above else "below"
        table.append({
            "claim": claim.claim, "source": claim.source, "scope": claim.scope, "paper_value": claim.paper_value,
            "value": found.value, "low": found.low, "high": found.high, "n": questions,
            "verdict": verdict(found.low, found.high, claim.bound, claim.above), "certainty": claim.certainty,
            "bound": f"{side} {claim.bound:g}",
        })  # fmt: skip
    return pd.DataFrame(table, columns=[*COLUMNS, "bound"])
