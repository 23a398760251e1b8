"""The tables, from records: a row per system (or value of an ablation) and group.

_low and _high are ends of 95% intervals by the bootstrap over questions and seeds, whose
`resamples` and `seed` are `options`; _low_families and _high_families, of means over a group, are
those of a bootstrap over families of questions as well.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis.sources import NUMERALS, with_numeral
from corea.analysis.systems import COREA, EQUAL_RULE, Comparison, cells, groups_of, one_decoding
from corea.costs import PriceList

METRICS = ("pass1", "ece", "auroc", "brier")
NEAR = 0.02  # the paper's bound on what a cascade may lose
CLOSE = 0.05  # "within 5 points of the LLM": where the ablations' cascades are compared


def _with_ends(*names: str) -> list[str]:
    return [name + end for name in names for end in ("", "_low", "_high")]


_SIZES = ["questions", "samples", "seeds"]
_MEASURED = [*_SIZES, *_with_ends(*METRICS), "aurc", "levels", "parse_rate"]
_OF_FAMILIES = ("_low_families", "_high_families")
_KEY = ["group", "dataset", "decoding", "numeral"]
SOURCE_COLUMNS = ["system", "kind", "group", *_MEASURED, *_with_ends("rescue_auroc")]
SLM_COLUMNS = [
    "system", *_KEY, *_MEASURED, "completion_tokens",
    *(name + end for name in METRICS for end in _OF_FAMILIES),
]  # fmt: skip
CASCADE_COLUMNS = [
    "system", "kind", *_KEY, *_SIZES, "threshold", "second", "second_share",
    *_with_ends("pass1", "pass1_drop"), "cost", *_with_ends("cost_reduction"), "llm_share",
    *(name + end for name in ("pass1", "pass1_drop", "cost_reduction") for end in _OF_FAMILIES),
]  # fmt: skip


def table_slm(records: pd.DataFrame, **options) -> pd.DataFrame:
    """Every system by itself on every dataset, then its mean over the datasets of each group.

    By each decoding of the records, and each of `NUMERALS` if they hold what is read for it.
    """
    read = readings(records)
    return pd.concat([_table_sets(rows, **options) for rows in read], ignore_index=True)


def readings(records: pd.DataFrame) -> list[pd.DataFrame]:
    """Records by decoding and numeral, the first decoding's sampled first."""
    numerals = NUMERALS if records["numerals"].notna().any() else NUMERALS[:1]
    by_decoding = records.groupby("decoding", sort=False)
    return [with_numeral(rows, name) for _, rows in by_decoding for name in numerals]


def _table_sets(rows: pd.DataFrame | Mapping[str, pd.DataFrame], **options) -> pd.DataFrame:
    """Rows of `table_slm` from records of one decoding, or from rows by system."""
    table = []
    for system, group, group_rows in cells(rows):
        tokens = group_rows.groupby("dataset")["completion_tokens"].mean()
        sets = metrics.set_draws(group_rows, **options)
        for dataset, draws in sets.items():
            of_set = group_rows["dataset"].isin([dataset] if dataset in tokens else tokens.index)
            row = {**_named(system, group, group_rows), "dataset": dataset}
            row["completion_tokens"] = tokens.get(dataset, tokens.mean())
            row |= metrics.sizes(group_rows[of_set]) | metrics.flat(metrics.intervals(draws))
            table.append(row)
        table[-1] |= metrics.family_ends(metrics.family_draws(group_rows, sets, **options))
    return pd.DataFrame(table, columns=SLM_COLUMNS)


def _named(system: str, group: str, rows: pd.DataFrame) -> dict:
    """What a row of a table is about."""
    numeral = rows["numeral"].iloc[0] if "numeral" in rows else NUMERALS[0]
    decoding = {"decoding": one_decoding(rows), "numeral": numeral}
    return {"system": system, "group": group, **decoding}


def table_sources(compared: Comparison, **options) -> pd.DataFrame:
    """The mean rows of `table_slm`; no ECE or Brier score of scores, which are no probabilities.

    rescue_auroc is the AUROC for what a deferral is worth: that an answer which the LLM would
    mend (SLM wrong, LLM right) is less confident than one which it would not.
    """
    table = _table_sets(compared.rows, **options)
    table = table[table["dataset"] == "mean"].reset_index(drop=True)
    of_probability = [name for name in table if name.startswith(("ece", "brier"))]
    table.loc[table["system"].isin(compared.scores), of_probability] = np.nan
    llm, rescues = groups_of(compared.llm), []
    for _, group, rows in cells(compared.rows):
        pairs = cascade.paired(rows, llm[group], ["correct"])
        useless = pairs["slm_correct"].astype(bool) | ~pairs["llm_correct"].astype(bool)
        auroc = metrics.set_draws(pairs.assign(correct=useless), **options)["mean"]["auroc"]
        rescues.append(metrics.flat({"rescue_auroc": metrics.interval(auroc)}))
    kinds = table["system"].map(compared.kinds).fillna("paper")
    return table.assign(kind=kinds, **pd.DataFrame(rescues))[SOURCE_COLUMNS]


def table_cascade(*compared: Comparison, **options) -> pd.DataFrame:
    """Every system with the LLM behind it by every rule, on every dataset and each group's mean.

    A system has no rows by a rule that finds no threshold. By the rules of equal cost and of equal
    accuracy a coin takes the `second` threshold for `second_share` of the questions; a threshold
    that is missing is the LLM alone. Costs are in price units per 1,000 questions; pass1_drop and
    cost_reduction are against the LLM, paired over questions.
    """
    rules = [(each, rule) for each in compared for rule in each.thresholds]
    tables = [table for each, rule in rules for table in _rows_of_rule(each, rule, options)]
    table = pd.concat(tables, ignore_index=True)[["rule", *CASCADE_COLUMNS]]
    table.loc[table["system"] == "LLM", "threshold"] = np.nan
    return table


def _rows_of_rule(compared: Comparison, rule: str, options: Mapping) -> list[pd.DataFrame]:
    tables, llm = [], groups_of(compared.llm)
    for system, group, rows in cells(compared.rows):
        if (policy := compared.thresholds[rule].get(system)) is None:
            continue
        if group not in llm:
            raise ValueError(f"no records of system 'LLM' on group {group!r} to compare with")
        how = {"before_generation": system in compared.routers, "families": True, **options}
        table = cascade.evaluate_cascade(rows, llm[group], policy, compared.prices, **how)
        coin = policy if isinstance(policy, cascade.Mix) else cascade.Mix(policy, np.nan, 0.0)
        table["second"], table["second_share"] = coin.second if coin.share else np.nan, coin.share
        table["kind"] = compared.kinds.get(system, "paper")
        tables.append(table.assign(rule=rule, **_named(system, group, rows)))
    return tables


def table_change(records: pd.DataFrame, before: str, after: str, **options) -> pd.DataFrame:
    """What changed from one stand-alone system to another, by group, paired over questions.

    By each decoding of the records and each numeral, as `table_slm`; seeds are those of `after`.
    """
    table, plain = [], {**options, "resamples": 0}
    for read in readings(records):
        first, second = (groups_of(read[read["system"] == name]) for name in (before, after))
        for group, rows in second.items():
            old, new = (metrics.evaluate_sets(g, **plain)["mean"] for g in (first[group], rows))
            change = metrics.paired_difference(rows, first[group], **options)["mean"]
            row = _named(f"{after} - {before}", group, rows) | metrics.sizes(rows)
            for name, d in change.items():
                verdict = metrics.verdict(d.low, d.high, words=("higher", "lower"))
                values = {"before": old[name].value, "after": new[name].value}
                values |= metrics.flat({"difference": d})
                table.append({**row, "metric": name, **values, "verdict": verdict})
    changed = pd.DataFrame(table)
    return changed[changed["metric"].isin(METRICS)].drop(columns="system").reset_index(drop=True)


def table_equal_pass1(compared: Comparison, **options) -> pd.DataFrame:
    """What each system costs at COREA's Pass@1, as a share of the LLM's cost.

    Returns:
        From the whole *test* curve, COREA's too, so that sources and not thresholds are compared,
        as by `cascade.cost_at_pass1`: cost, at COREA's Pass@1; saving, COREA's cost less it;
        closed, that over COREA's cost less the cheaper oracle's; cost_near, the cost 2 points under
        the LLM's Pass@1; reached, the share of resamples that reach COREA's Pass@1 (intervals are
        of those). By the mix chosen on calibration questions, as one would run it:
        set_cost_saving and set_pass1_gain.
    """
    table, llm = [], groups_of(_sorted(compared.llm))
    by_system = {name: groups_of(_sorted(rows)) for name, rows in compared.rows.items()}
    # COREA's own; of others the cheapest that reaches COREA's Pass@1 on calibration questions.
    thresholds = {**compared.thresholds[EQUAL_RULE], COREA: compared.threshold}
    alone = cascade.Mix(cascade.LLM_ALONE, cascade.LLM_ALONE, 0.0)
    for group in by_system[COREA]:
        replayed = {}
        for name in by_system:
            sides = by_system[name][group], llm[group], thresholds.get(name, alone)
            router = name in compared.routers
            replayed[name] = cascade.replay(*sides, compared.prices, before_generation=router)
        for name, costs in _costs(replayed, compared.routers, options).items():
            about = {"system": name, "kind": compared.kinds.get(name, "paper"), "group": group}
            table.append({**about, **metrics.sizes(replayed[name]), **costs})
    return pd.DataFrame(table)


def _costs(
    replayed: Mapping[str, pd.DataFrame], routers: Sequence[str], options: Mapping
) -> dict[str, dict[str, float]]:
    """The columns of `table_equal_pass1` from pass1 on, by system, for one group."""
    ours = replayed[COREA]
    by_size = {len(rows): rows for rows in replayed.values()}  # systems of as many seeds are alike
    alike = {n: metrics.row_weights(rows, **options) for n, rows in by_size.items()}
    weights = alike[len(ours)]
    spent, target = _mean(weights, ours["llm_cost"]), _mean(weights, ours["correct"])
    near = _mean(weights, ours["llm_correct"]) - NEAR
    costs = {}
    for name, rows in replayed.items():
        how = {"before_generation": name in routers}
        costs[name] = cascade.cost_at_pass1(rows, alike[len(rows)], target, near, **how) / spent
    before = costs[COREA][0]
    oracle = np.min([costs[name][0] for name in costs if name.startswith("Oracle")], axis=0)
    paid, columns = _mean(weights, ours["cost"]) / spent, {}
    for name, rows in replayed.items():
        equal, close = costs[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            closed = (before - equal) / (before - oracle)
        draws = {"cost": equal, "saving": before - equal, "closed": closed, "cost_near": close}
        own = alike[len(rows)]
        draws["set_cost_saving"] = paid - _mean(own, rows["cost"]) / spent
        draws["set_pass1_gain"] = _mean(own, rows["correct"]) - target
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
            row = {"value": label, "run": run, "group": group, **metrics.sizes(rows)}
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


def table_seeds(records: pd.DataFrame, **options) -> pd.DataFrame:
    """Seed-to-seed spread of systems, from their records of each training seed.

    seed_sd is the standard deviation (n - 1) over seeds, question_se the bootstrap standard error
    over questions of one seed (the mean over seeds).
    """
    table = []
    for system, group, rows in cells(records):
        sets = [metrics.set_draws(run, **options)["mean"] for _, run in rows.groupby("seed")]
        sizes = {"seeds": len(sets), "questions": metrics.sizes(rows)["questions"]}
        for name in METRICS:
            draws = np.array([run_draws[name] for run_draws in sets])
            values = draws[:, 0]
            row = {"system": system, "group": group, "metric": name, **sizes}
            row |= {"mean": values.mean(), "lowest": values.min(), "highest": values.max()}
            row["seed_sd"] = values.std(ddof=1) if len(sets) > 1 else np.nan
            row["question_se"] = draws[:, 1:].std(axis=1).mean()
            table.append(row)
    return pd.DataFrame(table)


def _mean(weights: np.ndarray, column: pd.Series) -> np.ndarray:
    return weights @ column.to_numpy(dtype=float)


def _sorted(records: pd.DataFrame) -> pd.DataFrame:
    return records.sort_values([*cascade.KEY, "seed"], kind="stable", ignore_index=True)
