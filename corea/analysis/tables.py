"""The tables, from records: a row per system (or value of an ablation) and group.

_low and _high are ends of 95% intervals by the bootstrap, whose `resamples` and `seed` are
`options`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis.systems import COREA, EQUAL_RULE, Comparison, cells, groups_of
from corea.costs import PriceList

METRICS = ("pass1", "ece", "auroc", "brier")
NEAR = 0.02  # the paper's bound on what a cascade may lose
CLOSE = 0.05  # "within 5 points of the LLM": where the ablations' cascades are compared


def _with_ends(*names: str) -> list[str]:
    return [name + end for name in names for end in ("", "_low", "_high")]


_SIZES = ["questions", "samples", "seeds"]
SOURCE_COLUMNS = ["system", "group", *_SIZES, *_with_ends(*METRICS), "aurc", "levels", "parse_rate"]
SLM_COLUMNS = [*SOURCE_COLUMNS[:2], "dataset", *SOURCE_COLUMNS[2:], "completion_tokens"]
CASCADE_COLUMNS = [
    *SLM_COLUMNS[:6], "threshold", *_with_ends("pass1", "pass1_drop"), "cost",
    *_with_ends("cost_reduction"), "llm_share",
]  # fmt: skip


def table_slm(rows: pd.DataFrame | Mapping[str, pd.DataFrame], **options) -> pd.DataFrame:
    """Every system by itself on every dataset, then its mean over the datasets of each group.

    `rows` are records of stand-alone systems, or rows by system.
    """
    table = []
    for system, group, group_rows in cells(rows):
        tokens = group_rows.groupby("dataset")["completion_tokens"].mean()
        for dataset, intervals in metrics.evaluate_sets(group_rows, **options).items():
            row = {"system": system, "group": group, "dataset": dataset}
            row["completion_tokens"] = tokens.mean() if dataset == "mean" else tokens[dataset]
            table.append({**row, **_sizes(group_rows, dataset), **metrics.flat(intervals)})
    return pd.DataFrame(table, columns=SLM_COLUMNS)


def table_sources(compared: Comparison, **options) -> pd.DataFrame:
    """The mean rows of `table_slm`; no ECE or Brier score of scores, which are no probabilities."""
    table = table_slm(compared.rows, **options)
    table = table.loc[table["dataset"] == "mean", SOURCE_COLUMNS].reset_index(drop=True)
    of_probability = [name for name in table if name.startswith(("ece", "brier"))]
    table.loc[table["system"].isin(compared.scores), of_probability] = np.nan
    return table


def table_cascade(compared: Comparison, **options) -> pd.DataFrame:
    """Every system with the LLM behind it by every rule, on every dataset and each group's mean.

    A system has no rows by a rule that finds no threshold. Costs are in price units per 1,000
    questions; pass1_drop and cost_reduction are against the LLM, paired over questions.
    """
    tables, llm = [], groups_of(compared.llm)
    for rule, thresholds in compared.thresholds.items():
        for system, group, rows in cells(compared.rows):
            if np.isnan(thresholds[system]):
                continue
            if group not in llm:
                raise ValueError(f"no records of system 'LLM' on group {group!r} to compare with")
            how = {"before_generation": system in compared.routers, **options}
            sides = rows, llm[group], thresholds[system]
            table = cascade.evaluate_cascade(*sides, compared.prices, **how)
            seeds = [_sizes(rows, dataset)["seeds"] for dataset in table["dataset"]]
            tables.append(table.assign(rule=rule, system=system, group=group, seeds=seeds))
    table = pd.concat(tables, ignore_index=True)[["rule", *CASCADE_COLUMNS]]
    table.loc[table["system"] == "LLM", "threshold"] = np.nan
    return table


def table_change(records: pd.DataFrame, before: str, after: str, **options) -> pd.DataFrame:
    """What changed from one stand-alone system to another, by group, paired over questions."""
    table = []
    first, second = (groups_of(records[records["system"] == name]) for name in (before, after))
    for group in first:
        one, other = (metrics.evaluate_sets(g[group], **options)["mean"] for g in (first, second))
        change = metrics.paired_difference(second[group], first[group], **options)["mean"]
        for name in METRICS:
            d = change[name]
            verdict = metrics.verdict(d.low, d.high, words=("higher", "lower"))
            values = one[name].value, other[name].value, d.value, d.low, d.high
            table.append((group, name, *values, verdict))
    columns = ["group", "metric", "before", "after", "difference", "low", "high", "verdict"]
    return pd.DataFrame(table, columns=columns)


def table_equal_pass1(compared: Comparison, **options) -> pd.DataFrame:
    """What each system costs at COREA's Pass@1, as a share of the LLM's cost.

    Returns:
        From the whole *test* curve, COREA's too, so that sources and not thresholds are compared:
        cost, at COREA's Pass@1; saving, COREA's cost less it; closed, that over COREA's cost less
        the cheaper oracle's; cost_near, the cost 2 points under the LLM's Pass@1; reached, the
        share of resamples that reach COREA's Pass@1 (intervals are of those). At the threshold
        chosen on calibration questions, as one would run it: set_cost_saving and set_pass1_gain.
    """
    table, llm = [], groups_of(_sorted(compared.llm))
    by_system = {name: groups_of(_sorted(rows)) for name, rows in compared.rows.items()}
    # COREA's own; of others the cheapest that reaches COREA's Pass@1 on calibration questions.
    thresholds = pd.Series({**compared.thresholds[EQUAL_RULE], COREA: compared.threshold})
    for group, rows in by_system[COREA].items():
        replayed = {}
        for name, threshold in thresholds[[*by_system]].fillna(cascade.DEFER_ALL).items():
            sides = by_system[name][group], llm[group], threshold
            router = name in compared.routers
            replayed[name] = cascade.replay(*sides, compared.prices, before_generation=router)
        weights = metrics.row_weights(replayed[COREA], **options)
        sizes = {"group": group, "questions": _sizes(rows)["questions"]}
        for name, costs in _costs(replayed, weights, compared.routers).items():
            table.append({"system": name, **sizes, **costs})
    return pd.DataFrame(table)


def _costs(
    replayed: Mapping[str, pd.DataFrame], weights: np.ndarray, routers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The columns of `table_equal_pass1` from pass1 on, by system, for one group."""
    ours = replayed[COREA]
    spent, target = _mean(weights, ours["llm_cost"]), _mean(weights, ours["correct"])
    near = _mean(weights, ours["llm_correct"]) - NEAR
    costs = {}
    for name, rows in replayed.items():
        how = {"before_generation": name in routers}
        costs[name] = cascade.cost_at_pass1(rows, weights, target, near, **how) / spent
    before = costs[COREA][0]
    oracle = np.min([costs[name][0] for name in costs if name.startswith("Oracle")], axis=0)
    paid, columns = _mean(weights, ours["cost"]) / spent, {}
    for name, rows in replayed.items():
        equal, close = costs[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            closed = (before - equal) / (before - oracle)
        draws = {"cost": equal, "saving": before - equal, "closed": closed, "cost_near": close}
        draws["set_cost_saving"] = paid - _mean(weights, rows["cost"]) / spent
        draws["set_pass1_gain"] = _mean(weights, rows["correct"]) - target
        reached = float(np.mean(~np.isnan(equal)))
        ends = metrics.flat(metrics.intervals(draws))
        columns[name] = {"pass1": target[0], "reached": reached, **ends}
    return columns


def table_ablation(
    records: pd.DataFrame,
    logs: pd.DataFrame,
    llm: pd.DataFrame,
    axis: Mapping[str, str],
    reference: str,
    prices: Mapping[str, PriceList],
    **options,
) -> pd.DataFrame:
    """One ablation: each measure beside its paired difference to the reference run.

    Args:
        records: of the runs, `system` being the run.
        logs: columns run, step, metric, value.
        axis: run by label; a run without records has no row.
        prices: by run, as the runs' models may differ in size.

    Returns:
        `METRICS` and their differences (d_...); cost_close, the cascade's share of the LLM's cost
        at a Pass@1 of 5 points under the LLM's; the entropy (nats) of the stated confidence over
        the first and last ten steps.
    """
    runs = dict(tuple(records.groupby("system")))
    if reference not in runs:
        raise ValueError(f"the ablation has no records of its reference run {reference!r}")
    table, llm_groups, whole = [], groups_of(llm), groups_of(runs[reference])
    entropies = logs[logs["metric"] == "confidence entropy"].sort_values("step")
    for label, run in axis.items():
        entropy = entropies.loc[entropies["run"] == run, "value"]
        for group, rows in groups_of(runs[run]).items() if run in runs else ():
            values = metrics.evaluate_sets(rows, **options)["mean"]
            change = metrics.paired_difference(rows, whole[group], **options)["mean"]
            close = _cost_close(rows, llm_groups[group], prices[run], options)
            row = {"value": label, "run": run, "group": group, **_sizes(rows)}
            intervals = {name: values[name] for name in METRICS}
            intervals |= {f"d_{name}": change[name] for name in METRICS}
            row |= metrics.flat(intervals | {"cost_close": close})
            row |= {"entropy_first": entropy[:10].mean(), "entropy_last": entropy[-10:].mean()}
            table.append(row)
    return pd.DataFrame(table)


def _cost_close(
    rows: pd.DataFrame, llm: pd.DataFrame, prices: PriceList, options: Mapping
) -> metrics.Interval:
    same_samples = llm[llm["sample"].isin(rows["sample"].unique())]
    replayed = cascade.replay(_sorted(rows), _sorted(same_samples), 0.5, prices)
    weights = metrics.row_weights(replayed, **options)
    target = _mean(weights, replayed["llm_correct"]) - CLOSE
    (cost,) = cascade.cost_at_pass1(replayed, weights, target)
    return metrics.interval(cost / _mean(weights, replayed["llm_cost"]))


def table_seeds(records: Mapping[str, Sequence[pd.DataFrame]], **options) -> pd.DataFrame:
    """Seed-to-seed spread of systems, from each one's records of each training seed.

    seed_sd is the standard deviation (n - 1) over seeds, question_se the bootstrap standard error
    over questions of one seed (the mean over seeds).
    """
    table = []
    for system, runs in records.items():
        for group, rows in groups_of(runs[0]).items():
            sets = [metrics.set_draws(groups_of(run)[group], **options)["mean"] for run in runs]
            sizes = {"seeds": len(runs), "questions": _sizes(rows)["questions"]}
            for name in METRICS:
                draws = np.array([run_draws[name] for run_draws in sets])
                values = draws[:, 0]
                row = {"system": system, "group": group, "metric": name, **sizes}
                row |= {"mean": values.mean(), "lowest": values.min(), "highest": values.max()}
                row["seed_sd"] = values.std(ddof=1) if len(runs) > 1 else np.nan
                row["question_se"] = draws[:, 1:].std(axis=1).mean()
                table.append(row)
    return pd.DataFrame(table)


def _mean(weights: np.ndarray, column: pd.Series) -> np.ndarray:
    return weights @ column.to_numpy(dtype=float)


def _sorted(records: pd.DataFrame) -> pd.DataFrame:
    return records.sort_values(cascade.KEY, kind="stable", ignore_index=True)


def _sizes(rows: pd.DataFrame, dataset: str = "mean") -> dict[str, float]:
    """Questions, samples per question and different seeds, of one dataset or of all ("mean")."""
    rows = rows if dataset == "mean" else rows[rows["dataset"] == dataset]
    return {**metrics.sizes(rows), "seeds": rows["seed"].nunique()}
