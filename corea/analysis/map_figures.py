"""The figures of the map: where a cascade saves, and how far measured pairs keep to the model."""

import re
from typing import Any

import numpy as np
import pandas as pd

from corea.analysis import map as model
from corea.analysis import style

# Marker and colour by what decides; the marker alone tells it in grey.
_LOOKS = {
    "COREA": ("o", style.BLUE), "AvgProb": ("s", style.BROWN), "Router": ("^", "#d3951b"),
    "Shorter answers": ("D", "#3a9e8c"), "Random": ("x", style.GREY),
}  # fmt: skip
_PAPER = ("*", style.INK)
_BANDS = np.arange(0, 0.81, 0.1)  # of savings
_FARTHEST, _HIGHEST = 0.42, 0.985  # gap and AUROC that are drawn
_AUROC = 0.75  # of the slices
_SLICES = {"price": (0.1, 0.2, 0.3, 0.5), "rho": (0.6, 0.7, 0.85, 0.95)}
_CAUSES = {
    "by_lumps": "ties of the confidence", "by_ranking": "SLM, at each confidence",
    "by_llm": "LLM, at each confidence", "by_costs": "costs, at each confidence",
}  # fmt: skip


def needs(rho: float, price: float, saving: float = 0.2, gaps=(0.08, 0.12, 0.2)) -> str:
    """What gap, AUROC and price a cascade needs to save so much within 2 points: one sentence."""

    def listed(price: float) -> str:
        found = [model.auroc_needed(saving, gap, rho, price) for gap in gaps]
        said = ["more than 0.99" if np.isnan(auroc) else f"{auroc:.2f}" for auroc in found]
        return ", ".join(
            f"{auroc} at {100 * gap:.0f}" for auroc, gap in zip(said, gaps, strict=True)
        )

    pair = f"an SLM at {price:.0%} of the LLM's price and errors that correlate by {rho:.2f}"
    need = f"saving {saving:.0%} within 2 points of Pass@1 takes a confidence with an AUROC of"
    return f"With {pair}, {need} {listed(price)} points of gap; at 50% of the price {listed(0.5)}."


@style.styled
def savings_map(points: pd.DataFrame, rho: float = 0.85, price: float = 0.2) -> style.Drawing:
    """The saving within 2 points over gap and AUROC, and on it the `pairs.POINT_COLUMNS`.

    A point's face is its own saving in the shades of the map: one that stands out from its ground
    departs from the model. Right: other prices, other correlations, at an AUROC of .75.
    """
    figure, grid = style.grid(4.3, 2, 2, width_ratios=(2.2, 1))
    place = grid[0, 0].get_gridspec()[:, 0]
    for axes in grid[:, 0]:
        axes.remove()
    axes = figure.add_subplot(place)
    shades = _draw_map(axes, rho, price)
    _draw_points(axes, points, shades)
    for panel, vary in zip(grid[:, 1], _SLICES, strict=True):
        _draw_slices(panel, vary, {"rho": rho, "price": price})
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure, model.table_map()


def _draw_map(axes, rho: float, price: float):
    """The map itself; returns its shades, for points to take theirs from."""
    gaps, aurocs = np.linspace(0.004, _FARTHEST, 40), np.linspace(0.5, _HIGHEST, 32)
    place = model.LLM - gaps, model.LLM, aurocs[:, None], rho, price
    savings = model.largest_saving(model.curve(*place))
    shades = axes.contourf(gaps, aurocs, savings, _BANDS, cmap="Blues", extend="max")
    axes.contourf(gaps, aurocs, savings, [-1, 0], colors="none", hatches=["...."])
    lines = axes.contour(gaps, aurocs, savings, _BANDS, colors=style.INK, linewidths=0.5)
    axes.clabel(lines, fmt=lambda value: f"{100 * value:.0f}%", fontsize=6.5)
    beyond = np.where(gaps > 1.1 * model.WITHIN, savings - model.coin_saving(gaps, price), np.nan)
    axes.contour(gaps, aurocs, beyond, [0], colors=style.INK, linestyles="--", linewidths=1.4)
    axes.set(xlim=(0, _FARTHEST), ylim=(0.5, _HIGHEST), ylabel="AUROC of the confidence")
    axes.set_xlabel("gap (LLM's Pass@1 less the SLM's)")
    needed = [model.auroc_needed(0.2, gap, rho, price) for gap in (0.08, 0.12, 0.2)]
    said = "{:.2f} at a gap of 8 points, {:.2f} at 12, {:.2f} at 20".format(*needed)
    axes.set_title(f"Saving a fifth within 2 points takes an AUROC of\n{said}")
    for auroc, text in ((0.56, "below dashes: a coin saves more"), (0.53, "dotted: it costs more")):
        _say(axes, _FARTHEST - 0.01, auroc, text, ha="right")
    return shades


def _say(axes, gap: float, auroc: float, text: str, **how) -> None:
    """Text on the map, on a ground of its own."""
    ground = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    axes.text(gap, auroc, text, fontsize=6.5, va="center", bbox=ground, zorder=3, **how)


def _draw_points(axes, points: pd.DataFrame, shades) -> None:
    """A marker for each point; those of one pair and group share a gap, and a name below them."""
    points = points.dropna(subset=["gap", "auroc"])
    for (kind, system), rows in points.groupby(["kind", "system"], sort=False):
        marker, colour = _PAPER if kind == "paper" else _LOOKS[system]
        label, size = (system, 26) if kind != "paper" else ("the paper, as reported", 80)
        look: dict[str, Any] = {"marker": marker, "label": label, "zorder": 5, "clip_on": False}
        if system == "Random":
            axes.scatter(rows["gap"], rows["auroc"], size, c=colour, lw=0.9, **look)
            continue
        look |= {
            "c": rows["saving"].clip(lower=0),
            "cmap": shades.cmap,
            "norm": shades.norm,
            "ec": colour,
        }
        axes.scatter(rows["gap"], rows["auroc"], size, lw=1.3, **look)
    asked = points[points["system"] != "Random"]
    taken = list(zip(asked["gap"], asked["auroc"], strict=True))
    for (kind, pair, group), rows in asked.groupby(["kind", "pair", "group"], sort=False):
        lowest = rows.loc[rows["auroc"].idxmin()]
        short = re.sub(r"(?:Meta-)?(.+)-(\d+)B to (\d+B)", r"\1 \2-\3", pair)
        text = f"paper, {group}" if kind == "paper" else short
        if len(rows) > 1:
            axes.plot(rows["gap"], rows["auroc"], color=style.INK, lw=0.6, zorder=4)
        _name(axes, lowest["gap"], lowest["auroc"], text, taken)


def _name(axes, gap: float, auroc: float, text: str, taken: list[tuple[float, float]]) -> None:
    """A name beside a point: below, right, left or above it, where least is covered."""
    wide, high = 0.0052 * len(text) + 0.004, 0.02  # about what its letters take
    places = [(0, -high), (wide / 2 + 0.007, 0), (-wide / 2 - 0.007, 0), (0, high)]
    places += [(across * 0.6, up) for across in (wide, -wide) for up in (-high, high, 2 * high)]

    def covered(x: float, y: float) -> int:
        outside = 10 * (x - wide / 2 < 0 or x + wide / 2 > _FARTHEST or y < 0.51 or y > _HIGHEST)
        return outside + sum(
            abs(x - px) < wide / 2 + 0.003 and abs(y - py) < 0.015 for px, py in taken
        )

    x, y = min(((gap + dx, auroc + dy) for dx, dy in places), key=lambda at: covered(*at))
    taken += [(x + step * wide / 6, y) for step in range(-3, 4)]
    _say(axes, x, y, text, ha="center")


def _draw_slices(axes, vary: str, fixed: dict[str, Any]) -> None:
    """The saving over the gap at several values of one number, each named on its line."""
    gaps = np.linspace(0.004, 0.4, 60)
    for n, value in enumerate(_SLICES[vary]):
        how = fixed | {vary: value}
        savings = model.largest_saving(model.curve(model.LLM - gaps, model.LLM, _AUROC, **how))
        axes.plot(gaps, savings, color=style.BLUE, ls=("-", "--", "-.", ":")[n], lw=1.2)
        at = int(np.abs(savings - (0.62 - 0.14 * n)).argmin())
        _say(axes, gaps[at], savings[at], f"{value:g}", ha="center")
    axes.axhline(0, color=style.GREY, lw=0.6)
    title = f"by {'price ratio' if vary == 'price' else 'error correlation'}"
    axes.set(ylim=(-0.25, 1), xlim=(0, 0.4), xlabel="gap", ylabel="saving (%)", title=title)
    axes.set_xticks([0, 0.1, 0.2, 0.3])
    axes.yaxis.set_major_formatter(style.percent)


@style.styled
def forecast_figure(points: pd.DataFrame) -> style.Drawing:
    """Measured against predicted savings with 95% intervals, and what makes them differ."""
    figure, grid = style.grid(3.2, 1, 2, width_ratios=(1, 1))
    axes, causes = grid[0]
    asked = points[points["system"] != "Random"].dropna(subset=["saving", "predicted"])
    for (kind, system), rows in asked.groupby(["kind", "system"], sort=False):
        marker, colour = _PAPER if kind == "paper" else _LOOKS[system]
        label, size = (system, 4) if kind != "paper" else ("the paper, as reported", 8)
        spread = np.abs([rows["saving"] - rows["low"], rows["high"] - rows["saving"]])
        look: dict[str, Any] = {"color": colour, "mfc": "white", "label": label, "clip_on": False}
        axes.errorbar(rows["predicted"], rows["saving"], spread, fmt=marker, ms=size,
                      elinewidth=0.7, **look)  # fmt: skip
        if kind == "paper":
            continue
        step = 0.2 * ([*_LOOKS].index(system) - 1.5)
        for n, cause in enumerate(_CAUSES):
            causes.plot(rows[cause], np.full(len(rows), n + step), marker, ms=3.6, **look)
    ends = [
        min(0, asked["saving"].min()) - 0.02,
        asked[["saving", "predicted"]].max(axis=None) + 0.03,
    ]
    axes.plot(ends, ends, color=style.GREY, lw=0.6, zorder=0)
    axes.set(xlabel="predicted saving (%)", ylabel="measured saving (%)")
    causes.axvline(0, color=style.GREY, lw=0.6, zorder=0)
    causes.set_yticks(range(len(_CAUSES)), _CAUSES.values())
    causes.invert_yaxis()
    lost = asked[[*_CAUSES]].mean().sort_values()
    causes.set(
        xlabel="share of the LLM's cost (%)", title=f"most is lost by {_CAUSES[lost.index[0]]}"
    )
    average = 100 * (asked["saving"] - asked["predicted"]).mean()
    axes.set_title(f"measured less predicted: {average:+.0f} points on average")
    for panel in (axes, causes):
        panel.xaxis.set_major_formatter(style.percent)
    axes.yaxis.set_major_formatter(style.percent)
    style.legend(figure)
    return figure, points
