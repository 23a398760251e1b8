"""Three hard ideas with controls to move: the reward's shape, the bins of a reliability diagram, the threshold.

Each is a function that draws one matplotlib figure from its settings.  `explore` puts controls beside it where a kernel runs, and
shows the picture of the first settings where none does: in an executed notebook, on the site, in print.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from corea import metrics
from corea.analysis.report import styled
from corea.rewards import DISTANCES
from corea.support.files import STATIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explore(draw: Callable[..., tuple[Figure, pd.DataFrame]], **choices: Sequence) -> None:
    """Show what `draw` draws, with a control for each setting; its first values alone where nothing can be moved.

    choices: setting -> the values it may take.  A control is a slider for numbers and a list for anything else.
    """
    from IPython.display import display

    def show(**settings) -> None:
        import matplotlib.pyplot as plt

        figure, _ = draw(**settings)
        display(figure)
        plt.close(figure)

    if any(not values for values in choices.values()):
        raise ValueError(
            f"a control without values: {', '.join(name for name, values in choices.items() if not values)}"
        )
    widgets = None if os.environ.get(STATIC) else _widgets()
    if widgets is None:
        show(**{name: values[0] for name, values in choices.items()})
        return
    widgets.interact(
        show, **{name: _control(widgets, name, values) for name, values in choices.items()}
    )


def _widgets():
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def _control(widgets, name: str, values: Sequence):
    """A slider over the sorted numbers, standing at the first; or a list."""
    label = name.replace("_", " ")
    if all(isinstance(value, int | float) for value in values):
        return widgets.SelectionSlider(
            options=sorted(values), value=values[0], description=label, continuous_update=False
        )
    return widgets.Dropdown(options=list(values), value=values[0], description=label)


@styled
def reward_shape(
    distance: str = "l1", sample_share: float = 0.0, p: float = 0.4, rollouts: int = 8
) -> tuple[Figure, pd.DataFrame]:
    """Expected confidence reward of each stated confidence, for a question that the model answers rightly with probability p.

    sample_share: the weight of the rollout's own 0/1 in the target; the rest is the mean of the group of `rollouts`, itself
    among them.  Exact: an expectation over how many of the others are right.
    """
    import matplotlib.pyplot as plt

    stated = np.linspace(0, 1, 101)
    reward = -sum(
        weight * np.array([DISTANCES[distance](c, target) for c in stated])
        for target, weight in _targets(sample_share, p, rollouts)
    )
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    axes.plot(stated, reward, lw=1.6)
    best = stated[reward.argmax()]
    axes.plot(best, reward.max(), "o", ms=6)
    axes.axvline(p, color="0.6", ls="--", lw=0.9)
    axes.annotate(
        "P(right)", (p, axes.get_ylim()[0]), xytext=(3, 4), textcoords="offset points", color="0.4"
    )
    axes.set(
        xlabel="stated confidence",
        ylabel="expected reward",
        title=f"{distance.upper()}: best to state {best:.2f}",
    )
    return figure, pd.DataFrame({"confidence": stated, "reward": reward})


def _targets(sample_share: float, p: float, rollouts: int):
    """(target, probability) of one rollout: whether it is right, and how many of the others are."""
    others = rollouts - 1
    for own, chance in ((1, p), (0, 1 - p)):
        for right in range(others + 1):
            weight = chance * comb(others, right) * p**right * (1 - p) ** (others - right)
            yield sample_share * own + (1 - sample_share) * (own + right) / rollouts, weight


@styled
def reliability_bins(
    records: pd.DataFrame, bins: int = 10, system: str = "SLM", group: str = "in-domain"
) -> tuple[Figure, pd.DataFrame]:
    """Accuracy of answers by stated confidence in equal bins, paler the fewer answers: how much depends on how many there are."""
    import matplotlib.pyplot as plt

    part = records[(records["system"] == system) & (records["group"] == group)]
    binned = metrics.reliability(part["confidence"], part["correct"], bins=bins)
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    axes.plot([0, 1], [0, 1], color="0.6", ls="--", lw=0.9)
    for row in binned.rename(
        columns={"count": "answers"}
    ).itertuples():  # a bin of few answers is pale: its height says little
        alpha = 0.15 + 0.75 * (row.answers / binned["count"].max()) ** 0.5
        axes.bar(
            row.low,
            row.accuracy,
            width=row.high - row.low,
            align="edge",
            edgecolor="white",
            color="C0",
            alpha=alpha,
        )
    axes.plot(binned["confidence"], binned["accuracy"], "o", ms=3, color="0.2")
    found = metrics.ece(part["confidence"], part["correct"], bins=bins)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="stated confidence",
        ylabel="accuracy",
        title=f"{system}, {bins} bins: ECE {found:.3f}",
    )
    return figure, binned


@styled
def threshold_view(curve: pd.DataFrame, threshold: float = 0.8) -> tuple[Figure, pd.DataFrame]:
    """Pass@1 and cost of a cascade at one threshold, on the curves over all of them.

    curve: as `report.mean_curve` gives it.
    """
    import matplotlib.pyplot as plt

    row = curve.iloc[[min(int(np.searchsorted(curve["threshold"], threshold)), len(curve) - 1)]]
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.7), layout="constrained")
    panels[0].plot(curve["cost"], curve["pass1"], lw=1.6)
    panels[0].plot(row["cost"], row["pass1"], "o", ms=7)
    panels[0].set(xlabel="cost, LLM alone = 1", ylabel="Pass@1", title=f"threshold {threshold:g}")
    shown = curve[np.isfinite(curve["threshold"])]
    panels[1].step(shown["threshold"], shown["llm_share"], where="pre", lw=1.6)
    panels[1].plot(threshold, row["llm_share"], "o", ms=7)
    panels[1].set(
        xlabel="threshold",
        ylabel="share deferred",
        ylim=(-0.03, 1.03),
        title=f"{row['llm_share'].item():.0%} deferred",
    )
    return figure, row
