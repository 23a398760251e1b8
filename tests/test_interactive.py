"""The pictures with controls: what they draw is what the library computes, and without a kernel the first picture stands."""

from __future__ import annotations

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from corea import metrics
from corea.analysis import widgets
from corea.grader import Grader
from corea.rewards import confidence_reward
from corea.support.files import STATIC

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("distance", "share"), [("l1", 0.0), ("l1", 1.0), ("l2", 0.25), ("kl", 0.5), ("log", 1.0)]
)
def test_the_reward_drawn_is_the_mean_of_the_real_one_over_all_groups(distance, share):
    """Every way in which three rollouts can be right or wrong, through `confidence_reward` itself."""
    p, stated = 0.3, 0.7
    expected = 0.0
    with Grader() as grader:
        for right in itertools.product((True, False), repeat=3):
            texts = [
                f"<answer>{'1' if r else '2'}</answer><confidence>{stated}</confidence>"
                for r in right
            ]
            columns = {"gold": ["1"] * 3, "question_id": ["q"] * 3, "grader": grader}
            found = confidence_reward(texts, distance=distance, target=share, **columns)
            expected += np.prod([p if r else 1 - p for r in right]) * np.mean(found)
    _, drawn = widgets.reward_shape(distance, share, p, rollouts=3)
    assert drawn.set_index(drawn["confidence"].round(2)).loc[stated, "reward"] == pytest.approx(
        expected, abs=1e-9
    )


@pytest.mark.parametrize(
    ("distance", "share", "best", "reason"),
    [
        ("l1", 1.0, 0.0, "L1 to one's own 0/1 is best at an end"),
        ("l2", 1.0, 0.4, "the Brier score is proper"),
        ("l2", 0.0, 0.4, "L2 to the group is best at its mean"),
    ],
)
def test_where_the_reward_is_best(distance, share, best, reason):
    _, drawn = widgets.reward_shape(distance, share, 0.4)
    assert drawn.loc[drawn["reward"].idxmax(), "confidence"] == pytest.approx(best), reason


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    stated = rng.integers(0, 11, 400) / 10
    return pd.DataFrame(
        {
            "system": "SLM",
            "group": "in-domain",
            "confidence": stated,
            "correct": rng.random(400) < 0.4 + 0.3 * stated,
        }
    )


@pytest.mark.parametrize("bins", [2, 10, 20])
def test_bins_show_the_ece_of_the_library(records, bins):
    figure, drawn = widgets.reliability_bins(records, bins)
    assert (
        f"ECE {metrics.ece(records['confidence'], records['correct'], bins=bins):.3f}"
        in figure.axes[0].get_title()
    )
    assert drawn["count"].sum() == 400 and len(drawn) <= bins


@pytest.mark.parametrize(("threshold", "row"), [(0.0, 0), (0.3, 1), (0.5, 1), (0.51, 2), (1.0, 2)])
def test_a_threshold_between_two_keeps_what_the_upper_one_keeps(threshold, row):
    curve = pd.DataFrame(
        {
            "threshold": [0.0, 0.5, np.inf],
            "cost": [0.2, 0.6, 1.2],
            "pass1": [0.5, 0.6, 0.8],
            "llm_share": [0.0, 0.4, 1.0],
        }
    )
    _, drawn = widgets.threshold_view(curve, threshold)
    assert drawn.index.tolist() == [row]


def test_without_a_kernel_the_first_picture_stands_alone(monkeypatch):
    drawn, shown = [], []
    monkeypatch.setenv(STATIC, "1")
    monkeypatch.setattr("IPython.display.display", shown.append)
    widgets.explore(
        lambda **s: (drawn.append(s) or plt.figure(), None), distance=["l1", "l2"], p=[0.4, 0.1]
    )
    assert drawn == [{"distance": "l1", "p": 0.4}] and len(shown) == 1


def test_with_a_kernel_each_setting_has_a_control(monkeypatch):
    made = {}
    monkeypatch.delenv(STATIC, raising=False)
    monkeypatch.setattr("ipywidgets.interact", lambda show, **controls: made.update(controls))
    widgets.explore(widgets.reward_shape, distance=["l1", "l2"], p=[0.4, 0.1])
    assert type(made["distance"]).__name__ == "Dropdown" and made["distance"].value == "l1"
    assert (
        type(made["p"]).__name__ == "SelectionSlider"
        and made["p"].options == (0.1, 0.4)
        and made["p"].value == 0.4
    )


def test_a_control_without_values_is_refused():
    with pytest.raises(ValueError, match="a control without values: p"):
        widgets.explore(widgets.reward_shape, distance=["l1"], p=[])
