"""The figures, from records or from tables: each function gives a figure and the numbers drawn."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis import style
from corea.analysis.systems import COREA, Comparison, cells, groups_of, mean_curve, ordered
from corea.costs import PriceList
from corea.questions.base import GROUPS

_TENTHS = np.array([0.0, *(np.arange(5, 100, 10) / 100), 1.0])  # a bin around each of 0, .1, ..., 1
_RAREST = 0.005  # a bin of fewer answers is noise, and would draw the eye
_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_POINTS = 256  # of a drawn curve: more cannot be told apart
_TITLES = {"pass1": "Pass@1", "ece": "ECE", "auroc": "AUROC"}
_UNITS = {
    "accuracy": "share of rollouts", "format": "mean reward", "confidence reward": "mean reward",
    "total reward": "mean reward", "mean confidence": "probability", "confidence entropy": "nats",
    "completion tokens": "per completion", "KL to base": "nats per token",
}  # fmt: skip
BLOCKS = {  # blocks of claims, by how sure it is who claims them
    "the paper, firm": ("firm",),
    "the paper, other": ("likely", "weak"),
    "others, and ours": ("counter", "ours"),
}
_VERDICTS: dict[str, dict[str, Any]] = {
    "reproduced": {"marker": "o", "color": style.BLUE},
    "undecided": {"marker": "s", "color": style.GREY, "mfc": "white"},
    "contradicted": {"marker": "X", "color": style.BROWN},
}
_RIGHT: dict[str, Any] = {"fc": style.BLUE, "ec": style.BLUE, "lw": 0.5}
_WRONG: dict[str, Any] = {"fc": "white", "ec": style.BROWN, "lw": 0.5, "hatch": "//////"}


@style.styled
def reliability(records: pd.DataFrame, systems: Sequence[str] = ("SLM", "L1-SLM")) -> style.Drawing:
    """Accuracy against stated confidence, binned around 0, .1, ..., 1; a panel for each group.

    Bins of under half a percent of answers are only in the numbers. The answers of a group's
    datasets and seeds are pooled, but the ECE in the titles is the mean over them.
    """
    drawn, by_group = [], cells(records[records["system"].isin(systems)])
    figure, panels = style.group_panels([group for _, group, _ in by_group], 3.1, sharey=True)
    for system, group, rows in by_group:
        bins = metrics.reliability(rows["confidence"], rows["correct"], bins=_TENTHS)
        bins = bins.assign(system=system, group=group, share=bins["count"] / len(rows))
        drawn.append(bins)
        axes, shown = panels[group], bins[bins["share"] >= _RAREST]
        colour, line, marker = style.look(system)
        face = colour if system == systems[-1] else "white"
        at, area = (shown["confidence"], shown["accuracy"]), _area(shown["share"])
        axes.plot(*at, color=colour, ls=line, lw=0.9)
        axes.scatter(*at, area, marker=marker, fc=face, ec=colour, zorder=3, clip_on=False)
        axes.plot([], [], marker, color=colour, ls=line, mfc=face, ms=4.5, label=system)
        value = metrics.evaluate_sets(rows, resamples=0)["mean"]["ece"].value
        axes.set_title(f"{axes.get_title()}\nECE {value:.2f}  {system}")
    for axes in panels.values():
        axes.plot([0, 1], [0, 1], color=style.GREY, lw=0.6, zorder=0)
        for share, label in ((0.05, "5% of answers"), (0.25, "25% of answers")):
            axes.scatter([], [], _area(share), fc="white", ec=style.GREY, label=label)
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
        axes.set(xticks=_TICKS, yticks=_TICKS, xlabel="stated confidence (probability)")
    figure.axes[0].set_ylabel("accuracy (share of answers)")
    style.legend(figure)
    return figure, pd.concat(drawn, ignore_index=True)


def _area(share):
    """Marker area in square points for a share of answers."""
    return 4 + 260 * np.asarray(share)


@style.styled
def confidence_histograms(
    records: pd.DataFrame, systems: Sequence[str] = ("SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM")
) -> style.Drawing:
    """How often each confidence, or none, is stated, by right and wrong; systems down."""
    shares = {
        (system, group): _confidence_shares(rows).assign(system=system, group=group)
        for system, group, rows in cells(records[records["system"].isin(systems)])
    }
    rows = ordered(system for system, _ in shares)
    groups = [name for name in GROUPS if name in {group for _, group in shares}]
    size = 0.75 + 1.05 * len(rows), len(rows), len(groups)
    figure, grid = style.grid(*size, sharex=True, sharey=True)
    for (system, group), bars in shares.items():
        axes = grid[rows.index(system), groups.index(group)]
        at = bars["level"].fillna(-0.15)
        axes.bar(at, bars["right"], 0.08, label="right", **_RIGHT)
        axes.bar(at, bars["wrong"], 0.08, bottom=bars["right"], label="wrong", **_WRONG)
        axes.yaxis.set_major_formatter(style.percent)
        axes.set_xticks([-0.15, *_TICKS], ["none", *map(str, _TICKS)])
        axes.set(xlabel="stated confidence (probability)", ylabel=f"{system}\nanswers (%)")
        axes.set_title(group if system == rows[0] else "")
        axes.label_outer()
    style.legend(figure)
    return figure, pd.concat(shares.values(), ignore_index=True)


def _confidence_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of all answers, right and wrong, at each tenth of confidence; level NaN: none."""
    bins = metrics.reliability(rows["confidence"], rows["correct"], bins=_TENTHS)
    right = bins["count"] * bins["accuracy"]
    level = ((bins["low"] + bins["high"]) / 2).round(1)
    table = pd.DataFrame({"level": level, "right": right, "wrong": bins["count"] - right})
    silent = rows.loc[rows["confidence"].isna(), "correct"]
    table.loc[len(table)] = [np.nan, silent.sum(), (~silent).sum()]
    table[["right", "wrong"]] /= len(rows)
    return table


@style.styled
def training_curves(log: pd.DataFrame) -> style.Drawing:
    """Each metric of a training log (columns run, step, metric, value); a line for each run."""
    log = log[log["metric"].isin(_UNITS)].sort_values(["metric", "run", "step"])
    names = [name for name in _UNITS if name in set(log["metric"])]
    if not names:
        raise ValueError(f"the log holds none of the metrics {', '.join(_UNITS)}")
    log = log.assign(running_mean=_smooth(log, 15))
    down = -(-len(names) // 4)
    figure, grid = style.grid(0.6 + 1.5 * down, down, 4, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        for run in ordered(log["run"]):
            line = log[(log["metric"] == name) & (log["run"] == run)]
            colour, dashes, _ = style.look(run)
            axes.plot(line["step"], line["value"], color=colour, lw=0.5, alpha=0.25)
            axes.plot(line["step"], line["running_mean"], color=colour, ls=dashes, label=run)
        axes.set(title=name, ylabel=_UNITS[name])
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("GRPO step")
    style.legend(figure, "strong lines: mean over 15 logged steps")
    return figure, log.reset_index(drop=True)


def _smooth(log: pd.DataFrame, window: int) -> pd.Series:
    """The running mean of each run's metrics, centred."""
    values = log.groupby(["metric", "run"])["value"]
    return values.transform(lambda v: v.rolling(window, center=True, min_periods=1).mean())


@style.styled
def cost_curves(compared: Comparison, *, baseline: str | None = None) -> style.Drawing:
    """Pass@1 against cost for every threshold of several systems; a panel for each group.

    Args:
        compared: "Random" and "Oracle" are thin lines, "LLM" is a point.
        baseline: a system, to draw its SLM by itself, the line of deferring a random share of its
            questions, and a marker at the paper's threshold on every curve.
    """
    rows, llm = dict(compared.rows), groups_of(compared.llm)
    rows.pop("LLM", None)
    threshold, prices, drawn = compared.threshold, compared.prices, []
    for name, group, slm in cells(rows):
        curve = mean_curve(slm, llm[group], prices, threshold, name in compared.routers)
        curve["marked"] = (curve["threshold"] == threshold) & (baseline is not None)
        curve = _ending_at_the_llm(curve)
        kept = np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(int))
        drawn.append(curve.iloc[kept].assign(series=name, group=group))
    for group, slm in groups_of(rows[baseline or next(iter(rows))]).items():
        alone = _alone(slm, llm[group], prices).assign(group=group)
        drawn.append(alone if baseline else alone[alone["series"] == "LLM"])
    figure, panels = style.group_panels(llm, 2.9)
    for curve in drawn:
        _draw_curve(panels[curve["group"].iloc[0]], curve, list(rows), baseline is not None)
    for axes in panels.values():
        axes.set_xlabel("cost (% of the LLM alone)")
        axes.xaxis.set_major_formatter(style.percent)
        axes.yaxis.set_major_formatter(style.percent)
    figure.axes[0].set_ylabel("Pass@1 (%)")
    style.legend(figure, "marker on a curve: the threshold used" if baseline else None)
    columns = ["group", "series", "threshold", "marked", "cost", "pass1", "llm_share"]
    numbers = pd.concat(drawn, ignore_index=True)[columns]
    if baseline is None:
        numbers = numbers[numbers["series"] != "LLM"].drop(columns="marked")
        numbers = pd.concat(groups_of(numbers).values(), ignore_index=True)
    return figure, numbers


def _draw_curve(axes, curve: pd.DataFrame, names: Sequence[str], marked: bool) -> None:
    for series, line in curve.groupby("series", sort=False):
        label = f"{series} alone" if series in ("SLM", "LLM") else str(series)
        colour, dashes, marker = style.look(label, names)
        is_point = len(line) == 1
        at = [0] if is_point else np.flatnonzero(line["marked"].eq(True) & marked).tolist()
        look: dict[str, Any] = {"marker": marker if at else "", "markevery": at or None}
        look |= {"ms": 9 if is_point and marker == "*" else 6, "zorder": 5 if is_point else 2}
        width = 1.8 if series in (COREA, "COREA+") else 0.8 if colour == style.GREY else 1.1
        look |= {"color": colour, "ls": dashes, "lw": width, "mec": "white", "mew": 0.6}
        label = f"{label} (COREA)" if series == COREA else label
        axes.plot(line["cost"], line["pass1"], label=label, **look)


def _ending_at_the_llm(curve: pd.DataFrame) -> pd.DataFrame:
    """A curve that ends with the LLM alone, without points that a coin between another threshold
    and the LLM alone outdoes; the marked one stays."""
    llm, cost, pass1 = curve["pass1"].iloc[-1], curve["cost"], curve["pass1"]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = ((llm - pass1) / (1 - cost)).where(cost < 1)
    best = slopes.idxmin() if slopes.notna().any() else None
    line = llm if best is None else llm - slopes[best] * (1 - cost).clip(lower=0)
    after = cost > (-np.inf if best is None else cost[best])
    kept = curve[~after | (pass1 > line + 1e-12) | curve["marked"]]
    end = {"cost": 1.0, "pass1": llm, "llm_share": 1.0, "threshold": np.nan, "marked": False}
    dearer = kept["cost"] > 1
    return pd.concat([kept[~dearer], pd.DataFrame([end]), kept[dearer]], ignore_index=True)


def _alone(slm: pd.DataFrame, llm: pd.DataFrame, prices: PriceList) -> pd.DataFrame:
    """The two models alone, and the line of sending a random share of questions to the LLM."""
    rows = cascade.replay(slm, llm, cascade.DEFER_ALL, prices)
    sets = rows.groupby("dataset")[["slm_correct", "llm_correct", "slm_cost", "llm_cost"]].mean()
    sets["slm_cost"] /= sets["llm_cost"]
    mean, share = sets.mean(), np.linspace(0, 1, 11)
    pass1 = (1 - share) * mean["slm_correct"] + share * mean["llm_correct"]
    cost = (1 - share) * mean["slm_cost"] + share  # the coin is tossed before the SLM is asked
    line = pd.DataFrame({"pass1": pass1, "cost": cost, "llm_share": share})
    ends = line.iloc[[0, -1]].assign(series=["SLM", "LLM"])
    table = pd.concat([line.assign(series="random deferral"), ends])
    return table.assign(threshold=np.nan, marked=None)


@style.styled
def sources_figure(table: pd.DataFrame) -> style.Drawing:
    """ECE and AUROC of every confidence source in `tables.table_sources`; a mark for each group."""
    names = list(dict.fromkeys(table["system"]))[::-1]
    figure, grid = style.grid(0.9 + 0.22 * len(names), 1, 2, sharey=True)
    for axes, name in zip(grid[0], ("ece", "auroc"), strict=True):
        _marks(axes, table, name, "system", names, along="x")
        axes.set_yticks(range(len(names)), names)
        for line in range(len(names) - 1):
            axes.axhline(line + 0.5, color="#e6e6e6", lw=0.5, zorder=0)
    grid[0, 0].set_xlabel("ECE (fraction, lower is better)")
    grid[0, 1].set_xlabel("AUROC (probability, higher is better)")
    grid[0, 1].axvline(0.5, color=style.GREY, lw=0.8, ls="--", zorder=0)
    style.legend(figure)
    return figure, table


@style.styled
def decodings_figure(table: pd.DataFrame) -> style.Drawing:
    """`tables.table_change`: the change of ECE and AUROC by decoding and numeral."""
    names = table["decoding"] + ", numeral " + table["numeral"]
    order = list(dict.fromkeys(names))[::-1]
    figure, grid = style.grid(0.9 + 0.3 * len(order), 1, 2, sharey=True)
    for axes, metric in zip(grid[0], ("ece", "auroc"), strict=True):
        rows = table.assign(read=names)[table["metric"] == metric]
        _marks(axes, rows, "difference", "read", order, along="x")
        axes.set_yticks(range(len(order)), order)
        axes.axvline(0, color=style.GREY, lw=0.8, ls="--", zorder=0)
        axes.set_xlabel(f"change of {_TITLES[metric]} (fraction)")
    grid[0, 0].set_ylabel("how answer and numeral are decoded")
    style.legend(figure)
    return figure, table


@style.styled
def guarantee_figure(table: pd.DataFrame, names: Sequence[str]) -> style.Drawing:
    """Loss measured (above) and saving (below) by the loss that was asked of the guaranteed rule of
    `guarantee.table_guarantee`; a panel for each group. A promise is kept under the grey line."""
    table = table[(table["rule"] == "guaranteed") & table["source"].isin(names)]
    groups = [*groups_of(table)]
    figure, grid = style.grid(3.9, 2, len(groups), sharex=True, sharey="row")
    asked = sorted(table["asked_loss"].unique())
    for group, panels in zip(groups, grid.T, strict=True):
        for n, name in enumerate(names):
            rows = table[(table["source"] == name) & (table["group"] == group)]
            rows = rows.sort_values("asked_loss")
            colour, dashes, marker = style.look(name, names)
            look = {"color": colour, "ls": dashes, "marker": marker, "ms": 4, "lw": 1}
            at = np.arange(len(rows)) + 0.07 * (n - (len(names) - 1) / 2)
            for axes, value in zip(panels, ("loss", "saving"), strict=True):
                spread = np.abs([rows[value] - rows[f"{value}_{end}"] for end in ("low", "high")])
                axes.errorbar(at, rows[value], spread, label=name, elinewidth=0.6, **look)
        panels[0].plot(asked, color=style.GREY, lw=3, alpha=0.4, zorder=0)
        panels[0].set_title(group if group == "in-domain" else f"{group} (no promise)")
        panels[1].axhline(0, color=style.GREY, lw=0.6, zorder=0)
        panels[1].set_xlabel("loss asked (points)")
        panels[1].set_xticks(range(len(asked)), [style.percent(loss, 0) for loss in asked])
    grid[0, 0].set_ylabel("Pass@1 lost (points)")
    grid[1, 0].set_ylabel("cost saved (%)")
    for axes in grid.flat:
        axes.yaxis.set_major_formatter(style.percent)
    style.legend(figure)
    return figure, table


@style.styled
def ablation_figure(
    table: pd.DataFrame, logs: pd.DataFrame, axis: Mapping[str, str], name: str
) -> style.Drawing:
    """`tables.table_ablation` and the entropy over training; `axis` is run by label."""
    labels = [label for label, run in axis.items() if run in set(table["run"])]
    figure, grid = style.grid(2.35, 1, 4)
    crowded = sum(map(len, labels)) > 15
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if crowded else {}
    for axes, metric in zip(grid[0], ("ece", "auroc", "pass1"), strict=False):
        _marks(axes, table, metric, "value", labels)
        axes.set_xticks(range(len(labels)), labels, **turned)
        axes.set(title=_TITLES[metric], xlabel=name, xlim=(-0.6, len(labels) - 0.4))
    entropy = logs[logs["metric"] == "confidence entropy"].sort_values("step")
    last, columns = grid[0, 3], 2 if max(map(len, labels)) <= 7 else 1
    for label in labels:
        line = entropy[entropy["run"] == axis[label]]
        colour, dashes, _ = style.look(label, labels)
        last.plot(line["step"], _smooth(line, 9), color=colour, ls=dashes, lw=1, label=label)
    last.set(title="confidence entropy", xlabel="GRPO step", ylabel="nats")
    (low, high), rows = last.get_ylim(), -(-len(labels) // columns)
    last.set_ylim(low - (high - low) * 0.15 * rows, high)  # room for the legend under the lines
    options = {"ncols": columns, "labelspacing": 0.2, "columnspacing": 0.8}
    last.legend(fontsize=6.5, loc="lower left", **options)
    grid[0, 0].set_ylabel("fraction")
    style.legend(figure)
    return figure, table


@style.styled
def seeds_figure(table: pd.DataFrame) -> style.Drawing:
    """`tables.table_seeds`: the range over seeds (thick) in one seed's interval (thin)."""
    names = list(dict.fromkeys(table["system"]))
    figure, grid = style.grid(2.3, 1, 3)
    spread = 1.96 * table["question_se"]
    thin = table.assign(mean_low=table["mean"] - spread, mean_high=table["mean"] + spread)
    thick = table.assign(mean_low=table["lowest"], mean_high=table["highest"])
    for axes, metric in zip(grid[0], ("ece", "auroc", "pass1"), strict=True):
        of_metric = table["metric"] == metric
        look: dict[str, Any] = {"elinewidth": 3.2, "alpha": 0.45, "fmt": "none", "label": None}
        _marks(axes, thick[of_metric], "mean", "system", names, **look)
        _marks(axes, thin[of_metric], "mean", "system", names)
        axes.set_xticks(range(len(names)), names)
        axes.set(title=_TITLES[metric], xlim=(-0.6, len(names) - 0.4))
    grid[0, 0].set_ylabel("fraction")
    title = "thick: range over training seeds; thin: 95% interval over questions of one seed"
    style.legend(figure, title)
    return figure, table


@style.styled
def claims_figure(table: pd.DataFrame) -> style.Drawing:
    """How far inside its bound each claim of `corea.paper.claims.table_claims` lies, by block.

    A dot behind a claim is a placebo that passes it, a ring one that does not; what a placebo
    passes is written in grey.
    """
    blocks = [table[table["certainty"].isin(names)] for names in BLOCKS.values()]
    height = {"height_ratios": [len(block) + 1 for block in blocks]}
    figure, grid = style.grid(1 + 0.185 * len(table), len(blocks), 1, sharex=True, **height)
    for (axes,), title, block in zip(grid, BLOCKS, blocks, strict=True):
        axes.set_title(f"{title} ({len(block)})", loc="left")
        axes.axvline(0, color=style.INK, lw=0.8)
        for line, row in enumerate(block.itertuples()):
            _draw_claim(axes, line, row)
        texts = [textwrap.fill(_told(row), 62) for row in block.itertuples()]
        axes.set_yticks(range(len(block)), texts, fontsize=5.2)
        for label, empty in zip(axes.get_yticklabels(), block["informative"] == "no", strict=True):
            label.set_color(style.GREY if empty else style.INK)
        axes.set(ylim=(len(block) - 0.4, -0.6), xlim=(-0.6, 0.6))
        axes.set_xscale("symlog", linthresh=0.05, linscale=0.9)
        axes.minorticks_off()
    ticks = (-0.3, -0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.3)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(
        "how far inside its bound (fraction, 95% interval); dots: what the placebos pass"
    )
    for column, placebo in enumerate(("base", "coin")):
        grid[0, 0].text(1.035 + 0.055 * column, 1.0, placebo, fontsize=5.5, ha="center",
                        va="bottom", transform=grid[0, 0].transAxes)  # fmt: skip
    for name, look in _VERDICTS.items():
        grid[0, 0].plot([], [], label=name, ls="", ms=4, **look)
    style.legend(figure)
    return figure, table


def _told(row) -> str:
    is_told = row.scope == "all" or " by " in row.scope
    return row.claim if is_told else f"{row.claim} ({row.scope})"


def _draw_claim(axes, line: int, row) -> None:
    """A claim's interval in the claimed direction from its bound, and its placebos behind it."""
    side, bound = row.bound.split()
    sign = 1 if side == "above" else -1
    value, low, high = (sign * (each - float(bound)) for each in (row.value, row.low, row.high))
    look = _VERDICTS[row.verdict]
    spread = [[value - min(low, high)], [max(low, high) - value]]
    axes.errorbar(value, line, xerr=spread, ms=4, lw=1, ls="", capsize=0, **look)
    for column, verdict in enumerate((row.placebo_base, row.placebo_coin)):
        if verdict:
            face = style.INK if verdict == "reproduced" else "white"
            mark = {"marker": "o", "ms": 3, "mec": style.INK, "mew": 0.6, "mfc": face}
            place = {"transform": axes.get_yaxis_transform(), "clip_on": False}
            axes.plot(1.035 + 0.055 * column, line, **mark, **place)


def _marks(axes, table: pd.DataFrame, value, column, names: list, along="y", **look) -> None:
    """Values with their intervals at the numbers of their names, the groups side by side."""
    for group, rows in groups_of(table).items():
        colour, marker, face = style.GROUP_LOOKS[group]
        step = 0.22 * (list(GROUPS).index(group) - 1)
        at = rows[column].map(names.index) + (step if along == "y" else -step)
        spread = np.abs([rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]])
        where = {along: rows[value], f"{along}err": spread, "x" if along == "y" else "y": at}
        plain = {"fmt": marker, "color": colour, "mfc": face, "ms": 3.6, "mew": 0.8, "label": group}
        axes.errorbar(**where, **{**plain, "elinewidth": 0.8, "capsize": 0, **look})
