"""The cascade: one rule, online and offline, by loop and by sums, and its thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corea import cascade, metrics
from corea.cascade import Cascade
from corea.costs import Price, PriceList
from corea.parser import parse
from corea.policies import Policy
from corea.questions.base import Question, content_id

nan, inf = float("nan"), math.inf
PRICES = PriceList(Price(0.07, 0.31), Price(1.1, 2.3), source="made up for the test")
LEVELS = [None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]


# --- online and offline ------------------------------------------------------------------


@dataclass(frozen=True)
class Completion:
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str = "stop"


class Replay:
    """An engine that reads its completions from a dictionary and remembers what it was asked."""

    def __init__(self, name, found):
        self.name, self.found, self.asked = name, found, []

    def complete(self, questions, *, samples=1, seed=0):
        self.asked.append(([q.id for q in questions], samples))
        return [[self.found[q.id, s, seed] for s in range(samples)] for q in questions]


def engine(name, ids, samples, seed, confidences=LEVELS) -> Replay:
    rng = np.random.default_rng([seed, len(name), ord(name[0])])
    found = {}
    for key in ((i, s, seed) for i in ids for s in range(samples)):
        confidence = confidences[rng.integers(len(confidences))]
        stated = "" if confidence is None else f"<confidence>{confidence}</confidence>"
        text = f"<think>so</think><answer>{rng.integers(3)}</answer>{stated}"
        found[key] = Completion(text, int(rng.integers(5, 50)), int(rng.integers(1, 90)))
    return Replay(name, found)


def records(replay: Replay, gold="1") -> pd.DataFrame:
    """The records that the grader would have written for an engine's completions."""
    rows = []
    for (question, sample, _), completion in replay.found.items():
        response = parse(completion.text)
        row = {
            "dataset": "toy",
            "question_id": question,
            "sample": sample,
            "answer": response.answer,
        }
        row |= {"correct": response.answer == gold, "confidence": response.confidence}
        row |= {name: getattr(completion, name) for name in ("prompt_tokens", "completion_tokens")}
        rows.append(row)
    return pd.DataFrame(rows).astype({"confidence": float})


@pytest.mark.parametrize("threshold", [0, 0.3, 0.31, 0.7, 1, inf])
@pytest.mark.parametrize("samples", [1, 4])
def test_online_and_offline_agree_exactly(threshold, samples):
    ids = [f"q{n}" for n in range(25)]
    slm, llm = engine("slm", ids, samples, 7), engine("llm", ids, samples, 7)
    questions = [Question(i, id=i) for i in ids]
    online = Cascade(slm, llm, threshold, PRICES).answer(questions, samples=samples, seed=7)

    shuffled = records(llm).sample(frac=1, random_state=0)
    offline = cascade.replay(records(slm), shuffled, threshold, PRICES)
    offline = offline.set_index(["question_id", "sample"]).loc[
        [(a.question_id, a.sample) for a in online]
    ]
    assert [a.answer for a in online] == offline["answer"].tolist()
    assert [a.cost for a in online] == offline["cost"].tolist()  # to the last bit
    assert [a.source for a in online] == offline["source"].tolist()
    assert [nan if a.confidence is None else a.confidence for a in online] == pytest.approx(
        offline["confidence"].tolist(), abs=0, nan_ok=True
    )
    row = at_threshold(sweep_columns(offline), threshold)
    assert row["pass1"] == np.mean([a.answer == "1" for a in online])
    assert row["llm_share"] == np.mean([a.source == "llm" for a in online])
    # A sweep sums differences, by level; `fsum` is exact. They agree to rounding, not to the last bit.
    assert row["cost"] == pytest.approx(math.fsum(a.cost for a in online) / len(online), rel=1e-14)


def sweep_columns(rows: pd.DataFrame):
    names = ("confidence", "slm_correct", "llm_correct", "slm_cost", "llm_cost")
    return [rows[name].to_numpy() for name in names]


def at_threshold(columns, threshold) -> pd.Series:
    """The row of a sweep that holds for any one threshold: nothing changes below the next one."""
    curve = cascade.sweep(*columns)
    return curve.iloc[curve["threshold"].searchsorted(threshold)]


def script(*confidences):
    texts = [f"<answer>1</answer><confidence>{c}</confidence>" for c in confidences]
    return [Completion(text, 10, 20) for text in texts]


@pytest.mark.parametrize(
    ("confidences", "threshold", "asked", "reason"),
    [
        ({"a": [0.9], "b": [0.9]}, 0.9, [], "nothing deferred: the LLM is not called at all"),
        ({"a": [0.9], "b": [0.8]}, 0.9, [(["b"], 1)], "only the deferred question is asked"),
        ({"a": [0.1, 0.9], "b": [0.9, 0.9]}, 0.5, [(["a"], 1)], "sample 0 alone: one is enough"),
        ({"a": [0.9, 0.1], "b": [0.1, 0.9]}, 0.5, [(["a", "b"], 2)], "sample 1 needs index 1"),
    ],
)
def test_the_llm_is_asked_only_for_what_is_deferred(confidences, threshold, asked, reason):
    slm = {(i, s, 0): c for i, row in confidences.items() for s, c in enumerate(script(*row))}
    llm = {key: Completion("<answer>2</answer>", 10, 20) for key in slm}
    replays = Replay("slm", slm), Replay("llm", llm)
    samples = len(confidences["a"])
    questions = [Question(i, id=i) for i in confidences]
    answers = Cascade(*replays, threshold, PRICES).answer(questions, samples=samples)
    assert replays[1].asked == asked, reason
    assert replays[0].asked == [(list(confidences), samples)]
    for answer in answers:
        kept = answer.confidence >= threshold
        assert (answer.answer, answer.source) == (("1", "slm") if kept else ("2", "llm"))
        assert answer.text.startswith("<answer>1") == kept
        alone = PRICES.slm.cost(10, 20)
        assert answer.cost == (alone if kept else alone + PRICES.llm.cost(10, 20))


def test_an_answer_without_a_confidence_is_deferred_at_any_threshold():
    slm = Replay("slm", {("a", 0, 0): Completion("<answer>1</answer>", 1, 1)})
    llm = Replay("llm", {("a", 0, 0): Completion("<answer>2</answer>", 1, 1)})
    answer = Cascade(slm, llm, 0)(Question("1+1", id="a"))
    assert (answer.answer, answer.source, answer.confidence) == ("2", "llm", None)
    assert answer.cost is None  # no prices: not known, and not 0
    assert Cascade(slm, llm, 0).answer([]) == []


def test_a_text_is_a_question():
    completion = Completion("<answer>4</answer><confidence>0.9</confidence>", 1, 1)
    slm = Replay("slm", {(content_id("2+2"), 0, 0): completion})
    answer = Cascade(slm, None, 0.5)("2+2")
    assert (answer.text, answer.answer, answer.source) == (completion.text, "4", "slm")
    assert Cascade(slm, None, 0.5).answer(["2+2"]) == [answer]


def test_an_engine_that_gives_too_few_completions_is_refused():
    class Short(Replay):
        def complete(self, questions, *, samples=1, seed=0):
            return [script(0.5) for _ in questions]

    with pytest.raises(
        ValueError, match="engine 'slm' gave completions for 1 questions, not 2 for"
    ):
        Cascade(Short("slm", {}), None, 0.5).answer(["a"], samples=2)


# --- the sweep -----------------------------------------------------------------------------


ROWS = st.lists(
    st.tuples(
        st.sampled_from([nan, *LEVELS[1:]]) | st.floats(0, 1),
        st.booleans(),
        st.booleans(),
        st.floats(0, 10),
        st.floats(0, 50),
    ),
    min_size=1,
    max_size=30,
)


def loop(rows, threshold) -> dict[str, float]:
    right = spent = kept = 0
    for confidence, slm_correct, llm_correct, slm_cost, llm_cost in rows:
        keep = confidence >= threshold
        kept += keep
        right += slm_correct if keep else llm_correct
        spent += slm_cost + (0 if keep else llm_cost)
    shares = {"pass1": right, "cost": spent, "llm_share": len(rows) - kept}
    return {"threshold": threshold, **{k: v / len(rows) for k, v in shares.items()}, "kept": kept}


@given(ROWS)
def test_sweep_agrees_with_a_loop_at_every_threshold(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    curve = cascade.sweep(*columns)
    stated = {c for c in columns[0] if not math.isnan(c)}
    assert curve["threshold"].tolist() == sorted({0.0, inf} | stated)
    for row in curve.to_dict("records"):
        expected = loop(rows, row["threshold"])
        assert row == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(ROWS, st.randoms(use_true_random=False))
def test_sweep_does_not_depend_on_the_order_of_rows(rows, random):
    curve = cascade.sweep(*zip(*rows, strict=True))
    random.shuffle(rows)
    pd.testing.assert_frame_equal(curve, cascade.sweep(*zip(*rows, strict=True)), check_exact=True)


def test_ends_of_the_curve():
    curve = cascade.sweep([0.2, None, 0.8], [1, 0, 1], [0, 1, 1], [1, 1, 1], [6, 6, 9])
    first, last = curve.iloc[0], curve.iloc[-1]
    assert curve["threshold"].tolist() == [0.0, 0.2, 0.8, inf]
    assert (first["kept"], first["pass1"], first["cost"]) == (
        2,
        1.0,
        3.0,
    )  # the unstated is deferred
    assert (last["kept"], last["pass1"], last["cost"]) == (0, pytest.approx(2 / 3), 8.0)
    assert last["llm_share"] == 1


def test_cost_arithmetic_of_the_cascade():
    """Over the LLM's it is r + d k: SLM over LLM, share deferred, relative cost of the deferred."""
    columns = [0.2, 0.9, 0.9, 0.4], [0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [9, 3, 3, 5]
    row = at_threshold(columns, 0.5)
    r, d, k = 4 / 20, 0.5, 7 / 5
    assert row["cost"] / 5 == pytest.approx(r + d * k)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], [], [], [], []), "rows"),
        (([0.5], [1], [1], [1, 1], [1]), r"are \(1,\), \(2,\), \(1,\); all must be \(rows,\)"),
        (([0.5] * 3, [1] * 3, [1] * 3, 1, 4), r"are \(3,\), \(\), \(\); all must be"),
        (([0.5], [1, 0], [1], [1], [1]), "both must be"),
        (([0.5], [1], [2], [1], [1]), "other than 0, 1"),
        (([1.5], [1], [1], [1], [1]), "outside"),
        (([0.5], [1], [1], [-1], [1]), "a cost is negative or not finite"),
        (([0.5], [1], [1], [1], [nan]), "a cost is negative or not finite"),
    ],
)
def test_sweep_refuses(columns, message):
    with pytest.raises(ValueError, match=message) as error:
        cascade.sweep(*columns)
    assert "\n" not in str(error.value)


def test_a_confidence_that_knows_nothing_lies_on_the_random_line():
    rng = np.random.default_rng(0)
    n = 40_000
    right = [rng.random(n) < p for p in (0.5, 0.8)]
    curve = cascade.sweep(rng.integers(11, size=n) / 10, *right, np.ones(n), np.full(n, 5.0))
    expected = 0.5 + curve["llm_share"] * 0.3
    assert (curve["pass1"] - expected).abs().max() < 0.02


# --- records ---------------------------------------------------------------------------------


def pair(datasets=("a", "b"), questions=20, samples=3) -> tuple[pd.DataFrame, pd.DataFrame]:
    sides = []
    for side in ("slm", "llm"):
        parts = []
        for n, dataset in enumerate(datasets):
            ids = [f"{dataset}/{q}" for q in range(questions)]
            parts.append(records(engine(side, ids, samples, n)).assign(dataset=dataset))
        sides.append(pd.concat(parts, ignore_index=True))
    return sides[0], sides[1]


def test_evaluate_cascade_is_the_sweep_of_each_set_and_their_plain_mean():
    slm, llm = pair()
    table = cascade.evaluate_cascade(slm, llm, 0.5, PRICES, resamples=100).set_index("dataset")
    assert table.index.tolist() == ["a", "b", "mean"]
    for dataset in "ab":
        rows = cascade.replay(slm[slm.dataset == dataset], llm[llm.dataset == dataset], 0.5, PRICES)
        expected, found = at_threshold(sweep_columns(rows), 0.5), table.loc[dataset]
        assert found["pass1"] == pytest.approx(expected["pass1"])
        assert found["llm_share"] == pytest.approx(expected["llm_share"])
        assert found["cost"] == pytest.approx(1000 * expected["cost"])
        assert found["pass1_drop"] == pytest.approx(rows["llm_correct"].mean() - expected["pass1"])
        reduction = 1 - expected["cost"] / rows["llm_cost"].mean()
        assert found["cost_reduction"] == pytest.approx(reduction)
        assert (found["questions"], found["samples"]) == (20, 3)
    for name in ("pass1", "pass1_drop", "cost", "cost_reduction", "llm_share"):
        assert table.loc["mean", name] == pytest.approx(table.loc[["a", "b"], name].mean())
        assert (table[f"{name}_low"] <= table[name]).all() and (
            table[name] <= table[f"{name}_high"]
        ).all()


def test_records_are_replayed_by_a_policy_as_by_its_threshold():
    policy = Policy(0.5, 0.02, 0.9, True, 400, {})
    for function in (cascade.replay, cascade.evaluate_cascade):
        by_policy, by_threshold = (function(*pair(), rule, PRICES) for rule in (policy, 0.5))
        pd.testing.assert_frame_equal(by_policy, by_threshold)


def test_rows_and_sets_keep_the_order_of_the_slm_records():
    slm, llm = pair(datasets=("b", "a"))
    rows = cascade.replay(slm, llm.iloc[::-1], 0.5, PRICES)
    assert rows[cascade.KEY].equals(slm[cascade.KEY])
    table = cascade.evaluate_cascade(slm, llm, 0.5, PRICES, resamples=0)
    assert table["dataset"].tolist() == ["b", "a", "mean"]
    assert table["samples"].dtype.kind == "i"


def test_intervals_of_a_cascade_are_paired():
    """Deferring all gives the LLM's answers: no drop on any resample, while Pass@1 varies."""
    slm, llm = pair()
    table = cascade.evaluate_cascade(slm, llm, inf, PRICES, resamples=100)
    assert (table[["pass1_drop", "pass1_drop_low", "pass1_drop_high"]] == 0).all().all()
    assert (table["pass1_low"] < table["pass1_high"]).all()
    assert (table["llm_share"] == 1).all() and (table["cost_reduction_high"] < 0).all()


def test_another_confidence_can_decide():
    slm, llm = pair()
    oracle = slm.assign(confidence=np.where(slm["correct"], 0.9, 0.1))
    table = cascade.evaluate_cascade(oracle, llm, 0.5, PRICES, resamples=10)
    assert (table["pass1_drop"] <= 0).all()  # an oracle loses nothing
    with pytest.raises(ValueError, match="slm records lack the column 'confidence'"):
        cascade.replay(slm.drop(columns="confidence"), llm, 0.5, PRICES)


def without_first(rows):
    return rows.iloc[1:]


def with_first_twice(rows):
    return pd.concat([rows, rows.iloc[:1]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, m: (s, without_first(m)), "llm records lack question 'a/0' of 'a', sample 0"),
        (lambda s, m: (without_first(s), m), "slm records lack question 'a/0' of 'a', sample 0"),
        (
            lambda s, m: (s, with_first_twice(m)),
            "llm records hold question 'a/0' of 'a', sample 0 twice",
        ),
        (
            lambda s, m: (with_first_twice(s), m),
            "slm records hold question 'a/0' of 'a', sample 0 twice",
        ),
        (lambda s, m: (s, m.drop(columns="correct")), "llm records lack the column 'correct'"),
        (lambda s, m: (s.iloc[:0], m.iloc[:0]), "no records"),
    ],
)
def test_records_that_do_not_join_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message) as error:
        cascade.evaluate_cascade(*spoil(*pair()), 0.5, PRICES)
    assert "\n" not in str(error.value)


# --- thresholds -------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 0.69, 1, inf, np.float64(0.5)])
def test_a_threshold_is_a_number(good):
    assert cascade.checked_threshold(good) == good


@pytest.mark.parametrize("bad", [-0.1, 1.1, 69, nan, -inf, None, "0.5", True])
def test_thresholds_outside_the_range_are_refused(bad):
    with pytest.raises(ValueError, match="it must be in \\[0, 1\\], or infinity to defer all"):
        cascade.checked_threshold(bad)
    with pytest.raises(ValueError, match="threshold="):
        Cascade(None, None, bad)


def test_llm_pass1_is_the_mean_over_questions():
    rows = pd.DataFrame({"dataset": "toy", "question_id": [0, 0, 0, 1], "correct": [1, 1, 0, 0]})
    assert cascade.llm_pass1(rows) == pytest.approx(1 / 3)
    assert (
        cascade.llm_pass1(rows)
        == metrics.evaluate(rows["question_id"], rows["correct"], [nan] * 4)["pass1"].value
    )
    with pytest.raises(ValueError, match="no calibration records"):
        cascade.llm_pass1(rows.iloc[:0])


CURVE = pd.DataFrame(
    [
        (0.0, 0.5, 1.0, 9),
        (0.5, 0.7, 2.0, 6),
        (0.7, 0.7, 3.0, 4),
        (0.9, 0.8, 5.0, 1),
        (inf, 0.75, 6.0, 0),
    ],
    columns=["threshold", "pass1", "cost", "kept"],
)


@pytest.mark.parametrize(
    ("budget", "expected", "reason"),
    [
        (2.0, 0.5, "the budget itself is within it"),
        (4.0, 0.5, "of equal accuracies the cheaper"),
        (5.5, 0.9, "the best that is affordable"),
        (inf, 0.9, "more money than the best needs"),
    ],
)
def test_best_under_budget(budget, expected, reason):
    assert cascade.best_under_budget(CURVE, budget) == expected, reason


@pytest.mark.parametrize(
    "budget, message", [(0.9, "the cheapest costs 1"), (nan, "no threshold costs at most nan")]
)
def test_best_under_budget_refuses(budget, message):
    with pytest.raises(ValueError, match=message):
        cascade.best_under_budget(CURVE, budget)


def test_an_llm_without_errors_gives_a_warning():
    rows = pd.DataFrame({"dataset": "toy", "question_id": [0, 1], "correct": [1, 1]})
    with pytest.warns(UserWarning, match="the LLM made no error"):
        assert cascade.llm_pass1(rows) == 1
