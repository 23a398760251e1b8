"""Systems by name, thresholds from calibration alone, and the tables and figures that compare them."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from corea import cascade, metrics
from corea.analysis import figures, sources, systems, tables
from tests.fakes import PRICES, fake_records

PAPERS_NAMES = ("SLM-Verb", "RLVR-SLM-Verb", "RLVR-SLM-AvgProb", "RLVR-SLM-Probe", "Router+RLVR-SLM", "Brier-SLM-Verb",
                "L1-SLM-Verb")  # fmt: skip


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    found = fake_records(questions=40)
    rng = np.random.default_rng(3)
    probe = np.clip(found["answer_probability"] + rng.normal(0, 0.1, len(found)), 0, 1)
    return found.assign(probe=probe.where(found["system"] != "LLM"))


@pytest.fixture(scope="module")
def compared(records) -> systems.Comparison:
    return systems.compare(records, PRICES)


@pytest.fixture(scope="module")
def equal(compared) -> pd.DataFrame:
    return tables.table_equal_pass1(compared, resamples=30)


def test_the_papers_systems_have_the_papers_names(compared):
    assert tuple(system.name for system in systems.PAPER) == PAPERS_NAMES
    assert list(compared.rows)[: len(PAPERS_NAMES)] == list(PAPERS_NAMES)
    assert {
        "L1-SLM-Digits",
        "RLVR-SLM-Consistency",
        "L1-SLM-Verb-Isotonic",
        "COREA+",
        "Random",
        "Oracle",
    } <= set(compared.rows)
    assert compared.routers == ("Router+RLVR-SLM",)


def test_every_system_answers_every_question_once(compared, records):
    slm = records[records["system"] == "SLM"]
    for name, rows in compared.rows.items():
        assert len(rows) == len(slm) and set(rows["system"]) == {name}
        assert not rows.duplicated(cascade.KEY).any()
        assert rows["confidence"].dropna().between(0, 1).all(), name


def test_a_system_without_its_slm_is_one_clear_line(records):
    with pytest.raises(ValueError, match="L1-SLM-Verb needs records of L1-SLM, and there are none"):
        systems.rows_of(systems.PAPER[-1], records[records["system"] != "L1-SLM"])


def test_nothing_is_decided_on_a_test_set(records, compared):
    """All outcomes of the test sets turned around: thresholds, choices and confidences stay what they were."""
    is_test = records["group"] != systems.CALIBRATION
    turned = records.assign(correct=records["correct"] ^ is_test)
    other = systems.compare(turned, PRICES)
    for rule, thresholds in compared.thresholds.items():
        assert other.thresholds[rule] == pytest.approx(thresholds, nan_ok=True)
    assert (other.budget, other.pass1) == (compared.budget, compared.pass1)
    pd.testing.assert_frame_equal(other.chosen, compared.chosen)
    for name in set(compared.rows) - {
        "Oracle",
        "Oracle-L1-SLM",
        "RLVR-SLM-Consistency",
    }:  # these two hold outcomes
        pd.testing.assert_series_equal(
            other.rows[name]["confidence"], compared.rows[name]["confidence"]
        )


def test_the_rules_mean_what_they_say(compared):
    known = compared.llm[compared.llm["group"] == systems.CALIBRATION]
    fixed = compared.thresholds[systems.PAPER_RULE]
    assert {fixed[name] for name in PAPERS_NAMES} == {cascade.llm_pass1(known)}
    assert (
        {name for name, threshold in fixed.items() if np.isnan(threshold)}
        == set(compared.scores)
        >= {"Oracle", "L1-SLM-Gain"}
    )
    for rule, column, limit in (
        (systems.BUDGET_RULE, "cost", compared.budget),
        (systems.EQUAL_RULE, "correct", compared.pass1),
    ):
        for name, threshold in compared.thresholds[rule].items():
            if np.isnan(threshold):
                continue
            rows = compared.rows[name]
            at = cascade.replay(
                rows[rows["group"] == systems.CALIBRATION],
                known,
                threshold,
                PRICES,
                before_generation=name in compared.routers,
            )
            kept = (
                at[column].mean() <= limit + 1e-12
                if column == "cost"
                else at[column].mean() >= limit - 1e-12
            )
            assert kept, (rule, name)


def test_corea_plus_is_the_cheapest_candidate_on_calibration(compared):
    assert compared.chosen["cost"].is_monotonic_increasing
    best = compared.chosen["system"].iloc[0]
    assert set(compared.chosen["system"]) == {system.name for system in systems.CANDIDATES}
    assert compared.chosen["cost"].iloc[0] <= 1, "COREA itself is a candidate"
    if best in compared.rows:
        assert compared.rows["COREA+"]["confidence"].equals(compared.rows[best]["confidence"])


def test_a_router_pays_the_llm_alone_for_what_it_defers(compared):
    rows, llm = (
        part[part["group"] == "ood-math"]
        for part in (compared.rows["Router+RLVR-SLM"], compared.llm)
    )
    before, after = (
        cascade.replay(rows, llm, cascade.DEFER_ALL, PRICES, before_generation=b)
        for b in (True, False)
    )
    assert np.allclose(before["cost"], before["llm_cost"])
    assert np.allclose(after["cost"], after["llm_cost"] + after["slm_cost"])
    columns = [
        before[name]
        for name in ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
    ]
    curve = cascade.sweep(*columns, before_generation=True)
    for _, row in curve.iterrows():
        at = cascade.replay(rows, llm, row["threshold"], PRICES, before_generation=True)
        assert row["cost"] == pytest.approx(at["cost"].mean()) and row["pass1"] == pytest.approx(
            at["correct"].mean()
        )


def test_table_cascade_has_a_row_for_each_rule_system_and_set(compared):
    two = compared.of("L1-SLM-Verb", "Router+RLVR-SLM")
    table = tables.table_cascade(two, resamples=10)
    assert list(table) == ["rule", *tables.CASCADE_COLUMNS]
    assert len(table) == 3 * 2 * (4 + 3)
    own = table[
        (table["rule"] == systems.PAPER_RULE)
        & (table["system"] == "L1-SLM-Verb")
        & (table["group"] == "ood-math")
    ]
    rows, llm = (
        part[part["group"] == "ood-math"] for part in (compared.rows["L1-SLM-Verb"], compared.llm)
    )
    at = cascade.replay(rows, llm, compared.threshold, PRICES)
    assert own["pass1"].iloc[0] == pytest.approx(at["correct"].mean())


def test_row_weights_make_the_mean_over_sets_of_the_mean_over_questions(compared):
    rows = compared.rows["SLM-Verb"]
    rows = rows[rows["group"] == "ood-nonmath"].iloc[3:]  # a set with a sample missing
    weights = metrics.row_weights(rows, resamples=5)
    expected = (
        rows.groupby(["dataset", "question_id"])["correct"].mean().groupby("dataset").mean().mean()
    )
    assert weights[0] @ rows["correct"].to_numpy(dtype=float) == pytest.approx(expected)
    assert np.allclose(weights.sum(axis=1), 1)


def brute_cost(rows: pd.DataFrame, target: float) -> float:
    """Least cost at a Pass@1 by trying every threshold and every mix of two neighbours."""
    curve = cascade.sweep(
        *(
            rows[name]
            for name in ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
        )
    )
    # Threshold 0 keeps as much as the lowest level does.
    points = list(curve[["pass1", "cost"]].itertuples(index=False, name=None))
    found = [cost for pass1, cost in points if pass1 >= target - 1e-12]
    for (p, c), (q, d) in itertools.pairwise(points):
        for share in np.linspace(0, 1, 2001):
            if share * p + (1 - share) * q >= target - 1e-12:
                found.append(share * c + (1 - share) * d)
    return min(found, default=np.nan)


@pytest.mark.parametrize("target", [0.3, 0.55, 0.6, 0.7, 0.99])
def test_cost_at_pass1_agrees_with_trying_everything(compared, target):
    rows, llm = (
        part[part["group"] == "in-domain"] for part in (compared.rows["L1-SLM-Verb"], compared.llm)
    )
    replayed = cascade.replay(rows, llm, 0.5, PRICES)
    (found,) = cascade.cost_at_pass1(
        replayed, np.full((1, len(replayed)), 1 / len(replayed)), target
    )
    assert found[0] == pytest.approx(brute_cost(replayed, target), rel=1e-3, nan_ok=True)


def test_a_source_that_states_nothing_can_only_defer_all(compared):
    rows, llm = (
        part[part["group"] == "in-domain"] for part in (compared.rows["L1-SLM-Verb"], compared.llm)
    )
    replayed = cascade.replay(rows.assign(confidence=np.nan), llm, 0.5, PRICES)
    weights = np.full((1, len(replayed)), 1 / len(replayed))
    (found,) = cascade.cost_at_pass1(replayed, weights, 0.1)
    assert found[0] == pytest.approx((replayed["slm_cost"] + replayed["llm_cost"]).mean())


def test_the_oracle_closes_its_own_gap_and_corea_none(equal):
    closed = equal.set_index(["system", "group"])["closed"]
    oracles = closed.unstack().loc[["Oracle", "Oracle-L1-SLM"]]
    assert np.allclose(oracles.max(), 1), "the lower of the oracles is the line"
    assert (closed["L1-SLM-Verb"] == 0).all() and (
        equal.loc[equal["system"] == "L1-SLM-Verb", "set_cost_saving"] == 0
    ).all()
    reached = equal.dropna(subset=["cost", "cost_low"])
    assert len(reached) > len(equal) / 2
    assert reached["cost"].between(reached["cost_low"] - 1e-12, reached["cost_high"] + 1e-12).all()


def test_table_sources_holds_each_confidence_and_its_intervals(compared):
    three = compared.of("L1-SLM-Verb", "Random", "L1-SLM-Gain")
    table = tables.table_sources(three, resamples=20)
    assert list(table) == tables.SOURCE_COLUMNS and len(table) == 9
    assert table.loc[table["system"] == "L1-SLM-Gain", ["ece", "brier_low"]].isna().all().all(), (
        "a score has no ECE"
    )
    auroc = table.set_index(["system", "group"])["auroc"]
    assert (auroc["L1-SLM-Verb"] > auroc["Random"]).all() and auroc["L1-SLM-Gain"].notna().all()
    figure, drawn = figures.sources_figure(table)
    assert len(figure.axes) == 2 and drawn.equals(table)


def test_curves_end_at_the_models_alone(compared):
    four = compared.of("L1-SLM-Verb", "Random", "Oracle", "Router+RLVR-SLM")
    figure, drawn = figures.cost_curves(four)
    assert len(figure.axes) == 3
    ends = drawn[drawn["threshold"] == np.inf].set_index(["series", "group"])["cost"]
    assert np.allclose(ends["Router+RLVR-SLM"], 1), (
        "a router that defers all costs what the LLM costs"
    )
    assert (ends["L1-SLM-Verb"] > 1).all()


def test_no_name_is_cut_off_where_all_the_papers_systems_are_drawn(compared):
    figure, _ = figures.cost_curves(compared.of(*PAPERS_NAMES, "Random", "Oracle"))
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width, "it was wider than the page"


# --- ablations and seeds ---


def test_an_ablation_compares_with_its_reference(records):
    llm = records[records["system"] == "LLM"]
    logs = pd.DataFrame([(run, step, "confidence entropy", 2.0 - step / 100) for run in ("L1-SLM", "SLM") for step in range(1, 41)],
                        columns=["run", "step", "metric", "value"])  # fmt: skip
    prices = dict.fromkeys(("SLM", "L1-SLM"), PRICES)
    axis = {"one": "SLM", "two": "L1-SLM", "three": "not run"}
    table = tables.table_ablation(records, logs, llm, axis, "L1-SLM", prices, resamples=20)
    assert list(table["value"].unique()) == ["one", "two"], "a run that is not there has no row"
    same = table[table["value"] == "two"]
    assert (same[["d_ece", "d_ece_low", "d_ece_high"]] == 0).all().all()
    other = table[table["value"] == "one"].set_index("group")
    assert (other["d_ece"] > 0).all() and (
        other["ece"] - other["d_ece"]
    ).to_numpy() == pytest.approx(same["ece"].to_numpy())
    assert table["entropy_first"].iloc[0] == pytest.approx(2 - 0.055) and table[
        "entropy_last"
    ].iloc[0] == pytest.approx(2 - 0.355)
    figure, _ = figures.ablation_figure(table, logs, axis, "value")
    assert len(figure.axes) == 4


def test_seed_spread_stands_apart_from_question_intervals(records):
    one = records[records["system"] == "L1-SLM"]
    other = one.assign(correct=one["correct"] ^ (np.arange(len(one)) % 5 == 0))
    table = tables.table_seeds(
        {"L1-SLM": [one, one, other], "SLM": [records[records["system"] == "SLM"]]}, resamples=30
    )
    own = table[table["system"] == "L1-SLM"]
    assert (
        (own["seeds"] == 3).all() and (own["seed_sd"] > 0).all() and (own["question_se"] > 0).all()
    )
    assert own["mean"].between(own["lowest"] - 1e-12, own["highest"] + 1e-12).all()
    assert table.loc[table["system"] == "SLM", "seed_sd"].isna().all(), "one seed has no spread"
    figure, _ = figures.seeds_figure(table)
    assert len(figure.axes) == 3


def test_recalibrated_systems_keep_the_order(compared):
    plain, mapped = (
        compared.rows[name]["confidence"] for name in ("L1-SLM-Verb", "L1-SLM-Verb-Isotonic")
    )
    assert mapped.isna().equals(plain.isna())
    is_test = compared.rows["L1-SLM-Verb"]["group"] != systems.CALIBRATION
    means = mapped[is_test].groupby(plain[is_test]).mean()
    assert means.is_monotonic_increasing and next(iter(sources.RECALIBRATIONS)) == "isotonic"
