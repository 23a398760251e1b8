"""A threshold with a promise for any source of confidence, and what the promise costs.

What a source is fitted on, and COREA+ chosen by, are other questions than those that certify its
threshold; a source that is not fitted is certified on the whole calibration split.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade, metrics, policies
from corea.analysis import sources, systems
from corea.analysis.systems import COREA_PLUS, System
from corea.analysis.tables import NEAR
from corea.cascade import LLM_ALONE, Mix
from corea.costs import PriceList
from corea.questions.base import CALIBRATION

ASKED = (0.01, 0.02, 0.05)  # Pass@1 that may be lost to the LLM
CALIBRATED_RULE = "calibrated"  # loses just so much on calibration questions
GUARANTEED_RULE = "guaranteed"  # in domain it loses more with a probability of delta at most
CERTIFYING = "certifying"  # the group of calibration questions that a fitted source has not seen
_FITTED = ("Router", "Gain", "Length+Verb")
_FIT_FOLDS = 2  # of five: the calibration questions that a source is fitted on
_COINS = 20  # steps between two of the few levels of a stated confidence
NAMES = (
    "SLM-Verb", "L1-SLM-Verb", "L1-SLM-Digits", "L1-SLM-AvgProb", "L1-SLM-AvgProb-Isotonic",
    "Router+RLVR-SLM", "L1-SLM-Gain", COREA_PLUS, "L1-SLM-Length+Verb", "Length+L1-SLM", "Random",
)  # fmt: skip
COLUMNS = [
    "rule", "source", "kind", "group", "questions", "samples", "seeds", "asked_loss", "delta",
    "calibration_questions", "threshold", "second", "second_share", "certified", "promised",
    "loss", "loss_low", "loss_high", "saving", "saving_low", "saving_high", "verdict",
]  # fmt: skip


def path(question, confidence, loss) -> tuple[list[Mix], np.ndarray]:
    """Ways to run a cascade, each keeping more than the one before, and what they lose to the LLM.

    From the LLM alone down through every confidence. Where these are few, as stated ones are, a
    coin divides each step: one level may be half of all answers.

    Args:
        question: numbers from 0 on, (answers,).
        confidence: NaN if none was stated, (answers,).
        loss: the LLM's correctness less the SLM's, (answers,).

    Returns:
        The ways, and their losses (questions, ways).
    """
    levels = np.unique(confidence[~np.isnan(confidence)])
    losses = policies.kept_losses(question, confidence, loss, levels)[:, ::-1]
    losses = np.hstack([np.zeros((len(losses), 1)), losses])
    thresholds = np.append(LLM_ALONE, levels[::-1])
    coins = _COINS if len(levels) <= _COINS else 1
    above, share = np.divmod(np.arange(coins * len(levels)), coins)
    share = (share + 1) / coins
    ways = zip(thresholds[above], thresholds[above + 1], share, strict=True)
    mixed = losses[:, above] + share * (losses[:, above + 1] - losses[:, above])
    return [Mix(*map(float, way)) for way in ways], mixed


def guaranteed(
    question, confidence, loss, *, max_loss: float, delta: float, seed: int = 0
) -> Mix | None:
    """The way of `path` that keeps most of those shown to lose at most `max_loss`, None if none is.

    The promise holds with probability 1 - delta over the draw of these questions, for more
    questions drawn like them, if the source was not fitted on them.
    """
    ways, losses = path(question, confidence, loss)
    losses = np.random.default_rng(seed).permutation(losses)
    safe = policies.count_safe(losses, max_loss, delta)
    return ways[safe - 1] if safe else None


def table_guarantee(
    records: pd.DataFrame,
    prices: PriceList,
    names: Sequence[str] = NAMES,
    *,
    delta: float = 0.1,
    **options,
) -> pd.DataFrame:
    """Loss against the LLM, and saving, by rule, source and group.

    The paper's rule promises nothing, and is judged by the 2 points that the paper reports. The
    calibrated rule is the cheapest that loses `asked_loss` on the questions that calibrate it; the
    guaranteed one (Learn-then-Test) keeps to it with probability 1 - delta, in domain and nowhere
    else (`promised`). Where none that saves is certified, the LLM alone is run, and loses and saves
    nothing. verdict says whether the measured loss is within what was asked, by its interval.
    """
    split = _split(records)
    fixed = cascade.llm_pass1(records.query("system == 'LLM' and group == @CALIBRATION"))
    table: list[dict] = []
    for system, fitted in _sources(split, prices, names):
        used, group = (split, CERTIFYING) if fitted else (records, CALIBRATION)
        sides = systems.rows_of(system, used), used[used["system"] == "LLM"]
        slm, llm = (side[side["group"] == group] for side in sides)
        how: dict[str, Any] = {"prices": prices}
        how["before_generation"] = system.source in systems.ROUTERS
        rules: dict = {} if system.source in systems.SCORES else {(systems.PAPER_RULE, NEAR): fixed}
        rules |= _rules(slm, llm, how, delta)
        about = {"source": system.name, "kind": system.kind, "delta": delta}
        about["calibration_questions"] = metrics.sizes(slm)["questions"]
        for (rule, asked), policy in rules.items():
            row = {**about, "rule": rule, "asked_loss": asked}
            tested = systems.groups_of(sides[0]), systems.groups_of(sides[1])
            table += _rows(row, *tested, policy, {**how, **options})
    return pd.DataFrame(table)[COLUMNS]


def _split(records: pd.DataFrame) -> pd.DataFrame:
    """The records with most calibration questions in a group of their own, `CERTIFYING`."""
    known, names = records["group"] == CALIBRATION, records["question_id"]
    asked = names[known].unique()
    late = known & names.isin(asked[sources.folds(asked, seed=1) >= _FIT_FOLDS])
    return records.assign(group=records["group"].mask(late, CERTIFYING))


def _sources(
    split: pd.DataFrame, prices: PriceList, names: Sequence[str]
) -> Iterator[tuple[System, bool]]:
    """The systems of the table, and whether something of each is fitted or chosen."""
    # A probe was fitted, out-of-fold, when its records were made: on all calibration questions.
    candidates = [each for each in systems.CANDIDATES if each.source != "Probe"]
    chosen = systems.choose(split, prices, candidates)[0]["system"].iloc[0]
    known = {each.name: each for each in (*systems.PAPER, *systems.OURS, *systems.BASELINES)}
    best = next(each for each in candidates if each.name == chosen)
    known[COREA_PLUS] = replace(best, name=COREA_PLUS)
    for name in names:
        system = known[name]
        fitted = system.source in _FITTED or system.recalibrated is not None
        yield system, fitted or name == COREA_PLUS


def _rules(
    slm: pd.DataFrame, llm: pd.DataFrame, how: Mapping, delta: float
) -> dict[tuple[str, float], Mix]:
    """The calibrated and the guaranteed way of each loss asked, by rule and loss."""
    rules, rows = {}, cascade.replay(slm, llm, cascade.DEFER_ALL, **how)
    right, known = (rows[f"{side}_correct"].to_numpy(float) for side in ("slm", "llm"))
    question = rows.groupby(cascade.KEY[:2]).ngroup().to_numpy()
    answers = question, rows["confidence"].to_numpy(float), known - right
    equal = functools.partial(cascade.equal_mix, before_generation=how["before_generation"])
    for asked in ASKED:
        rules[CALIBRATED_RULE, asked] = equal(rows, known.mean() - asked)
        safe = guaranteed(*answers, max_loss=asked, delta=delta)
        if safe:
            spent = cascade.replay(slm, llm, safe, **how)[["cost", "llm_cost"]].mean()
            safe = safe if spent["cost"] < spent["llm_cost"] else None
        rules[GUARANTEED_RULE, asked] = safe or Mix(LLM_ALONE, LLM_ALONE, 0.0)
    return rules


def _rows(row: Mapping, slm: Mapping, llm: Mapping, policy: Mix | float, options: Mapping):
    """A rule's rows of `table_guarantee`, one per group of both models' records."""
    coin = policy if isinstance(policy, Mix) else Mix(policy, LLM_ALONE, 0.0)
    is_promise = row["rule"] == GUARANTEED_RULE
    columns = {**row, "threshold": coin.threshold, "second_share": coin.share}
    columns["second"] = coin.second if coin.share else np.nan
    columns["delta"] = row["delta"] if is_promise else np.nan
    columns["certified"] = "yes" if is_promise and coin.share else "no"
    for group, rows in slm.items():
        found = cascade.evaluate_cascade(rows, llm[group], policy, **options).iloc[-1]
        promised = "yes" if is_promise and group == "in-domain" else "no"
        here = {"group": group, "promised": promised}
        here |= {name: found[name] for name in ("questions", "samples", "seeds")}
        for name, measured in (("loss", "pass1_drop"), ("saving", "cost_reduction")):
            here |= {name + end: found[measured + end] for end in ("", "_low", "_high")}
        ends = here["loss_low"], here["loss_high"], row["asked_loss"]
        here["verdict"] = metrics.verdict(*ends, above=False, words=("within", "above"))
        yield {**columns, **here}
