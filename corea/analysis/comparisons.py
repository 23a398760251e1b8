"""Tables and figures that set many systems, ablations and seeds side by side, from records alone.

`corea.analysis.report` has the style, the files and the paper's two main tables; this room has what compares with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis import report
from corea.analysis.systems import COREA, COREA_PLUS, EQUAL_RULE, Comparison, Rules
from corea.costs import PriceList
from corea.questions.base import GROUPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("pass1", "ece", "auroc", "brier")
SOURCE_COLUMNS = [
    "system", "group", "questions", "samples", "seeds",
    *(name + end for name in METRICS for end in ("", "_low", "_high")), "aurc", "levels", "parse_rate",
]  # fmt: skip
NEAR = 0.02  # the paper's bound on what a cascade may lose
CLOSE = 0.05  # "within 5 points of the LLM": where the ablations' cascades are compared


# --- systems --------------------------------------------------------------------------------------


def table_sources(
    rows: Mapping[str, pd.DataFrame],
    *,
    scores: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How good each system's confidence is: the mean over the sets of each group, with 95% intervals over questions.

    rows: by system, as from `systems.all_rows`; scores: names of those that are no probabilities, whose ECE and Brier score
    mean nothing and are left out.
    """
    table = []
    for name, records in rows.items():
        for group, part in _groups(records):
            found = metrics.evaluate_sets(part, resamples=resamples, seed=seed)["mean"]
            table.append(
                {
                    "system": name,
                    "group": group,
                    **_sizes(part),
                    **_flat(found, (*METRICS, "aurc", "levels", "parse_rate")),
                }
            )
    found = pd.DataFrame(table)[SOURCE_COLUMNS]
    of_probability = [name for name in found if name.startswith(("ece", "brier"))]
    found.loc[found["system"].isin(scores), of_probability] = np.nan
    return found


def table_cascade(
    rows: Mapping[str, pd.DataFrame],
    llm: pd.DataFrame,
    rules: Rules,
    prices: PriceList,
    *,
    routers: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every cascade under every threshold rule, on every dataset and on the mean of each group.

    rows, llm: as for `systems.choose_thresholds`.  Columns: rule, then those of `report.CASCADE_COLUMNS`.  A system that no
    threshold of a rule fits has no row under it.
    """
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    tables = []
    theirs = dict(_groups(llm))
    for rule, thresholds in rules.thresholds.items():
        for name, records in rows.items():
            if np.isnan(thresholds[name]):
                continue
            for group, part in _groups(records):
                table = cascade.evaluate_cascade(
                    part,
                    theirs[group],
                    thresholds[name],
                    prices,
                    before_generation=name in routers,
                    **options,
                )
                tables.append(
                    table.assign(rule=rule, system=name, group=group, seeds=part["seed"].nunique())
                )
    return pd.concat(tables, ignore_index=True)[["rule", *report.CASCADE_COLUMNS]]


def row_weights(rows: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Weights of rows, (1 + resamples, rows), that make a weighted sum the mean over datasets of the mean over questions.

    The first draw is the data itself, the others resample the questions of each dataset, as `metrics.bootstrap` does.
    """
    found = np.zeros((1 + resamples, len(rows)))
    datasets = rows["dataset"].unique()
    for dataset in datasets:
        own = np.flatnonzero(rows["dataset"] == dataset)
        question, questions = metrics.numbered(rows["question_id"].to_numpy()[own], len(own))
        samples = np.bincount(question, minlength=questions)
        draws = np.concatenate(
            list(
                metrics.question_weights(questions, resamples, metrics.dataset_seed(seed, dataset))
            )
        )
        found[:, own] = draws[:, question] / (samples[question] * questions * len(datasets))
    return found


def table_equal_pass1(
    compared: Comparison, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """What each system costs at COREA's Pass@1, how much of COREA's gap to the oracle line that closes, and more.

    Costs are shares of the LLM's alone.  Columns, with intervals over questions: system, group, questions, pass1, COREA's at
    its threshold.  Read from the whole *test* curve, COREA's too, so that sources and not thresholds are compared
    (`cascade.cost_at_pass1`): cost; saving, COREA's cost less this one; closed, that over COREA's cost less the oracle's, the
    lower of the oracles; cost_near, the cost 2 points under the LLM's Pass@1; reached, the share of resamples in which the
    system reaches that Pass@1 at all (intervals are over those).  At the threshold chosen on calibration questions
    (`systems.EQUAL_RULE`), as one would run it: set_cost_saving and set_pass1_gain, against COREA.
    """
    table, theirs = [], dict(_groups(compared.llm))
    parts = {name: dict(_groups(records)) for name, records in compared.rows.items()}
    for group in parts[COREA]:
        replayed = {
            name: cascade.replay(
                _sorted(own[group]), _sorted(theirs[group]), _threshold(compared, name), compared.prices,
                before_generation=name in compared.routers,
            )
            for name, own in parts.items()
        }  # fmt: skip
        weights = row_weights(replayed[COREA], resamples=resamples, seed=seed)
        sizes = {"group": group, "questions": _sizes(parts[COREA][group])["questions"]}
        table += [
            {"system": name, **sizes, **row}
            for name, row in _costs(replayed, weights, compared).items()
        ]
    return pd.DataFrame(table)


def _threshold(compared: Comparison, name: str) -> float:
    """COREA's is the paper's; the others' are the cheapest that reach its Pass@1 on calibration questions."""
    if name == COREA:
        return compared.threshold
    found = compared.rules.thresholds[EQUAL_RULE][name]
    return cascade.DEFER_ALL if np.isnan(found) else found


def _costs(
    replayed: Mapping[str, pd.DataFrame], weights: np.ndarray, compared: Comparison
) -> dict[str, dict[str, float]]:
    """The columns of `table_equal_pass1` from pass1 on, by system, for one group."""
    ours = replayed[COREA]
    spent, target = (
        weights @ ours["llm_cost"].to_numpy(),
        weights @ ours["correct"].to_numpy(dtype=float),
    )
    paid = weights @ ours["cost"].to_numpy() / spent
    near = weights @ ours["llm_correct"].to_numpy(dtype=float) - NEAR
    cost = {
        name: [
            c / spent
            for c in cascade.cost_at_pass1(
                part, weights, target, near, before_generation=name in compared.routers
            )
        ]
        for name, part in replayed.items()
    }
    before = cost[COREA][0]
    oracle = np.minimum.reduce(
        [each[0] for name, each in cost.items() if name.startswith("Oracle")]
    )
    found = {}
    for name, (equal, close) in cost.items():
        part = replayed[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            closed = (before - equal) / (before - oracle)
        draws = {
            "cost": equal, "saving": before - equal, "closed": closed, "cost_near": close,
            "set_cost_saving": paid - weights @ part["cost"].to_numpy() / spent,
            "set_pass1_gain": weights @ part["correct"].to_numpy(dtype=float) - target,
        }  # fmt: skip
        found[name] = {"pass1": target[0], "reached": float(np.mean(~np.isnan(equal)))}
        found[name] |= _flat({n: metrics.interval(d) for n, d in draws.items()}, list(draws))
    return found


# --- ablations and seeds --------------------------------------------------------------------------


def table_ablation(
    records: pd.DataFrame,
    logs: pd.DataFrame,
    llm: pd.DataFrame,
    axis: Mapping[str, str],
    reference: str,
    prices: PriceList | Mapping[str, PriceList],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One ablation: a row for each value and group, each measure beside its paired difference to the reference run.

    records, logs: of the runs; axis: run by label (a label of `ablations.AXES`); prices: one list, or one by run where
    the runs' models differ in size.  Columns: value, run, group, sizes, pass1,
    ece, auroc, brier, their differences (d_...), cost_close, the cascade's cost as a share of the LLM's at a Pass@1 of
    5 points under the LLM's (each with interval), and the mean entropy of the stated confidence (nats) over the first and
    the last ten steps of training.
    """
    if reference not in set(records["system"]):
        raise ValueError(f"the ablation has no records of its reference run {reference!r}")
    table, options = [], {"resamples": resamples, "seed": seed}
    theirs, whole = dict(_groups(llm)), dict(_groups(records[records["system"] == reference]))
    for label, run in axis.items():
        if run not in set(records["system"]):
            continue
        for group, part in _groups(records[records["system"] == run]):
            row = {"value": label, "run": run, "group": group, **_sizes(part)}
            row |= _flat(metrics.evaluate_sets(part, **options)["mean"], METRICS)
            change = metrics.paired_difference(part, whole[group], **options)["mean"]
            row |= _flat(
                {f"d_{name}": change[name] for name in METRICS}, [f"d_{name}" for name in METRICS]
            )
            own = prices[run] if isinstance(prices, Mapping) else prices
            row |= _flat(
                {"cost_close": _cost_close(part, theirs[group], own, options)}, ["cost_close"]
            )
            table.append(row | _entropies(logs, run))
    return pd.DataFrame(table)


def _cost_close(
    part: pd.DataFrame, llm: pd.DataFrame, prices: PriceList, options: Mapping
) -> metrics.Interval:
    asked = llm[llm["sample"].isin(part["sample"].unique())]
    rows = cascade.replay(_sorted(part), _sorted(asked), 0.5, prices)
    weights = row_weights(rows, **options)
    target = weights @ rows["llm_correct"].to_numpy(dtype=float) - CLOSE
    return metrics.interval(
        cascade.cost_at_pass1(rows, weights, target)[0] / (weights @ rows["llm_cost"].to_numpy())
    )


def _entropies(logs: pd.DataFrame, run: str) -> dict[str, float]:
    own = logs[(logs["run"] == run) & (logs["metric"] == "confidence entropy")].sort_values("step")[
        "value"
    ]
    return {"entropy_first": own.head(10).mean(), "entropy_last": own.tail(10).mean()}


def table_seeds(
    records: Mapping[str, Sequence[pd.DataFrame]], *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Seed-to-seed spread of the main systems, apart from question-to-question intervals.

    records: for each system its records of each training seed.  Columns: system, group, metric, seeds, questions; mean,
    lowest and highest over seeds, their standard deviation (seed_sd, n - 1), and question_se, the bootstrap standard
    error over questions of one seed (the mean over seeds).
    """
    table = []
    for system, runs in records.items():
        for group in dict(_groups(runs[0])):
            draws = [_mean_draws(dict(_groups(run))[group], resamples, seed) for run in runs]
            for name in METRICS:
                values = np.array([each[name][0] for each in draws])
                table.append({
                    "system": system, "group": group, "metric": name, "seeds": len(runs),
                    "questions": _sizes(dict(_groups(runs[0]))[group])["questions"],
                    "mean": values.mean(), "lowest": values.min(), "highest": values.max(),
                    "seed_sd": values.std(ddof=1) if len(runs) > 1 else np.nan,
                    "question_se": np.mean([each[name][1:].std() for each in draws]),
                })  # fmt: skip
    return pd.DataFrame(table)


def _mean_draws(part: pd.DataFrame, resamples: int, seed: int) -> dict[str, np.ndarray]:
    return metrics.set_draws(part, {"resamples": resamples, "seed": seed})["mean"]


# --- figures --------------------------------------------------------------------------------------

_GROUP_LOOKS = {  # colour, marker, face: told apart in grey by marker and face
    "in-domain": ("#222222", "o", "#222222"),
    "ood-math": ("#0a4f8f", "s", "white"),
    "ood-nonmath": ("#b5541c", "^", "#b5541c"),
}
_LINES = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
)
_COLOURS = ("#0a4f8f", "#d3951b", "#b5541c", "#3a9e8c", "#a05195", "#6b6b6b", "#84a59d")
_POINTS = 256  # of a drawn curve: more cannot be told apart
_TITLES = {"pass1": "Pass@1", "ece": "ECE", "auroc": "AUROC", "brier": "Brier score"}


@report.styled
def sources_figure(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """ECE and AUROC of every confidence source with 95% intervals; a mark for each group.

    table: from `table_sources`.  Scores that are no probabilities have no ECE.
    """
    names = list(dict.fromkeys(table["system"]))[::-1]
    figure, grid = report.figure_grid(0.9 + 0.22 * len(names), 1, 2, sharey=True)
    for axes, name in zip(grid[0], ("ece", "auroc"), strict=True):
        known = table.dropna(subset=[name])
        for offset, (group, part) in zip(
            (0.22, 0, -0.22), known.groupby("group", sort=False), strict=False
        ):
            at = [names.index(system) + offset for system in part["system"]]
            _marks(
                axes,
                part[name],
                at,
                part[f"{name}_low"],
                part[f"{name}_high"],
                group,
                sideways=True,
            )
        axes.set_xlabel(
            f"{_TITLES[name]} ({'fraction, lower is better' if name == 'ece' else 'probability, higher is better'})"
        )
        axes.set_yticks(range(len(names)), names)
        for line in range(len(names) - 1):
            axes.axhline(line + 0.5, color="#e6e6e6", lw=0.5, zorder=0)
    grid[0, 1].axvline(0.5, color="#8a8a8a", lw=0.8, ls="--", zorder=0)
    report.legend(figure, grid[0, 0])
    return figure, table


@report.styled
def curves_figure(
    rows: Mapping[str, pd.DataFrame],
    llm: pd.DataFrame,
    threshold: float,
    prices: PriceList,
    routers: Sequence[str] = (),
) -> tuple[Figure, pd.DataFrame]:
    """Pass@1 against cost for every threshold of several systems; a panel for each group, as `report.cost_accuracy`.

    "Random" and "Oracle", where they are among the rows, are the thin lines below and above.  At most 256 thresholds are drawn.
    """
    theirs, drawn = dict(_groups(llm)), []
    groups = [group for group in GROUPS if group in theirs]
    figure, grid = report.figure_grid(2.9, 1, len(groups))
    named = [name for name in rows if name not in _FIXED_LOOKS]
    for axes, group in zip(grid[0], groups, strict=True):
        for name, records in rows.items():
            part = dict(_groups(records))[group]
            curve = report.mean_curve(part, theirs[group], prices, threshold, name in routers)
            curve = curve.iloc[
                np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(int))
            ]
            drawn.append(curve.assign(series=name, group=group))
            axes.plot(curve["cost"], curve["pass1"], label=_shown(name), **_curve_look(name, named))
        alone = theirs[group].groupby("dataset")["correct"].mean().mean()
        axes.plot(
            1,
            alone,
            "*",
            color="#222222",
            mec="white",
            mew=0.5,
            ms=9,
            zorder=5,
            ls="",
            label="LLM alone",
        )
        axes.set(title=group, xlabel="cost (% of the LLM alone)")
        axes.xaxis.set_major_formatter(report.percent())
        axes.yaxis.set_major_formatter(report.percent())
    grid[0, 0].set_ylabel("Pass@1 (%)")
    report.legend(figure, grid[0, 0])
    columns = ["group", "series", "threshold", "cost", "pass1", "llm_share"]
    return figure, pd.concat(drawn, ignore_index=True)[columns]


_FIXED_LOOKS = {
    COREA: {"color": "#0a4f8f", "ls": "-", "lw": 1.8},
    COREA_PLUS: {"color": "#a05195", "ls": (0, (6, 1.2)), "lw": 1.8},
    "Random": {"color": "#8a8a8a", "ls": "--", "lw": 0.8},
    "Oracle": {"color": "#8a8a8a", "ls": "-", "lw": 0.8},
}


def _curve_look(name: str, others: Sequence[str]) -> dict:
    """COREA, COREA+ and the two lines look the same in every figure; the others take turns."""
    if name in _FIXED_LOOKS:
        return _FIXED_LOOKS[name]
    colours, lines = (
        ("#b5541c", "#d3951b", "#3a9e8c", "#222222", "#7a6a4f", "#c77ca8"),
        (*_LINES[1:], "-."),
    )
    n = others.index(name)
    return {"color": colours[n % 6], "ls": lines[n % 7], "lw": 1}


def _shown(name: str) -> str:
    return f"{name} (COREA)" if name == COREA else name


@report.styled
def ablation_figure(
    table: pd.DataFrame, logs: pd.DataFrame, axis: Mapping[str, str], name: str, window: int = 9
) -> tuple[Figure, pd.DataFrame]:
    """One ablation: ECE, AUROC and Pass@1 against the value, by group; and the confidence's entropy over training.

    table: from `table_ablation`; logs: of the runs; axis: run by label; name: what is varied, for the axis.
    """
    labels = [label for label, run in axis.items() if run in set(table["run"])]
    figure, grid = report.figure_grid(2.35, 1, 4)
    for axes, metric in zip(grid[0], ("ece", "auroc", "pass1"), strict=False):
        for offset, (group, part) in zip(
            (-0.2, 0, 0.2), table.groupby("group", sort=False), strict=False
        ):
            at = [labels.index(label) + offset for label in part["value"]]
            _marks(axes, part[metric], at, part[f"{metric}_low"], part[f"{metric}_high"], group)
        crowded = sum(map(len, labels)) > 15
        axes.set_xticks(
            range(len(labels)),
            labels,
            rotation=35 if crowded else 0,
            ha="right" if crowded else "center",
        )
        axes.set(title=_TITLES[metric], xlabel=name, xlim=(-0.6, len(labels) - 0.4))
    drawn = logs[(logs["metric"] == "confidence entropy") & logs["run"].isin(axis.values())]
    for n, label in enumerate(labels):
        line = drawn[drawn["run"] == axis[label]].sort_values("step")
        smooth = line["value"].rolling(window, center=True, min_periods=1).mean()
        grid[0, 3].plot(
            line["step"], smooth, color=_COLOURS[n % 7], ls=_LINES[n % 7], lw=1, label=label
        )
    grid[0, 3].set(title="confidence entropy", xlabel="GRPO step", ylabel="nats")
    _legend_below_lines(grid[0, 3], labels)
    grid[0, 0].set_ylabel("fraction")
    report.legend(figure, grid[0, 0])
    return figure, table


def _legend_below_lines(axes, labels: Sequence[str]) -> None:
    """A small legend in room made for it under the lines, where it covers nothing."""
    columns = 2 if max(map(len, labels)) <= 7 else 1
    low, high = axes.get_ylim()
    axes.set_ylim(low - (high - low) * 0.13 * -(-len(labels) // columns), high)
    axes.legend(
        fontsize=6.5,
        handlelength=2,
        labelspacing=0.2,
        columnspacing=0.8,
        borderaxespad=0.3,
        loc="lower left",
        ncols=columns,
    )


@report.styled
def seeds_figure(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Range over training seeds (thick) inside the question-to-question interval of one seed (thin); by system and group.

    table: from `table_seeds`.
    """
    systems = list(dict.fromkeys(table["system"]))
    figure, grid = report.figure_grid(2.3, 1, 3)
    for axes, metric in zip(grid[0], ("ece", "auroc", "pass1"), strict=True):
        own = table[table["metric"] == metric]
        for offset, (group, part) in zip(
            (-0.22, 0, 0.22), own.groupby("group", sort=False), strict=False
        ):
            at = np.array([systems.index(system) + offset for system in part["system"]])
            colour = _GROUP_LOOKS[group][0]
            axes.vlines(at, part["lowest"], part["highest"], color=colour, lw=3.2, alpha=0.45)
            spread = 1.96 * part["question_se"]
            _marks(axes, part["mean"], at, part["mean"] - spread, part["mean"] + spread, group)
        axes.set_xticks(range(len(systems)), systems)
        axes.set(title=_TITLES[metric], xlim=(-0.6, len(systems) - 0.4))
    grid[0, 0].set_ylabel("fraction")
    report.legend(
        figure,
        grid[0, 0],
        "thick: range over training seeds; thin: 95% interval over questions of one seed",
    )
    return figure, table


def _marks(axes, values, at, low, high, group: str, sideways: bool = False) -> None:
    colour, marker, face = _GROUP_LOOKS.get(group, ("#222222", "o", "white"))
    spread = np.abs(np.array([values - low, high - values]))
    where = (
        {"x": values, "y": at, "xerr": spread}
        if sideways
        else {"x": at, "y": values, "yerr": spread}
    )
    axes.errorbar(
        **where, fmt=marker, color=colour, mfc=face, ms=3.6, mew=0.8, elinewidth=0.8, capsize=0, label=group
    )  # fmt: skip


def _groups(records: pd.DataFrame):
    """(group, its rows) in the order of the tables, without the calibration split."""
    found = set(records["group"])
    return [(group, records[records["group"] == group]) for group in GROUPS if group in found]


def _sorted(records: pd.DataFrame) -> pd.DataFrame:
    return records.sort_values(cascade.KEY, kind="stable", ignore_index=True)


def _sizes(part: pd.DataFrame) -> dict[str, int]:
    questions = len(part[["dataset", "question_id"]].drop_duplicates())
    return {
        "questions": questions,
        "samples": round(len(part) / questions),
        "seeds": part["seed"].nunique(),
    }


def _flat(found: Mapping[str, metrics.Interval], names: Sequence[str]) -> dict[str, float]:
    """name, name_low and name_high of each interval."""
    table: dict[str, float] = {}
    for name in names:
        each = found[name]
        table |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return table
