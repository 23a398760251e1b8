"""Pairs of models, measured as the map asks: gap, correlation, AUROC and saving; and forecast.

The forecast is what `corea.analysis.map` makes of the first three. Values of a group are means over
its datasets; intervals are over questions, and over training seeds where there are several.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis import map as model
from corea.analysis.systems import ROUTERS, System, groups_of, rows_of
from corea.costs import PriceList
from corea.questions.base import CALIBRATION

SYSTEMS = (
    System("COREA", "L1-SLM", "Verb"),
    System("AvgProb", "L1-SLM", "AvgProb"),
    System("Router", "L1-SLM", "Router"),
)
COIN = "Random"  # by its formula
PAIR_COLUMNS = (
    "slm", "llm", "gap", "rho", "neither", "length_auroc", "slm_auroc_sampled", "slm_auroc_greedy",
    "slm_ece",
)  # fmt: skip
_PLACE = ("gap", "auroc", "rho")
_WHY = ["by_lumps", "by_ranking", "by_llm", "by_costs"]
POINT_COLUMNS = [
    "name", "kind", "pair", "system", "group", *_PLACE, "saving", "low", "high", "predicted",
    "difference", *_WHY, "llm_auroc", "llm_auroc_predicted", "slm", "llm", "price", "coin",
    "rule_saving", "rule_predicted", "rule_kept", "rule_loss", "rule_loss_predicted",
    *(f"{name}_{end}" for name in _PLACE for end in ("low", "high")),
    "questions", "samples", "seeds", "decoding", "source",
]  # fmt: skip


def llms_of(records: pd.DataFrame) -> dict[str, str]:
    """The LLM of each pair: "LLM" of the pair "main", "LLM-..." of pairs of their own name."""
    names = sorted(name for name in records["system"].unique() if name.startswith("LLM"))
    return {"main" if name == "LLM" else name: name for name in names}


def table_pair(
    records: pd.DataFrame, llms: Mapping[str, str], targets: Mapping | None = None, **options
) -> pd.DataFrame:
    """Base SLM and LLM of each pair by group, and which figures lie outside the targets.

    Args:
        records: of "SLM" and the LLMs; the first decoding in them counts, and "greedy" for
            slm_auroc_greedy, which is NaN without it.
        llms: as from `llms_of`.
        targets: as in `data/base/targets.json`.

    Returns:
        `PAIR_COLUMNS` with their intervals: rho, the tetrachoric correlation of who is right;
        neither, the share that both get wrong; length_auroc, the AUROC of minus the number of
        prompt tokens for "the SLM is right". And in_targets, or outside what.
    """
    decoding, table = records["decoding"], []
    sampled = records[decoding == decoding.iloc[0]]
    greedily = groups_of(records[(decoding == "greedy") & (records["system"] == "SLM")])
    for pair, name in llms.items():
        llm = groups_of(sampled[sampled["system"] == name])
        for group, slm in groups_of(sampled[sampled["system"] == "SLM"]).items():
            draws = _pair_draws(slm, llm[group], greedily.get(group), **options)
            found = metrics.intervals({name: draws[name] for name in PAIR_COLUMNS})
            out = _outside(found, group, targets or {})
            verdict = {"in_targets": not out, "outside": ", ".join(out)}
            sizes = {"pair": pair, "group": group, **metrics.sizes(slm)}
            table.append({**sizes, **metrics.flat(found), **verdict})
    return pd.DataFrame(table)


def _pair_draws(
    slm: pd.DataFrame, llm: pd.DataFrame, greedily: pd.DataFrame | None, **options
) -> metrics.Draws:
    draws = metrics.set_draws(cascade.paired(slm, llm, ["correct"]), _answers, **options)["mean"]
    brevity = slm.assign(confidence=1 / (1 + slm["prompt_tokens"]))
    own, length = (metrics.set_draws(rows, **options)["mean"] for rows in (slm, brevity))
    draws |= {"slm_auroc_sampled": own["auroc"], "slm_ece": own["ece"]}
    draws |= {"length_auroc": length["auroc"], "slm_auroc_greedy": np.full(len(own["ece"]), np.nan)}
    if greedily is not None:
        draws["slm_auroc_greedy"] = metrics.set_draws(greedily, **options)["mean"]["auroc"]
    return draws


def _outside(found: Mapping[str, metrics.Interval], group: str, targets: Mapping) -> list[str]:
    """The figures of a group that are known, and outside its targets."""
    bounds = {**targets.get("groups", {}).get(group, {}), **targets.get("every_group", {})}
    ends = {name: [np.nan if end is None else end for end in each] for name, each in bounds.items()}
    return [n for n, (low, high) in ends.items() if found[n].value < low or found[n].value > high]


def _answers(rows: pd.DataFrame, **options) -> metrics.Draws:
    """Draws of one dataset, from columns slm_correct, llm_correct and confidence."""
    slm, llm = (rows[f"{side}_correct"].astype(float) for side in ("slm", "llm"))
    columns = {"slm": slm, "llm": llm, "right": slm * llm, "neither": (1 - slm) * (1 - llm)}
    draws = metrics.question_means(rows, columns, **options)
    together = draws["slm"], draws["llm"], draws.pop("right")
    draws |= {"rho": model.tetrachoric_of(*together, len(rows)), "gap": draws["llm"] - draws["slm"]}
    judged = rows["question_id"], slm, rows["confidence"]
    draws["auroc"] = metrics.bootstrap(*judged, **options)["auroc"]
    draws["llm_auroc"] = np.full(len(draws["slm"]), metrics.auroc(rows["confidence"], llm))
    return draws


def table_points(
    records: pd.DataFrame, prices: PriceList, llms: Mapping[str, str], **options
) -> pd.DataFrame:
    """The points of the map: what each system saves within 2 points, by pair and group.

    Args:
        records: by one decoding, of "L1-SLM", whose runs differ in `seed`, and of the LLMs, with
            the calibration split.
        llms: as from `llms_of`.

    Returns:
        Columns as of `point`. "Random" is a coin that is tossed before anyone is asked.
    """
    table = []
    for system in SYSTEMS:
        slms = groups_of(rows_of(system, records))
        for pair, name in llms.items():
            llm = records[records["system"] == name]
            how = {"before_generation": system.source in ROUTERS, **options}
            threshold = cascade.llm_pass1(llm[llm["group"] == CALIBRATION])
            for group, answers in groups_of(llm).items():
                found = point(slms[group], answers, prices, threshold, **how)
                about = {"kind": "mini", "pair": pair, "system": system.name, "group": group}
                about["decoding"] = answers["decoding"].iloc[0]
                table.append(about | found)
                if system is SYSTEMS[0]:
                    table.append(about | _coin(found) | {"system": COIN})
    table = pd.DataFrame(table)
    names = table["system"] + ", " + table["pair"] + ", " + table["group"]
    return table.assign(name=names).reindex(columns=POINT_COLUMNS)


def point(
    slm: pd.DataFrame,
    llm: pd.DataFrame,
    prices: PriceList,
    threshold: float = cascade.DEFER_ALL,
    *,
    before_generation: bool = False,
    **options,
) -> dict[str, float]:
    """One cascade as a point of the map, measured and forecast.

    Args:
        slm: records of the SLM, of all its seeds, with the confidence that decides.
        threshold: of the paper's rule.

    Returns:
        Place: gap, auroc, rho, with their ends; slm, llm (accuracies) and price (the SLM's cost
        over the LLM's). Saving within 2 points of the LLM: saving, low, high; predicted, from the
        place; difference, measured less predicted, the sum of what explains it: by_lumps (ties of
        the confidence), by_ranking (how right the SLM is at each confidence), by_llm (how right the
        LLM is there: what the confidence knows of it past the SLM), by_costs. llm_auroc, for "the
        LLM is right", and as predicted; coin, what a coin saves. By the paper's rule: saving and
        loss, the share kept; rule_predicted, if the confidence were calibrated;
        rule_loss_predicted, at the share kept.
    """
    rows = cascade.replay(slm, llm, threshold, prices, before_generation=before_generation)
    found = metrics.intervals(_measured(rows, before_generation, options))
    forecast = _forecast(rows, {n: each.value for n, each in found.items()}, before_generation)
    ends = {"low": found["saving"].low, "high": found["saving"].high}
    return metrics.flat(found) | ends | forecast | metrics.sizes(slm)


def _coin(found: Mapping[str, float]) -> dict[str, float]:
    """The point of a coin for the same answers; it falls as the gap rises, so ends change sides."""
    gap_low, gap, gap_high = (found[name] for name in ("gap_low", "gap", "gap_high"))
    low, saving, high = model.coin_saving([gap_high, gap, gap_low], found["price"])
    coin = dict.fromkeys(
        [*_WHY, *(n for n in found if n.startswith(("rule", "llm_auroc")))], np.nan
    )
    coin |= dict.fromkeys(("auroc", "auroc_low", "auroc_high"), 0.5)
    coin |= {"saving": saving, "low": low, "high": high, "predicted": saving, "difference": 0.0}
    return {**found, **coin}


def _measured(rows: pd.DataFrame, before_generation: bool, options: Mapping) -> metrics.Draws:
    draws = metrics.set_draws(rows, _answers, **options)["mean"]
    by_rule = cascade.set_draws(rows, resamples=0)["mean"]
    weights = metrics.row_weights(rows, **options)
    spent, near = weights @ rows["llm_cost"].to_numpy(), draws["llm"] - model.WITHIN
    how = {"before_generation": before_generation}
    (cost,) = cascade.cost_at_pass1(rows, weights, near, **how)
    draws |= {"price": weights @ rows["slm_cost"].to_numpy() / spent, "saving": 1 - cost / spent}
    draws |= {"rule_saving": by_rule["cost_reduction"], "rule_loss": by_rule["pass1_drop"]}
    return draws | {"rule_kept": 1 - by_rule["llm_share"]}


def _forecast(rows: pd.DataFrame, at: Mapping[str, float], before_generation: bool) -> dict:
    """What the model says at a place, and which of its parts the measured saving departs from."""
    how = {"before_generation": before_generation}
    place = [at[name] for name in ("slm", "llm", "auroc", "rho", "price")]
    smooth, by_rule = model.curve(*place, **how), model.by_rule(*place, **how)
    kept, slm, llm = _levels(rows)
    lumpy = model.curve(*place, kept=kept, **how)
    knows = model.correlation_of(at["auroc"], at["slm"], kept)
    llm_model = model.both(at["llm"], kept, knows * at["rho"])
    ranked, known = lumpy._replace(loss=llm_model - slm), lumpy._replace(loss=llm - slm)
    curves = (smooth, lumpy, ranked, known)
    savings = [float(model.largest_saving(curve, alone=True)) for curve in curves]
    steps = np.diff([*savings, at["saving"]])
    return {
        "predicted": savings[0],
        "difference": at["saving"] - savings[0],
        **dict(zip(_WHY, steps, strict=True)),
        "llm_auroc_predicted": float(model.auroc_of(knows * at["rho"], at["llm"], kept)),
        "coin": float(model.coin_saving(at["gap"], at["price"])),
        "rule_predicted": float(by_rule.saving),
        "rule_loss_predicted": float(np.interp(at["rule_kept"], smooth.kept, smooth.loss)),
    }


def _levels(rows: pd.DataFrame, most: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares kept, and kept and right by SLM and LLM, past each level of confidence from the top.

    Of more than `most` levels every n-th is used; an answer without a confidence is kept last.
    """
    weights = metrics.row_weights(rows, resamples=0)[0]
    columns = {"kept": weights, "slm": weights * rows["slm_correct"].to_numpy(dtype=float)}
    columns["llm"] = weights * rows["llm_correct"].to_numpy(dtype=float)
    level = -rows["confidence"].fillna(-1).to_numpy()
    sums = pd.DataFrame(columns).groupby(level).sum().cumsum().to_numpy()
    thinned = sums[:: -(1 + len(sums) // most)][::-1]  # the last stays: all are kept
    kept, slm, llm = np.vstack([np.zeros(3), thinned]).T
    return kept / kept[-1], slm, llm
