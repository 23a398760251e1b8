"""Thresholds with a promise, for any source: kept by simulation, and void where it is not made."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from corea.analysis import figures, guarantee, systems
from corea.cascade import Mix
from tests.fakes import PRICES, fake_records
from tests.test_policies import true_loss, world

BROKEN = 0.1 + 2 * math.sqrt(0.1 * 0.9 / 1000)  # of 1,000 draws, at most


def answers(confidence, slm, llm, samples=1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns as `guarantee.path` takes them, from those by question and then by sample."""
    loss = np.asarray(llm, float) - np.asarray(slm, float)
    return np.arange(len(loss)) // samples, np.asarray(confidence, float), loss


def loss_of(way: Mix | None, loss) -> float:
    """The expected loss of a way by that of a threshold; the LLM alone, NaN, loses nothing."""
    return (
        0 if way is None else (1 - way.share) * loss(way.threshold) + way.share * loss(way.second)
    )


@pytest.mark.parametrize(
    ("losing", "winning", "reason"),
    [
        ([0.5, 0.3, 0.2, 0.1], [0, 0, 0, 0], "a coin may cut the surest lump, and only just"),
        ([0.5, 0.3, 0.3, 0.2], [0, 0, 0, 0.15], "the second lump, with wins and losses"),
    ],
)
def test_the_promise_is_kept_where_confidences_are_few(losing, winning, reason):
    broken, some = 0, 0
    for seed in range(1000):
        drawn = answers(*world(losing, winning, 300, seed))
        way = guarantee.guaranteed(*drawn, max_loss=0.02, delta=0.1)
        broken += loss_of(way, lambda t: true_loss(losing, winning, t)) > 0.02 + 1e-9
        some += way is not None
    assert some > 300, "nothing certified, nothing tested"
    assert broken / 1000 <= BROKEN, reason


def test_the_promise_is_kept_where_each_confidence_is_another():
    """Tested at the very confidences that were drawn: the LLM alone is right on (1 - c) / 2."""
    broken, rng = 0, np.random.default_rng(0)
    for _ in range(1000):
        confidence = rng.random(200)
        llm_only = rng.random(200) < (1 - confidence) / 2
        drawn = answers(confidence, ~llm_only, np.ones(200))
        way = guarantee.guaranteed(*drawn, max_loss=0.05, delta=0.1)
        broken += loss_of(way, lambda t: 0 if math.isnan(t) else (1 - t) ** 2 / 4) > 0.05
    assert 0 < broken / 1000 <= BROKEN


def test_a_path_keeps_ever_more_and_its_losses_are_means_over_samples():
    drawn = answers([0.9, 0.5, np.nan, 0.5], [0, 1, 0, 0], [1, 1, 1, 1], samples=2)
    ways, losses = guarantee.path(*drawn)
    assert losses.shape == (2, 40) and len(ways) == 40
    assert math.isnan(ways[0].threshold) and (ways[0].second, ways[0].share) == (0.9, 0.05)
    assert (ways[19].second, ways[19].share) == (0.9, 1.0)
    assert (ways[39].threshold, ways[39].second, ways[39].share) == (0.9, 0.5, 1.0)
    assert losses[:, 19].tolist() == [0.5, 0.0] and losses[:, 9].tolist() == [0.25, 0.0]
    assert losses[:, 39].tolist() == [0.5, 0.5]
    many = answers(np.arange(30) / 30, np.zeros(30), np.ones(30))
    assert len(guarantee.path(*many)[0]) == 30, "many confidences need no coin"


def test_what_states_nothing_promises_nothing():
    silent = answers([np.nan] * 50, np.ones(50), np.ones(50))
    assert guarantee.guaranteed(*silent, max_loss=0.5, delta=0.1) is None


def test_a_coin_certifies_a_part_of_a_lump_that_is_not_safe():
    right = np.arange(800) % 25 > 0  # all stated alike, and 4 points worse than the LLM
    lump = answers(np.full(800, 0.9), right, np.ones(800))
    way = guarantee.guaranteed(*lump, max_loss=0.02, delta=0.1)
    assert math.isnan(way.threshold) and way.second == 0.9 and 0.1 <= way.share <= 0.45


# --- the table ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    found = fake_records(questions=300, samples=2)
    return found.assign(probe=found["answer_probability"].where(found["system"] != "LLM"))


SOME = ("L1-SLM-Verb", "L1-SLM-AvgProb-Isotonic", "COREA+", "Length+L1-SLM", "Random")


@pytest.fixture(scope="module")
def table(records) -> pd.DataFrame:
    return guarantee.table_guarantee(records, PRICES, SOME, resamples=20)


def test_table_guarantee_has_a_row_for_each_rule_source_loss_and_group(table):
    assert list(table) == guarantee.COLUMNS
    rules = table.groupby("source")["rule"].value_counts().unstack()
    assert (rules[["calibrated", "guaranteed"]] == 9).all(axis=None)
    paper = rules[systems.PAPER_RULE]
    assert (paper[["L1-SLM-Verb", "L1-SLM-AvgProb-Isotonic"]] == 3).all()
    assert paper[["Length+L1-SLM", "Random"]].isna().all(), "scores have none"
    assert table["loss"].between(table["loss_low"], table["loss_high"]).all()
    questions = table.groupby("source")["calibration_questions"].unique().map(list)
    assert questions["L1-SLM-Verb"] == questions["Random"] == [300]
    assert questions["COREA+"] == questions["L1-SLM-AvgProb-Isotonic"] != [300]


def test_a_promise_is_made_in_domain_by_the_guaranteed_rule_alone(table):
    promised = table[table["promised"] == "yes"]
    assert set(promised["group"]) == {"in-domain"} and set(promised["rule"]) == {"guaranteed"}
    assert table["delta"].notna().equals(table["rule"] == "guaranteed")
    alone = table[(table["rule"] == "guaranteed") & (table["certified"] == "no")]
    assert len(alone) and (alone[["loss", "saving"]].abs() < 1e-12).all(axis=None)
    assert set(alone["verdict"]) == {"within"}
    certified = table[table["certified"] == "yes"]
    assert len(certified) and (certified["saving"] > 0).mean() > 0.9


def test_what_certifies_is_neither_fitted_on_nor_chosen_by(records):
    split = guarantee._split(records)
    held = split["group"] == guarantee.CERTIFYING
    assert 0.4 < held.sum() / (records["group"] == systems.CALIBRATION).sum() < 0.8
    turned = split.assign(correct=split["correct"] ^ held)
    one, other = (systems.choose(each, PRICES)[0] for each in (split, turned))
    pd.testing.assert_frame_equal(one, other)
    for name in ("L1-SLM-Gain", "L1-SLM-AvgProb-Isotonic", "L1-SLM-Length+Verb"):
        system = next(s for s in (*systems.OURS, *systems.BASELINES) if s.name == name)
        one, other = (systems.rows_of(system, each)["confidence"] for each in (split, turned))
        pd.testing.assert_series_equal(one, other)


def test_the_figure_shows_the_guaranteed_rule(table):
    figure, drawn = figures.guarantee_figure(table, SOME[:3])
    assert len(figure.axes) == 6 and set(drawn["rule"]) == {"guaranteed"}
    assert len(drawn) == 3 * 3 * 3
