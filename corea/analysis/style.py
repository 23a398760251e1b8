"""The one style of all figures: settings, looks that also tell apart in grey, panels, legends."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from corea.questions.base import GROUPS

Drawing = tuple[Any, pd.DataFrame]  # a matplotlib figure, and the numbers drawn
_WIDTH = 7.0  # inches: two columns of a page
BLUE, INK, GREY, BROWN = "#0a4f8f", "#222222", "#8a8a8a", "#b5541c"
_DASHED, _DOTTED, _DASH_DOT = (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5))
_LONG, _DASH_DOTS, _SHORT = (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 1.5))
_LONG_DOT = (0, (9, 1.5, 1.5, 1.5))

# Colour, line and marker. Line and marker alone tell them apart in grey.
_LOOKS: dict[str, tuple] = {
    "SLM": (BROWN, _DOTTED, "s"),
    "RLVR-SLM": ("#d3951b", _DASH_DOT, "^"),
    "Brier-SLM": ("#3a9e8c", _DASHED, "D"),
    "L1-SLM": (BLUE, "-", "o"),
    "LLM": (INK, "-", "*"),
    "COREA+": ("#a05195", _LONG, "P"),
    "Random": (GREY, "--", "."),
    "Oracle": (GREY, "-", "."),
    "random deferral": (GREY, "--", "."),
    "SLM alone": (INK, "", "X"),
    "LLM alone": (INK, "", "*"),
}
_OTHERS = (
    (INK, _SHORT, "v"), ("#c8508a", _DASH_DOTS, "<"), ("#7a6a4f", _LONG_DOT, ">"), (BLUE, "-", "h"),
    ("#d3951b", _LONG, "p"), ("#3a9e8c", _DOTTED, "X"), ("#a05195", _DASHED, "d"),
)  # fmt: skip
GROUP_LOOKS = {  # colour, marker, face
    "in-domain": (INK, "o", INK),
    "ood-math": (BLUE, "s", "white"),
    "ood-nonmath": (BROWN, "^", BROWN),
}


def look(name: str, names: Iterable[str] = ()) -> tuple:
    """Colour, line and marker of a system; those without a look of their own take turns."""
    others = [other for other in names if other.removesuffix("-Verb") not in _LOOKS]
    turn = others.index(name) if name in others else 0
    return _LOOKS.get(name.removesuffix("-Verb"), _OTHERS[turn % len(_OTHERS)])


def settings() -> dict:
    """The style as matplotlib settings."""
    import seaborn as sns

    return {
        **sns.axes_style("ticks", {"axes.spines.top": False, "axes.spines.right": False}),
        **sns.plotting_context("paper"),
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"), 8),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.title_fontsize"), 7.5),
        **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
        **dict.fromkeys(("axes.edgecolor", "text.color", "axes.labelcolor"), INK),
        "lines.linewidth": 1.2,
        "hatch.linewidth": 0.5,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 220,
        "pdf.fonttype": 42,
    }


def styled(build: Callable) -> Callable:
    """Build a figure in the one style, and lay it out before the style is left again."""

    @functools.wraps(build)
    def styled(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context(settings()):
            figure, drawn = build(*args, **kwargs)
            figure.draw_without_rendering()
        return figure, drawn

    return styled


def grid(height: float, rows: int, columns: int, **options):
    """A figure of the one width, `height` inches high, and its array of axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))  # not by pyplot, which would keep it alive
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def group_panels(groups: Iterable[str], height: float, **options):
    """A figure and its panels, a titled one for each group, in the order of the tables."""
    names = [name for name in GROUPS if name in set(groups)]
    figure, axes = grid(height, 1, len(names), **options)
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name)
    return figure, dict(zip(names, axes[0], strict=True))


def percent(fraction: float, _position: int) -> str:
    """The label of a tick at a fraction, in percent."""
    return f"{100 * fraction:.0f}"


def legend(figure, title: str | None = None) -> None:
    """A legend of what the first panel holds, below the panels, where it covers nothing."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = len(labels) if len(labels) <= 5 else min(4, -(-len(labels) // 2))
    options: dict[str, Any] = {"title": title, "handlelength": 2.8, "columnspacing": 1.4}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)
