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
    assert compared.routers == ("Router+RLVR-SLM", "Length+L1-SLM")


def test_systems_stand_by_kind_with_the_papers_first(compared):
    kinds = [compared.kinds[name] for name in compared.rows]
    assert kinds == sorted(kinds, key=systems.KINDS.index) and set(kinds) == set(systems.KINDS)
    assert compared.kinds["COREA+"] == "ours" and compared.kinds["Random"] == "baseline"
    assert list(compared.of_kind("paper").rows) == list(PAPERS_NAMES)
    bounds = set(compared.of_kind("bound").rows)
    assert bounds == {"L1-SLM-Others", "Oracle-L1-SLM", "Oracle"}


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
        assert repr(other.thresholds[rule]) == repr(thresholds)  # an equal NaN is not equal
    assert (other.budget, other.pass1) == (compared.budget, compared.pass1)
    pd.testing.assert_frame_equal(other.chosen, compared.chosen)
    for name in set(compared.rows) - set(compared.of_kind("bound").rows):  # they hold outcomes
        pd.testing.assert_series_equal(
            other.rows[name]["confidence"], compared.rows[name]["confidence"]
        )


def test_the_rules_mean_what_they_say(compared):
    known = compared.llm[compared.llm["group"] == systems.CALIBRATION]
    fixed = compared.thresholds[systems.PAPER_RULE]
    assert {fixed[name] for name in PAPERS_NAMES} == {cascade.llm_pass1(known)}
    assert set(compared.rows) - set(fixed) == set(compared.scores)
    assert set(compared.scores) >= {"Oracle", "L1-SLM-Gain", "Random", "Length+L1-SLM"}
    for rule, column, least in (
        (systems.BUDGET_RULE, "cost", -compared.budget),
        (systems.EQUAL_RULE, "correct", compared.pass1),
    ):
        exact = []
        for name, mix in compared.thresholds[rule].items():
            rows = compared.rows[name]
            rows = rows[rows["group"] == systems.CALIBRATION]
            how = {"before_generation": name in compared.routers}
            at = cascade.replay(rows, known, mix, PRICES, **how)[column].mean()
            reached = -at if column == "cost" else at
            assert reached >= least - 1e-12, (rule, name)
            exact.append(reached <= least + 1e-12)
        # The LLM is cheap here, so that COREA's budget is more than the best mix can spend.
        assert np.mean(exact) > 0.7 or rule == systems.BUDGET_RULE, "at equal accuracy"


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
    """Least cost at a Pass@1 by trying every threshold and every mix of two neighbours, or of one
    and the LLM alone."""
    curve = cascade.sweep(
        *(
            rows[name]
            for name in ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
        )
    )
    # Threshold 0 keeps as much as the lowest level does.
    points = list(curve[["pass1", "cost"]].itertuples(index=False, name=None))
    found = [cost for pass1, cost in points if pass1 >= target - 1e-12]
    llm = rows["llm_correct"].mean(), rows["llm_cost"].mean()
    for (p, c), (q, d) in [*itertools.pairwise(points), *((point, llm) for point in points)]:
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


def test_a_source_that_states_nothing_leaves_the_llm_alone(compared):
    rows, llm = (
        part[part["group"] == "in-domain"] for part in (compared.rows["L1-SLM-Verb"], compared.llm)
    )
    replayed = cascade.replay(rows.assign(confidence=np.nan), llm, 0.5, PRICES)
    weights = np.full((1, len(replayed)), 1 / len(replayed))
    (found,) = cascade.cost_at_pass1(replayed, weights, 0.1)
    assert found[0] == pytest.approx(replayed["llm_cost"].mean())


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
    assert table["kind"].tolist() == ["paper"] * 3 + ["baseline"] * 3 + ["ours"] * 3
    assert table.loc[table["system"] == "L1-SLM-Gain", ["ece", "brier_low"]].isna().all().all(), (
        "a score has no ECE"
    )
    auroc = table.set_index(["system", "group"])[["auroc", "rescue_auroc"]]
    assert (auroc.loc["Random"] == 0.5).all(axis=None), "by definition: nothing is drawn"
    assert (auroc.loc["L1-SLM-Verb"] > 0.5).all(axis=None)
    assert auroc.loc["L1-SLM-Gain"].notna().all(axis=None)
    rows, llm = (
        part[part["dataset"] == "shopping"] for part in (three.rows["L1-SLM-Verb"], three.llm)
    )
    both = rows.merge(llm, on=cascade.KEY, suffixes=("", "_llm"))
    rescued = ~both["correct"] & both["correct_llm"]
    expected = metrics.auroc(both["confidence"], ~rescued)
    assert auroc["rescue_auroc"]["L1-SLM-Verb", "ood-math"] == pytest.approx(expected)
    figure, drawn = figures.sources_figure(table)
    assert len(figure.axes) == 2 and drawn.equals(table)


def test_curves_end_at_the_models_alone(compared):
    four = compared.of("L1-SLM-Verb", "Random", "Oracle", "Router+RLVR-SLM")
    figure, drawn = figures.cost_curves(four)
    assert len(figure.axes) == 3
    llm = drawn[drawn["threshold"].isna()]
    assert len(llm) == 12 and np.allclose(llm["cost"], 1) and np.allclose(llm["llm_share"], 1)
    by_panel = llm.set_index("group")["pass1"]
    dearer = drawn[(drawn["cost"] > 1 + 1e-9)]
    assert (dearer["pass1"] > dearer["group"].map(by_panel[~by_panel.index.duplicated()])).all()
    line = drawn[drawn["series"] == "Random"]
    assert (line.groupby("group")["cost"].nunique() == 2).all(), "the two models, no more"


def test_a_curve_keeps_what_no_coin_outdoes():
    curve = pd.DataFrame(
        [(0.1, 0.2, 0.5), (0.5, 0.4, 0.7), (0.9, 0.9, 0.75), (np.inf, 1.2, 0.8)],
        columns=["threshold", "cost", "pass1"],
    ).assign(llm_share=0.0, marked=False)
    found = figures._ending_at_the_llm(curve)
    assert found["cost"].tolist() == [0.2, 0.4, 1.0]
    found = figures._ending_at_the_llm(curve.assign(marked=[False, False, True, False]))
    assert found["cost"].tolist() == [0.2, 0.4, 0.9, 1.0], "the marked point is always drawn"
    above = curve.assign(cost=[0.2, 0.4, 1.1, 1.2], pass1=[0.5, 0.7, 0.9, 0.8])
    found = figures._ending_at_the_llm(above)
    assert found["cost"].tolist() == [0.2, 0.4, 1.0, 1.1], "dearer than the LLM, and better"
    assert found["threshold"].isna().tolist() == [False, False, True, False]


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
    parts = [one, one.assign(seed=1), other.assign(seed=2), records[records["system"] == "SLM"]]
    table = tables.table_seeds(pd.concat(parts), resamples=30)
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


# --- decodings, numerals and seeds ----------------------------------------------------------------


@pytest.fixture(scope="module")
def several(records) -> pd.DataFrame:
    """Two decodings, and two training seeds of L1-SLM, the second without a probe."""
    second = fake_records(questions=40, seed=9).assign(seed=1, probe=np.nan)
    both = pd.concat([records, second[second["system"] == "L1-SLM"]], ignore_index=True)
    greedy = both[both["sample"] == 0].assign(decoding="greedy", probe=np.nan)
    return pd.concat([both, greedy], ignore_index=True)


def test_decodings_are_not_mixed(several):
    for compare in (systems.compare, systems.verbalized):
        with pytest.raises(ValueError, match=r"records of the decodings greedy, t0\.7; choose one"):
            compare(several, PRICES)


@pytest.mark.parametrize("source", ["Verb", "Router", "Gain", "Consistency"])
def test_every_source_is_fitted_for_each_seed_alone(several, source):
    stated = several[several["decoding"] == "t0.7"]
    system = systems.System("x", "L1-SLM", source, "platt" if source == "Verb" else None)
    rows = systems.rows_of(system, stated)
    for seed in (0, 1):
        is_other = (stated["system"] == "L1-SLM") & (stated["seed"] != seed)
        alone = systems.rows_of(system, stated[~is_other])
        pd.testing.assert_frame_equal(rows[rows["seed"] == seed], alone)


def test_a_seed_without_a_probe_is_left_out_and_the_table_says_so(several):
    stated = several[several["decoding"] == "t0.7"]
    two = systems.compare(stated, PRICES).of("L1-SLM-Verb", "L1-SLM-Probe", "SLM-Verb")
    seeds = tables.table_cascade(two, resamples=5).groupby("system")["seeds"].unique()
    assert seeds["L1-SLM-Verb"] == [2] and seeds["L1-SLM-Probe"] == seeds["SLM-Verb"] == [1]
    equal = tables.table_equal_pass1(systems.compare(stated, PRICES), resamples=5).set_index(
        ["system", "group"]
    )
    assert (equal["seeds"]["L1-SLM-Verb"] == 2).all() and equal["pass1"].notna().all()


def test_a_cascade_of_several_seeds_is_the_mean_of_theirs(several):
    stated = several[several["decoding"] == "t0.7"]
    llm = stated[stated["system"] == "LLM"]
    slm = stated[stated["system"] == "L1-SLM"]
    parts = [slm, *(slm[slm["seed"] == seed] for seed in (0, 1))]
    both, *apart = (cascade.evaluate_cascade(part, llm, 0.6, PRICES, resamples=0) for part in parts)
    for name in ("pass1", "pass1_drop", "cost_reduction", "llm_share"):
        mean = (apart[0][name] + apart[1][name]) / 2
        assert both[name].to_numpy() == pytest.approx(mean.to_numpy()), name


def test_other_decodings_and_numerals_stand_beside_the_headline(several):
    compared = systems.decoded(several, PRICES)
    table = tables.table_cascade(*compared, resamples=5)
    found = table.groupby(["decoding", "numeral"], dropna=False, sort=False)["system"].unique()
    assert ("t0.7", "sampled") not in found.index
    assert set(found["t0.7", "greedy"]) == {
        "SLM-Verb", "RLVR-SLM-Verb", "Brier-SLM-Verb", "L1-SLM-Verb",
    }  # fmt: skip
    assert "L1-SLM-Verb" in found["greedy", "sampled"]
    assert "SLM-Digits" in found["greedy", "expected"]
    greedy = several[several["decoding"] == "greedy"]
    known = greedy[(greedy["system"] == "LLM") & (greedy["group"] == systems.CALIBRATION)]
    of_greedy = table[(table["decoding"] == "greedy") & (table["numeral"] == "sampled")]
    assert set(of_greedy["threshold"]) == {cascade.llm_pass1(known)}
    assert set(of_greedy["samples"]) == {1}


def test_a_change_is_told_under_each_decoding_and_numeral(several):
    table = tables.table_change(several, "SLM", "L1-SLM", resamples=20)
    read = table[["decoding", "numeral"]].drop_duplicates().to_numpy().tolist()
    assert read == [[d, n] for d in ("t0.7", "greedy") for n in sources.NUMERALS]
    assert (table["seeds"] == 2).all() and set(table["metric"]) == set(tables.METRICS)
    gap = table["after"] - table["before"]
    assert gap.to_numpy() == pytest.approx(table["difference"].to_numpy())
