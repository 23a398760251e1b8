"""Figures with controls, for three hard ideas: reward shape, reliability bins, threshold."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from corea import metrics
from corea.analysis.style import Drawing, styled
from corea.rewards import DISTANCES
from corea.support.files import STATIC


def explore(draw: Callable[..., Drawing], **choices: Sequence) -> None:
    """Show what `draw` draws, with a control for each setting, standing at the first value.

    If nothing can be moved (an executed notebook, the site, print), that picture stands alone.

    Args:
        **choices: the values that each setting may take; a slider for numbers, else a list.
    """
    from IPython.display import display
    from ipywidgets import Dropdown, SelectionSlider, interact

    def show(**settings) -> None:
        import matplotlib.pyplot as plt

        figure, _ = draw(**settings)
        display(figure)
        plt.close(figure)

    if empty := [name for name, values in choices.items() if not values]:
        raise ValueError(f"a control without values: {', '.join(empty)}")
    if os.environ.get(STATIC):
        show(**{name: values[0] for name, values in choices.items()})
        return
    controls = {}
    for name, values in choices.items():
        start = {"value": values[0], "description": name.replace("_", " ")}
        if all(isinstance(value, int | float) for value in values):
            options = sorted(values)
            controls[name] = SelectionSlider(options=options, continuous_update=False, **start)
        else:
            controls[name] = Dropdown(options=list(values), **start)
    interact(show, **controls)


@styled
def reward_shape(
    distance: str = "l1", sample_share: float = 0.0, p: float = 0.4, rollouts: int = 8
) -> Drawing:
    """Expected confidence reward of each stated confidence, for one question.

    Args:
        sample_share: the weight of the rollout's own 0/1 in the target, beside its group's mean.
        p: the chance that an answer of the model is right.
    """
    import matplotlib.pyplot as plt
    from scipy.stats import binom

    stated, others, own = np.linspace(0, 1, 101), np.arange(rollouts), np.array([[0], [1]])
    targets = sample_share * own + (1 - sample_share) * (own + others) / rollouts
    chances = binom.pmf(own, 1, p) * binom.pmf(others, rollouts - 1, p)
    distances = np.vectorize(DISTANCES[distance])(stated[:, None, None], targets)
    reward = -(distances * chances).sum(axis=(1, 2))
    best = stated[reward.round(9).argmax()]  # of equal ones the least
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    axes.plot(stated, reward, lw=1.6)
    axes.plot(best, reward.max(), "o", ms=6)
    axes.axvline(p, color="0.6", ls="--", lw=0.9)
    axes.text(p + 0.01, axes.get_ylim()[0], "P(right)", color="0.4", va="bottom")
    axes.set(xlabel="stated confidence", ylabel="expected reward")
    axes.set_title(f"{distance.upper()}: best to state {best:.2f}")
    return figure, pd.DataFrame({"confidence": stated, "reward": reward})


@styled
def reliability_bins(
    records: pd.DataFrame, bins: int = 10, system: str = "SLM", group: str = "in-domain"
) -> Drawing:
    """Accuracy by stated confidence in equal bins, paler the fewer answers: see how many matter."""
    import matplotlib.pyplot as plt

    rows = records[(records["system"] == system) & (records["group"] == group)]
    table = metrics.reliability(rows["confidence"], rows["correct"], bins=bins)
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    axes.plot([0, 1], [0, 1], color="0.6", ls="--", lw=0.9)
    width, alpha = table["high"] - table["low"], (table["count"] / table["count"].max()) ** 0.5
    bars = axes.bar(table["low"], table["accuracy"], width, align="edge", edgecolor="white")
    for bar, share in zip(bars, alpha, strict=True):
        bar.set_alpha(0.15 + 0.75 * share)  # the height of a bin of few answers says little
    axes.plot(table["confidence"], table["accuracy"], "o", ms=3, color="0.2")
    ece = metrics.ece(rows["confidence"], rows["correct"], bins=bins)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated confidence", ylabel="accuracy")
    axes.set_title(f"{system}, {bins} bins: ECE {ece:.3f}")
    return figure, table


@styled
def threshold_view(curve: pd.DataFrame, threshold: float = 0.8) -> Drawing:
    """Pass@1 and cost at one threshold, on the curve that `systems.mean_curve` gives."""
    import matplotlib.pyplot as plt

    row = curve.iloc[[min(int(np.searchsorted(curve["threshold"], threshold)), len(curve) - 1)]]
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.7), layout="constrained")
    panels[0].plot(curve["cost"], curve["pass1"], lw=1.6)
    panels[0].plot(row["cost"], row["pass1"], "o", ms=7)
    panels[0].set(xlabel="cost, LLM alone = 1", ylabel="Pass@1", title=f"threshold {threshold:g}")
    shown = curve[np.isfinite(curve["threshold"])]
    panels[1].step(shown["threshold"], shown["llm_share"], where="pre", lw=1.6)
    panels[1].plot(threshold, row["llm_share"], "o", ms=7)
    panels[1].set(xlabel="threshold", ylabel="share deferred", ylim=(-0.03, 1.03))
    panels[1].set_title(f"{row['llm_share'].item():.0%} deferred")
    return figure, row
