"""Tables and figures from records: no model is needed.

Every number comes from `corea.metrics` and `corea.cascade`; this module arranges, averages over
datasets, draws and saves.  Beside each table and figure lie its numbers (CSV) and what they came
from (JSON).
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corea import __version__, cascade, metrics
from corea.costs import Price, PriceList
from corea.questions.base import GROUPS, test_datasets
from corea.support.files import atomic_write, git_commit, settings_hash, sha256_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYSTEMS = ("SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM", "LLM")


def _interval(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


_KEYS = ("system", "group", "dataset", "questions", "samples", "seeds")
SLM_COLUMNS = [
    *_KEYS, *_interval("pass1"), *_interval("ece"), *_interval("auroc"), *_interval("brier"),
    "aurc", "levels", "parse_rate", "completion_tokens",
]  # fmt: skip
CASCADE_COLUMNS = [
    *_KEYS, "threshold", *_interval("pass1"), *_interval("pass1_drop"), "cost", *_interval("cost_reduction"),
    "llm_share",
]  # fmt: skip
_PACKAGES = (
    "math-verify", "matplotlib", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "seaborn", "torch",
    "transformers", "trl",
)  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------


def table_slm(records: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every stand-alone system on every dataset, and its mean over the datasets of each group.

    records: of any systems; the calibration split is left out.  Columns `SLM_COLUMNS`: fractions,
    with 95% intervals (bootstrap over questions) in _low and _high; `samples` a question; `seeds`,
    the number of different seeds; mean completion tokens.  Raises ValueError without records.
    """
    rows = []
    for system, group, part in _cells(records):
        found = metrics.evaluate_sets(part, resamples=resamples, seed=seed)
        for dataset, values in found.items():
            row = {"system": system, "group": group, "dataset": dataset, **_sizes(part, dataset)}
            for name, each in values.items():
                row |= zip(_interval(name), (each.value, each.low, each.high), strict=True)
            rows.append(row)
    return pd.DataFrame(rows, columns=SLM_COLUMNS)


def table_cascade(
    records: pd.DataFrame,
    thresholds: Mapping[str, float] | float,
    prices: PriceList,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every SLM with the LLM behind it ("L1-SLM-Verb" is COREA), then the LLM alone.

    records: of the stand-alone systems, the LLM among them; thresholds: one for all, or by SLM.
    Columns `CASCADE_COLUMNS`: cost is in price units per 1,000 questions; pass1_drop (LLM less
    cascade) and cost_reduction (1 - cascade / LLM) are against the LLM alone, with intervals paired
    over questions.  Raises ValueError where the LLM's records or a threshold is missing.
    """
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    free = PriceList(Price(0.0, 0.0), prices.llm, prices.source)
    tables = []
    for system, group, part, llm in _against_llm(records, with_llm=True):
        if system == "LLM":  # alone: a cascade that defers everything and gets its SLM for nothing
            table = cascade.evaluate_cascade(llm, llm, cascade.DEFER_ALL, free, **options)
            table = table.assign(system="LLM", threshold=np.nan)
        else:
            threshold = _threshold(thresholds, system)
            table = cascade.evaluate_cascade(part, llm, threshold, prices, **options)
            table = table.assign(system=f"{system}-Verb")
        sizes = pd.DataFrame([_sizes(part, dataset) for dataset in table["dataset"]])
        tables.append(table.assign(group=group, samples=sizes["samples"], seeds=sizes["seeds"]))
    return pd.concat(tables, ignore_index=True)[CASCADE_COLUMNS]


def table_change(
    records: pd.DataFrame, before: str, after: str, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """What changed from one stand-alone system to another, by group: the mean over sets, paired over questions.

    Columns group, metric (pass1, ece, auroc, brier), before, after, difference, low, high, and verdict: "undecided"
    where the interval holds zero.
    """
    options, rows = {"resamples": resamples, "seed": seed}, []
    for group in [g for g in GROUPS if (records["group"] == g).any()]:
        one, other = (
            records[(records["group"] == group) & (records["system"] == s)] for s in (before, after)
        )
        values = [metrics.evaluate_sets(part, **options)["mean"] for part in (one, other)]
        found = metrics.paired_difference(other, one, **options)["mean"]
        for name in ("pass1", "ece", "auroc", "brier"):
            d = found[name]
            verdict = "undecided" if d.low <= 0 <= d.high else "higher" if d.value > 0 else "lower"
            rows.append(
                (
                    group,
                    name,
                    values[0][name].value,
                    values[1][name].value,
                    d.value,
                    d.low,
                    d.high,
                    verdict,
                )
            )
    columns = ["group", "metric", "before", "after", "difference", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def held(
    low: float, high: float, *, at_least: float | None = None, at_most: float | None = None
) -> str:
    """Whether a bound held, by the 95% interval: "yes" where all of it keeps to the bound, "no" where none does.

    "undecided" where the interval straddles the bound, or is not known.  Raises ValueError unless exactly one is given.
    """
    if at_least is None and at_most is not None:
        return held(-high, -low, at_least=-at_most)
    if at_least is None or at_most is not None:
        raise ValueError(f"at_least={at_least!r}, at_most={at_most!r}: give one of them")
    return "yes" if low >= at_least else "no" if high < at_least else "undecided"


def _cells(records: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(system, group, its records) in the order of the tables, without the calibration split."""
    order = [*test_datasets(), *sorted(set(records["dataset"]) - set(test_datasets()))]
    rows = records.sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")
    rows = rows[rows["group"].isin(GROUPS)]
    if rows.empty:
        raise ValueError("no records to report, apart from the calibration split")
    for system in _ordered(rows["system"]):
        for group in GROUPS:
            part = rows[(rows["system"] == system) & (rows["group"] == group)]
            if len(part):
                yield system, group, part


def _against_llm(
    records: pd.DataFrame, with_llm: bool = False
) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """(system, group, its records, the LLM's records of that group)."""
    cells = list(_cells(records))
    llm = {group: part for system, group, part in cells if system == "LLM"}
    for system, group, part in cells:
        if group not in llm:
            raise ValueError(f"no records of system 'LLM' on group {group!r} to compare with")
        if with_llm or system != "LLM":
            yield system, group, part, llm[group]


def _ordered(systems: pd.Series) -> list[str]:
    """Distinct systems: those of the paper in its order, others by name before the LLM."""
    rank = {system: n for n, system in enumerate(SYSTEMS)}
    return sorted(set(systems), key=lambda system: (rank.get(system, len(SYSTEMS) - 1.5), system))


def _sizes(part: pd.DataFrame, dataset: str) -> dict[str, float]:
    rows = part if dataset == "mean" else part[part["dataset"] == dataset]
    questions = rows[["dataset", "question_id"]].drop_duplicates().shape[0]
    samples = len(rows) / questions
    return {
        "questions": questions,
        "samples": int(samples) if samples.is_integer() else samples,
        "seeds": rows["seed"].nunique(),
        "completion_tokens": rows.groupby("dataset")["completion_tokens"].mean().mean(),
    }


def _threshold(thresholds: Mapping[str, float] | float, system: str) -> float:
    if not isinstance(thresholds, Mapping):
        return thresholds
    if system not in thresholds:
        raise ValueError(f"no threshold for {system!r}; there are some for {', '.join(thresholds)}")
    return thresholds[system]


# --- figures --------------------------------------------------------------------------------------

_WIDTH = 7.0  # inches: two columns of a page
_BLUE, _INK, _GREY = "#0a4f8f", "#222222", "#8a8a8a"
# Colour, line and marker of each system; the lines and markers alone tell them apart in grey.
_LOOKS = {
    "SLM": ("#b5541c", (0, (1, 1.2)), "s"),
    "RLVR-SLM": ("#d3951b", (0, (5, 1.5, 1, 1.5)), "^"),
    "Brier-SLM": ("#3a9e8c", (0, (4, 1.5)), "D"),
    "L1-SLM": (_BLUE, "-", "o"),
    "LLM": (_INK, "-", "*"),
}
_OTHER_LOOK = ("#a05195", (0, (3, 1, 1, 1, 1, 1)), "v")
_TENTHS = np.array([0.0, *(np.arange(5, 100, 10) / 100), 1.0])  # a bin around each of 0, .1, ..., 1
_RAREST = 0.005  # a bin of fewer answers is noise, and would draw the eye
_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_UNITS = {
    "accuracy": "share of rollouts",
    "format": "mean reward",
    "confidence reward": "mean reward",
    "total reward": "mean reward",
    "mean confidence": "probability",
    "confidence entropy": "nats",
    "completion tokens": "per completion",
    "KL to base": "nats per token",
}


def _style() -> dict:
    """The one style of all figures, as matplotlib settings."""
    import seaborn as sns

    return {
        **sns.axes_style("ticks", {"axes.spines.top": False, "axes.spines.right": False}),
        **sns.plotting_context("paper"),
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"), 8),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.title_fontsize"), 7.5),
        **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
        **dict.fromkeys(("axes.edgecolor", "text.color", "axes.labelcolor"), _INK),
        "lines.linewidth": 1.2,
        "hatch.linewidth": 0.5,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 220,
        "pdf.fonttype": 42,
    }


def styled(build: Callable) -> Callable:
    """Builds a figure in the one style, laid out before the style is left again."""

    @functools.wraps(build)
    def styled(*args, **kwargs) -> tuple[Figure, pd.DataFrame]:
        import matplotlib

        with matplotlib.rc_context(_style()):
            figure, drawn = build(*args, **kwargs)
            figure.draw_without_rendering()
        return figure, drawn

    return styled


@styled
def reliability(
    records: pd.DataFrame, systems: Sequence[str] = ("SLM", "L1-SLM")
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy against stated confidence, before and after training; a panel for each group.

    Answers of a group's datasets are pooled and binned around 0, .1, ..., 1; marker areas show the
    share of answers, and bins of under half a percent are in the numbers alone.  The ECE in the
    titles is that of `table_slm`, the mean over the datasets.
    """
    cells = list(_cells(_only(records, systems)))
    figure, panels = _panels(cells, height=3.1, sharey=True)
    drawn = []
    for system, group, part in cells:
        axes, (colour, line, marker) = panels[group], _look(system)
        face = colour if system == systems[-1] else "white"
        bins = metrics.reliability(part["confidence"], part["correct"], bins=_TENTHS)
        bins = bins.assign(system=system, group=group, share=bins["count"] / len(part))
        drawn.append(bins)
        shown = bins[bins["share"] >= _RAREST]
        at, area = (shown["confidence"], shown["accuracy"]), _area(shown["share"])
        axes.plot(*at, color=colour, ls=line, lw=0.9)
        axes.scatter(
            *at, area, marker=marker, facecolor=face, edgecolor=colour, zorder=3, clip_on=False
        )
        axes.plot([], [], marker, color=colour, ls=line, mfc=face, ms=4.5, label=system)
        value = metrics.evaluate_sets(part, resamples=0)["mean"]["ece"].value
        axes.set_title(f"{axes.get_title()}\nECE {value:.2f}  {system}")
    for axes in panels.values():
        axes.plot([0, 1], [0, 1], color=_GREY, lw=0.6, zorder=0)
        for share in (0.05, 0.25):
            label = f"{share:.0%} of answers"
            axes.scatter([], [], _area(share), facecolor="white", edgecolor=_GREY, label=label)
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
        axes.set(xticks=_TICKS, yticks=_TICKS, xlabel="stated confidence (probability)")
    first = next(iter(panels.values()))
    first.set_ylabel("accuracy (share of answers)")
    legend(figure, first)
    return figure, pd.concat(drawn, ignore_index=True)


@styled
def cost_accuracy(
    records: pd.DataFrame, thresholds: Mapping[str, float] | float, prices: PriceList
) -> tuple[Figure, pd.DataFrame]:
    """Pass@1 against cost for every threshold of every cascade; a panel for each group.

    Cost is a share of the LLM's alone; both are means over the group's datasets, as in
    `table_cascade`.  A marker stands at the threshold given; the dashed line is the SLM with
    a random share deferred.
    """
    cells = list(_against_llm(records))
    figure, panels = _panels(cells, height=2.7)
    drawn = []
    for system, group, part, llm in cells:
        colour, line, marker = _look(system)
        threshold = _threshold(thresholds, system)
        curve = mean_curve(part, llm, prices, threshold)
        curve = curve.assign(marked=curve["threshold"] == threshold)
        panels[group].plot(
            curve["cost"], curve["pass1"], marker, ls=line, color=colour, ms=6, mec="white",
            mew=0.7, markevery=list(np.flatnonzero(curve["marked"])), label=_cascade_name(system),
        )  # fmt: skip
        drawn.append(curve.assign(series=f"{system}-Verb", group=group))
    for system, group, part, llm in cells:
        if system == "SLM":
            drawn.append(_draw_alone(panels[group], part, llm, prices).assign(group=group))
    for axes in panels.values():
        axes.set_xlabel("cost (% of the LLM alone)")
        axes.xaxis.set_major_formatter(percent())
        axes.yaxis.set_major_formatter(percent())
    first = next(iter(panels.values()))
    first.set_ylabel("Pass@1 (%)")
    legend(figure, first, "marker on a curve: the threshold used")
    columns = ["group", "series", "threshold", "marked", "cost", "pass1", "llm_share"]
    return figure, pd.concat(drawn, ignore_index=True)[columns]


@styled
def confidence_histograms(
    records: pd.DataFrame, systems: Sequence[str] = SYSTEMS[:-1]
) -> tuple[Figure, pd.DataFrame]:
    """How often each confidence is stated, by right and wrong; systems down, groups across.

    Confidences are binned around 0, .1, ..., 1; the bar at "none" is of answers without one.
    """
    cells = list(_cells(_only(records, systems)))
    rows = list(dict.fromkeys(system for system, _, _ in cells))
    groups = [group for group in GROUPS if group in {group for _, group, _ in cells}]
    height = 0.75 + 1.05 * len(rows)
    figure, grid = figure_grid(height, len(rows), len(groups), sharex=True, sharey=True)
    drawn = []
    for system, group, part in cells:
        axes = grid[rows.index(system), groups.index(group)]
        shares = _confidence_shares(part)
        drawn.append(shares.assign(system=system, group=group))
        at = shares["level"].fillna(-0.15)
        axes.bar(at, shares["right"], 0.08, label="right", **_RIGHT)
        axes.bar(at, shares["wrong"], 0.08, bottom=shares["right"], label="wrong", **_WRONG)
    for axes, group in zip(grid[0], groups, strict=True):
        axes.set_title(group)
    for axes, system in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{system}\nanswers (%)")
        axes.yaxis.set_major_formatter(percent())
    for axes in grid[-1]:
        axes.set_xticks([-0.15, *_TICKS], ["none", *map(str, _TICKS)])
        axes.set_xlabel("stated confidence (probability)")
    legend(figure, grid[0, 0])
    return figure, pd.concat(drawn, ignore_index=True)


@styled
def training_curves(log: pd.DataFrame, window: int = 15) -> tuple[Figure, pd.DataFrame]:
    """Each logged metric of training against the step; a line for each run.

    log: columns run, step, metric, value, a row for each of them.  The faint line is the raw value,
    the strong one the mean over `window` logged steps around it.  Raises ValueError for a log
    without a metric known to `corea.grpo`.
    """
    log = log[log["metric"].isin(_UNITS)].sort_values(["metric", "run", "step"])
    names = [name for name in _UNITS if name in set(log["metric"])]
    if not names:
        raise ValueError(f"the log holds none of the metrics {', '.join(_UNITS)}")
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure, grid = figure_grid(0.6 + 1.5 * down, down, across, sharex=True)
    smooth = log.groupby(["metric", "run"])["value"].transform(
        lambda values: values.rolling(window, center=True, min_periods=1).mean()
    )
    log = log.assign(running_mean=smooth)
    for axes, name in zip(grid.flat, names, strict=False):
        for run in _ordered(log["run"]):
            line = log[(log["metric"] == name) & (log["run"] == run)]
            colour, dashes, _ = _look(run)
            axes.plot(line["step"], line["value"], color=colour, lw=0.5, alpha=0.25)
            axes.plot(line["step"], line["running_mean"], color=colour, ls=dashes, label=run)
        axes.set_title(name)
        axes.set_ylabel(_UNITS[name])
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("GRPO step")
    legend(figure, grid[0, 0], f"strong lines: mean over {window} logged steps")
    return figure, log.reset_index(drop=True)


_RIGHT = {"facecolor": _BLUE, "edgecolor": _BLUE, "linewidth": 0.5}
_WRONG = {"facecolor": "white", "edgecolor": "#b5541c", "linewidth": 0.5, "hatch": "//////"}


def mean_curve(
    slm: pd.DataFrame,
    llm: pd.DataFrame,
    prices: PriceList,
    threshold: float,
    before_generation: bool = False,
) -> pd.DataFrame:
    """The sweeps of a group's datasets at all their thresholds and the given one, averaged; cost as a share of the LLM's."""
    sweeps = []
    for _, rows in cascade.replay(slm, llm, threshold, prices).groupby("dataset", sort=False):
        columns = ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
        sweep = cascade.sweep(
            *(rows[name] for name in columns), before_generation=before_generation
        )
        sweeps.append(sweep.assign(cost=sweep["cost"] / rows["llm_cost"].mean()))
    grid = np.unique([threshold, *(at for sweep in sweeps for at in sweep["threshold"])])
    # Between two thresholds of a sweep nothing changes: the upper one keeps the same answers.
    aligned = [sweep.iloc[np.searchsorted(sweep["threshold"], grid)] for sweep in sweeps]
    names = ["cost", "pass1", "llm_share"]
    mean = np.mean([sweep[names].to_numpy() for sweep in aligned], axis=0)
    return pd.DataFrame(mean, columns=names).assign(threshold=grid)


def _draw_alone(
    axes: Axes, slm: pd.DataFrame, llm: pd.DataFrame, prices: PriceList
) -> pd.DataFrame:
    """The two models alone, and the line of deferring a random share of the SLM's questions."""
    rows = cascade.replay(slm, llm, cascade.DEFER_ALL, prices)
    sets = rows.groupby("dataset")[["slm_correct", "llm_correct", "slm_cost", "llm_cost"]].mean()
    sets["slm_cost"] /= sets["llm_cost"]
    mean = sets.assign(llm_cost=1.0).mean()
    line = cascade.random_deferral(
        slm_pass1=mean["slm_correct"],
        llm_pass1=mean["llm_correct"],
        slm_cost=mean["slm_cost"],
        llm_cost=1.0,
    )
    axes.plot(
        line["cost"], line["pass1"], color=_GREY, ls="--", lw=0.8, zorder=1, label="random deferral"
    )
    alone = pd.DataFrame(
        {
            "series": ["SLM", "LLM"],
            "cost": mean[["slm_cost", "llm_cost"]].to_numpy(),
            "pass1": mean[["slm_correct", "llm_correct"]].to_numpy(),
            "llm_share": [0.0, 1.0],
        }
    )
    for point, marker, size in zip(alone.itertuples(), ("X", "*"), (5.5, 9), strict=True):
        axes.plot(
            point.cost, point.pass1, marker, color=_INK, mec="white", mew=0.5, ms=size, zorder=5,
            ls="", label=f"{point.series} alone",
        )  # fmt: skip
    return pd.concat([line.assign(series="random deferral"), alone])


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


def _only(records: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    rows = records[records["system"].isin(systems)]
    if rows.empty:
        raise ValueError(f"no records of {', '.join(systems)} to draw")
    return rows


def _panels(cells: Sequence[tuple], *, height: float, **options):
    """A figure and its panels, a titled one for each group of the cells."""
    groups = [group for group in GROUPS if group in {cell[1] for cell in cells}]
    figure, grid = figure_grid(height, 1, len(groups), **options)
    for axes, group in zip(grid[0], groups, strict=True):
        axes.set_title(group)
    return figure, dict(zip(groups, grid[0], strict=True))


def figure_grid(height: float, rows: int, columns: int, **options):
    """A figure of the one width, `height` inches high, and its array of axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))  # not by pyplot, which would keep it alive
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _look(name: str) -> tuple:
    return _LOOKS.get(name.removesuffix("-Verb"), _OTHER_LOOK)


def _cascade_name(system: str) -> str:
    return f"{system}-Verb (COREA)" if system == "L1-SLM" else f"{system}-Verb"


def _area(share):
    """Marker area in square points for a share of answers."""
    return 4 + 260 * np.asarray(share)


def percent():
    """Tick labels of fractions as percent."""
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0, symbol="")


def legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """A legend of what the axes hold, below the panels, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= 5 else -(-len(labels) // 2)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, title=title,
        handlelength=2.8, columnspacing=1.4,
    )  # fmt: skip


# --- files ----------------------------------------------------------------------------------------


def provenance(
    profile_name: str, seed: int, settings: object, records_paths: Sequence[str | Path]
) -> dict:
    """What a result came from: code, settings, versions, and the files read with their SHA-256.

    settings: anything `files.settings_hash` takes.  Files go by the last two parts of their path.
    """
    commit, dirty = git_commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "profile": profile_name,
        "seed": seed,
        "settings": settings_hash(settings),
        "versions": _versions(),
        "records": {
            "/".join(Path(path).parts[-2:]): sha256_of(path)
            for path in sorted(map(str, records_paths))
        },
    }


def save_table(frame: pd.DataFrame, stem: str | Path, provenance: Mapping) -> None:
    """Write stem.csv, .md, .tex (booktabs) and .json (provenance), each whole or not at all.

    The CSV has the numbers, rounded to 6 decimals and nothing else, so that it is the same for the
    same run; the other two are for reading, intervals beside their values.
    """
    _save_numbers(frame, stem, provenance)
    _write(f"{stem}.md", _markdown(_readable(frame)))
    _write(f"{stem}.tex", _latex(_readable(frame)))


def save_figure(figure: Figure, stem: str | Path, frame: pd.DataFrame, provenance: Mapping) -> None:
    """Write stem.pdf, .png (220 dpi), .csv (the numbers drawn) and .json (provenance).

    The same figure gives the same bytes: no date is stored.
    """
    import matplotlib

    _save_numbers(frame, stem, provenance)
    with matplotlib.rc_context(_style()):
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            with atomic_write(f"{stem}.{kind}", "wb") as stream:
                figure.savefig(stream, format=kind, metadata=metadata)


def _save_numbers(frame: pd.DataFrame, stem: str | Path, provenance: Mapping) -> None:
    floats = frame.select_dtypes("float").round(6) + 0.0  # no "-0.0"
    _write(f"{stem}.csv", frame.assign(**floats).to_csv(index=False, lineterminator="\n"))
    _write(f"{stem}.json", json.dumps(provenance, indent=2, sort_keys=True) + "\n")


def _write(path: str, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text)


def _versions() -> dict[str, str]:
    found = {"corea": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a package that this result did not need
            continue
    return found


_HEADINGS = {
    "pass1": "Pass@1", "pass1_drop": "Pass@1 drop", "ece": "ECE", "auroc": "AUROC",
    "brier": "Brier", "aurc": "AURC", "completion_tokens": "tokens", "llm_share": "LLM share",
}  # fmt: skip
_DECIMALS = {"levels": 1, "completion_tokens": 1}
_TEXT = ("system", "group", "dataset")


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as text: rounded, and an interval in the cell of its value."""
    columns = {}
    for name in frame:
        if name.removesuffix("_low").removesuffix("_high") in set(frame) - {name}:
            continue
        cells = _rounded(frame, name)
        if f"{name}_low" in frame:
            low, high = _rounded(frame, f"{name}_low"), _rounded(frame, f"{name}_high")
            cells = [
                f"{c} [{a}, {b}]" if a else c for c, a, b in zip(cells, low, high, strict=True)
            ]
        columns[_HEADINGS.get(name, name.replace("_", " "))] = cells
    return pd.DataFrame(columns)


def _rounded(frame: pd.DataFrame, name: str) -> list[str]:
    decimals = _DECIMALS.get(name, 3)
    is_float = pd.api.types.is_float_dtype(frame[name])
    return [
        "" if pd.isna(value) else f"{value:z.{decimals}f}" if is_float else str(value)
        for value in frame[name]
    ]


def _markdown(table: pd.DataFrame) -> str:
    rule = ["---" if name in _TEXT else "---:" for name in table]
    rows = [list(table), rule, *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _latex(table: pd.DataFrame) -> str:
    """A booktabs tabular, systems apart; a wide one fits a page in `table*` with `\\small`."""
    text = table.map(_escaped)
    align = "".join("l" if name in _TEXT else "r" for name in table)
    lines = [
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        _line(map(_escaped, table)),
        "\\midrule",
    ]
    for n, row in enumerate(text.to_numpy().tolist()):
        if n and "system" in table and table["system"][n] != table["system"][n - 1]:
            lines.append("\\midrule")
        lines.append(_line(row))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
