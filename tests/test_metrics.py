"""Metrics against tables, scikit-learn, plain loops, published values and each other."""

from __future__ import annotations

import json
import math
import warnings
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from corea import metrics
from corea.metrics import Interval

nan = float("nan")
TENTHS = st.sampled_from([n / 10 for n in range(11)])
ANSWERS = st.lists(st.tuples(TENTHS | st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


# --- tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "closed", "expected", "reason"),
    [
        ([0.1, 0.15], "left", 0.375, "the edge .1 goes up, to .15"),
        ([0.1, 0.15], "right", 0.525, "the edge .1 stays below, away from .15"),
        (
            [0.3, 0.35],
            "left",
            0.175,
            "the edge is the decimal .3, not linspace's .30000000000000004",
        ),
        ([1.0, 0.95], "left", 0.475, "the last edge belongs to the last bin"),
        ([0.0, 0.05], "right", 0.475, "the first edge belongs to the first bin"),
    ],
)
def test_ece_on_bin_edges(confidence, closed, expected, reason):
    assert metrics.ece(confidence, [1, 0], closed=closed) == pytest.approx(expected), reason


@pytest.mark.parametrize("edge", [n / 10 for n in range(1, 10)])
def test_every_tenth_stands_on_its_edge(edge):
    """A right answer on the edge and a wrong one just above it share the left-closed bin."""
    gap = 1 - 2 * edge - 0.01
    assert metrics.ece([edge, edge + 0.01], [1, 0]) == pytest.approx(abs(gap) / 2)
    apart = (1 - edge + edge + 0.01) / 2
    assert metrics.ece([edge, edge + 0.01], [1, 0], closed="right") == pytest.approx(apart)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([0.9, 0.1], [1, 0], 1.0),
        ([0.9, 0.1], [0, 1], 0.0),
        ([0.5, 0.5], [1, 0], 0.5),  # a constant tells nothing
        ([0.9, 0.5, 0.5], [1, 1, 0], 0.75),  # one pair won, one tied
        ([0.9, 0.5], [1, 1], nan),  # no wrong answer to rank
        ([0.9, 0.5], [0, 0], nan),
        ([nan, 0.5], [1, 0], nan),  # the only right answer stated no confidence
        ([], [], nan),
    ],
)
def test_auroc(confidence, correct, expected):
    assert metrics.auroc(confidence, correct) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("coverage", "expected", "reason"),
    [
        (0.07, 1.0, "0.07 * 100 is 7.000000000000001 in floats and must not become 8"),
        (0.075, 7 / 8, "half a row is rounded up to the eighth, which is wrong"),
        (1, 0.07, "all"),
    ],
)
def test_selective_accuracy_counts_whole_rows(coverage, expected, reason):
    confidence, correct = np.linspace(1, 0, 100), np.arange(100) < 7
    assert metrics.selective_accuracy(confidence, correct, coverage) == pytest.approx(expected), (
        reason
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.ece([0.5, 1.5], [0, 1]), "confidence 1.5 at row 1 is outside"),
        (lambda: metrics.brier([0.5], [2]), "other than 0, 1"),
        (lambda: metrics.brier([0.5], [nan]), "other than 0, 1"),
        (lambda: metrics.brier([0.5, 0.5], [1]), r"\(1,\).*\(2,\)"),
        (lambda: metrics.ece([0.5], [1], bins=0), "bins=0"),
        (lambda: metrics.ece([0.5], [1], bins=[0, 0.5]), "edges must rise from 0 to 1"),
        (lambda: metrics.ece([0.5], [1], closed="both"), 'use "left" or "right"'),
        (lambda: metrics.selective_accuracy([0.5], [1], 0), "coverage=0"),
        (lambda: metrics.evaluate([], [], []), "0 question ids for 0 rows"),
        (lambda: metrics.evaluate(["a", None], [1, 1], [1, 1]), "1 question ids for 2 rows"),
        (lambda: metrics.evaluate_sets(frame([]).iloc[:0]), "no records"),
    ],
)
def test_refusals_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# --- peers' cases -----------------------------------------------------------------------


def peers_value(case: dict, shared) -> tuple[object, object]:
    """(ours, theirs) for a row of calibration_metrics.jsonl."""
    if case["metric"] == "rlcr_published":
        rows = pd.read_csv(shared / case["data"].split(" ")[0]).query("model == @case['model']")
        confidence, correct = rows["confidence"], rows["correct"]
        found = metrics.evaluate(rows["row"], correct, confidence, resamples=0)
        ours = [found[name].value for name in ("ece", "brier", "auroc", "pass1")]
        # The published code's edges are linspace's, ours the decimals: both must give its numbers.
        ours.append(metrics.ece(confidence, correct, bins=np.linspace(0, 1, 11)))
        names = ("ece_10bins_left_closed", "brier", "auroc", "accuracy", "ece_10bins_left_closed")
        return ours, [case[name] for name in names]
    given = case["confidence"], case["correct"]
    if case["metric"].startswith("selective_accuracy"):
        # Mean accuracy over all coverages, and accuracy once the less confident 90% are rejected.
        return [1 - metrics.aurc(*given), metrics.selective_accuracy(*given, 0.1)], case["expected"]
    bins = case["num_bins"]
    if case["metric"] == "ece_equal_mass":
        bins = equal_mass_edges(case["confidence"], bins)
    return metrics.ece(*given, bins=bins, closed="right"), case["expected"]


def equal_mass_edges(confidence, bins: int) -> np.ndarray:
    """Edges halfway between neighbouring rows that part the rows into bins of equal counts."""
    parts = [part for part in np.array_split(np.sort(confidence), bins) if len(part)]
    halfway = [(below[-1] + above[0]) / 2 for below, above in pairwise(parts)]
    return np.unique([-np.inf, *halfway, np.inf])


def test_every_row_of_the_peers_cases(shared):
    lines = (shared / "cases" / "calibration_metrics.jsonl").read_text().splitlines()
    for line in lines:
        ours, theirs = peers_value(json.loads(line), shared)
        assert ours == pytest.approx(theirs, abs=1e-9), line
    assert len(lines) == 36


# --- two implementations that must agree -----------------------------------------------


def loop_ece(rows, bins=10, closed="left"):
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        if closed == "left":
            inside = [r for r in rows if low <= r[0] < high or (r[0] == 1 and b == bins - 1)]
        else:
            inside = [r for r in rows if low < r[0] <= high or (r[0] == 0 and b == 0)]
        total += abs(sum(c - y for c, y in inside))
    return total / len(rows)


def loop_aurc(rows):
    """The mean over all orders of the rows that confidence allows, one by one."""
    areas = []
    for order in permutations(rows):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            risks = [1 - np.mean([y for _, y in order[:k]]) for k in range(1, len(rows) + 1)]
            areas.append(np.mean(risks))
    return np.mean(areas)


@given(ANSWERS, st.sampled_from(["left", "right"]), st.integers(1, 12))
def test_ece_agrees_with_a_loop(rows, closed, bins):
    confidence, correct = zip(*rows, strict=True)
    ours = metrics.ece(confidence, correct, bins=bins, closed=closed)
    assert ours == pytest.approx(loop_ece(rows, bins, closed), abs=1e-12)
    table = metrics.reliability(confidence, correct, bins=bins, closed=closed)
    gaps = (table["confidence"] - table["accuracy"]).abs() * table["count"]
    assert gaps.sum() / len(rows) == pytest.approx(ours, abs=1e-12)
    assert table["count"].sum() == len(rows)
    assert table["confidence"].between(table["low"] - 1e-12, table["high"] + 1e-12).all()


@given(ANSWERS)
def test_auroc_and_brier_agree_with_scikit_learn(rows):
    confidence, correct = zip(*rows, strict=True)
    theirs = roc_auc_score(correct, confidence) if len(set(correct)) == 2 else nan
    assert metrics.auroc(confidence, correct) == pytest.approx(theirs, abs=1e-9, nan_ok=True)
    theirs = brier_score_loss(correct, confidence, pos_label=True, labels=[False, True])
    assert metrics.brier(confidence, correct) == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_the_orders_of_ties(rows):
    confidence, correct = zip(*rows, strict=True)
    assert metrics.aurc(confidence, correct) == pytest.approx(loop_aurc(rows), abs=1e-12)


@given(ANSWERS, st.integers(0, 5))
def test_unstated_confidences_and_row_order_change_no_calibration_metric(rows, unstated):
    confidence, correct = zip(*rows, strict=True)
    more = [*reversed(confidence), *[None] * unstated], [*reversed(correct), *[True] * unstated]
    for metric in (metrics.ece, metrics.brier, metrics.auroc, metrics.aurc):
        before = metric(confidence, correct)
        assert metric(*more) == pytest.approx(before, abs=1e-12, nan_ok=True)


# --- intervals --------------------------------------------------------------------------


def frame(datasets, questions=30, samples=4, seed=0, skill=0.0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for dataset in datasets:
        for q in range(questions):
            chance = rng.random()
            for _ in range(samples):
                stated = np.clip(chance + rng.normal(0, 0.3), 0, 1).round(1)
                correct = rng.random() < min(1, chance + skill)
                rows.append(
                    (dataset, f"{dataset}{q}", correct, None if rng.random() < 0.1 else stated)
                )
    return pd.DataFrame(rows, columns=["dataset", "question_id", "correct", "confidence"])


def columns(rows: pd.DataFrame):
    return rows["question_id"], rows["correct"], rows["confidence"]


def test_values_are_those_of_the_plain_functions():
    rows = frame(["a"])
    found = metrics.evaluate(*columns(rows), resamples=50)
    given = rows["confidence"], rows["correct"]
    for name in ("ece", "brier", "auroc", "aurc"):
        assert found[name].value == pytest.approx(getattr(metrics, name)(*given), abs=1e-12)
    by_question = rows.groupby("question_id")["correct"]
    assert found["pass1"].value == pytest.approx(by_question.mean().mean())
    assert found["levels"].value == rows["confidence"].nunique()
    assert found["parse_rate"].value == rows["confidence"].notna().mean()


def test_each_resample_is_the_metric_of_the_drawn_questions():
    rows = frame(["a"], questions=7)
    draws = metrics.bootstrap(*columns(rows), resamples=20, seed=3)
    weights = np.concatenate(list(metrics.question_weights(7, 20, 3)))
    groups = [group for _, group in rows.groupby("question_id")]
    for n, weight in enumerate(weights):
        drawn = pd.concat(
            [g for g, times in zip(groups, weight, strict=True) for _ in range(int(times))]
        )
        given = drawn["confidence"], drawn["correct"]
        for name in ("ece", "brier", "auroc", "aurc"):
            expected = getattr(metrics, name)(*given)
            assert draws[name][n] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert draws["levels"][n] == drawn["confidence"].nunique()
        assert draws["parse_rate"][n] == pytest.approx(drawn["confidence"].notna().mean())
        assert draws["pass1"][n] == pytest.approx(drawn["correct"].mean())
    assert (weights.sum(axis=1) == 7).all()


def test_blocks_of_resamples_give_each_question_its_fair_share():
    blocks = list(metrics.question_weights(metrics._BLOCK // 3, 7, 0))
    assert [len(block) for block in blocks] == [1, 3, 3, 1]
    assert all((block.sum(axis=1) == metrics._BLOCK // 3).all() for block in blocks)


def test_interval_of_a_mean_is_the_textbook_one():
    correct = np.arange(400) % 2
    found = metrics.evaluate(np.arange(400), correct, np.full(400, 0.5))["pass1"]
    error = 1.96 * math.sqrt(0.25 / 400)
    assert (found.low, found.high) == pytest.approx((0.5 - error, 0.5 + error), abs=0.006)


def test_samples_of_a_question_stay_together():
    """Copies of each answer add no information, so the interval must not shrink."""
    rows = frame(["a"], samples=1)
    copies = pd.concat([rows] * 8)
    once, often = (metrics.evaluate(*columns(r), resamples=300) for r in (rows, copies))
    for name in ("pass1", "ece", "brier", "auroc"):
        assert (often[name].low, often[name].high) == pytest.approx(
            (once[name].low, once[name].high)
        )


def test_intervals_hold_their_value_repeat_by_seed_and_ignore_row_order():
    rows = frame(["a"])
    found = metrics.evaluate(*columns(rows), seed=1)
    assert all(i.low <= i.value <= i.high for i in found.values())
    assert found == metrics.evaluate(*columns(rows.sample(frac=1, random_state=0)), seed=1)
    assert found["ece"] != metrics.evaluate(*columns(rows), seed=2)["ece"]


@pytest.mark.parametrize(
    ("correct", "confidence", "undefined"),
    [
        ([1, 0], [None, None], {"ece", "brier", "auroc", "aurc"}),  # nothing stated
        ([1, 1], [0.5, 1.0], {"auroc"}),  # nothing wrong
    ],
)
def test_what_is_not_defined_is_nan_without_a_warning(correct, confidence, undefined):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.evaluate(["a", "b"], correct, confidence, resamples=20)
    for name, interval in found.items():
        assert math.isnan(interval.value) == (name in undefined), name
        assert math.isnan(interval.low) == math.isnan(interval.high) == (name in undefined), name


def test_resamples_without_both_classes_are_left_out():
    found = metrics.evaluate(["a", "b", "c"], [1, 0, 1], [0.9, 0.1, 0.8], resamples=100)
    assert found["auroc"] == Interval(1.0, 1.0, 1.0)


def test_mean_over_datasets_is_plain_and_sets_do_not_disturb_each_other():
    rows = frame(["a", "b"])
    found = metrics.evaluate_sets(rows, resamples=200)
    assert list(found) == ["a", "b", "mean"]
    alone = metrics.evaluate_sets(rows[rows["dataset"] == "b"], resamples=200)
    assert found["b"] == alone["b"] == alone["mean"]
    for name in ("pass1", "ece", "auroc"):
        mean = (found["a"][name].value + found["b"][name].value) / 2
        assert found["mean"][name].value == pytest.approx(mean)


def test_datasets_are_resampled_independently():
    """The mean of two sets with equal rows varies by 1 / sqrt(2) of each."""
    rows = frame(["a"], questions=100)
    found = metrics.evaluate_sets(pd.concat([rows, rows.assign(dataset="b")]))
    width = {d: found[d]["pass1"].high - found[d]["pass1"].low for d in found}
    assert width["mean"] / width["a"] == pytest.approx(math.sqrt(0.5), abs=0.1)


def test_intervals_are_widened_to_hold_what_resampling_biases():
    """In resamples calibration looks worse than perfect, and levels stated once go missing."""
    right = np.arange(100) % 10 < np.repeat([2, 8], 50)
    ece = metrics.evaluate(np.arange(100), right, np.repeat([0.2, 0.8], 50))["ece"]
    assert ece.value == pytest.approx(0) and ece.low == ece.value < ece.high
    levels = metrics.evaluate(np.arange(50), np.ones(50), np.arange(50) / 50)["levels"]
    assert levels.low < levels.value == levels.high == 50


def test_paired_difference_is_on_the_same_questions():
    rows = frame(["a", "b"])
    same = metrics.paired_difference(rows, rows.sample(frac=1, random_state=1), resamples=50)
    zero = pytest.approx(0, abs=1e-12)
    assert all((i.low, i.high) == (zero, zero) for metric in same.values() for i in metric.values())
    better = rows.assign(correct=True)
    gain = metrics.paired_difference(better, rows, resamples=50)["mean"]["pass1"]
    assert gain.value == pytest.approx(1 - rows["correct"].mean())
    assert 0 < gain.low < gain.value < gain.high
    assert math.isnan(metrics.paired_difference(better, rows)["a"]["auroc"].value)


def test_paired_difference_refuses_other_questions():
    rows = frame(["a"])
    with pytest.raises(ValueError, match="question 'a0' of 'a' is on one side only"):
        metrics.paired_difference(rows[rows["question_id"] != "a0"], rows)


def test_means_of_several_columns_are_paired():
    values = np.random.default_rng(0).random(60)
    rows = pd.DataFrame({"question_id": np.arange(60) // 3})
    draws = metrics.question_means(rows, {"x": values, "y": values + 0.25})
    assert draws["x"].shape == (1001,)
    assert draws["x"][0] == pytest.approx(values.mean())
    assert np.ptp(draws["y"] - draws["x"]) < 1e-12 < np.ptp(draws["x"])


@pytest.mark.parametrize(
    ("interval", "bound", "above", "expected"),
    [
        ((0.20, 0.30), 0.15, True, "yes"),
        ((0.15, 0.30), 0.15, True, "undecided"),  # it touches the bound
        ((0.10, 0.30), 0.15, True, "undecided"),
        ((0.01, 0.14), 0.15, True, "no"),
        ((-0.01, 0.01), 0.02, False, "yes"),
        ((0.01, 0.03), 0.02, False, "undecided"),
        ((0.03, 0.05), 0.02, False, "no"),
        ((nan, nan), 0.02, False, "undecided"),
    ],
)
def test_a_bound_is_judged_by_the_interval(interval, bound, above, expected):
    assert metrics.verdict(*interval, bound, above) == expected
