"""Confidence from elsewhere: what each source gives, that it is fitted on calibration alone, and how it fails."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from corea import evaluation
from corea.analysis import sources
from tests.fakes import fake_records


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return fake_records(questions=60)


@pytest.fixture(scope="module")
def slm(records) -> pd.DataFrame:
    return records[records["system"] == "SLM"].reset_index(drop=True)


@pytest.fixture(scope="module")
def llm(records) -> pd.DataFrame:
    return records[records["system"] == "LLM"].reset_index(drop=True)


# --- token probabilities ---


def test_average_probability_is_what_was_kept(slm):
    assert sources.average_probability(slm).equals(slm["mean_probability"])
    assert sources.average_probability(slm, "answer").equals(slm["answer_probability"])
    with pytest.raises(ValueError, match="over='mean' is not one of all, answer"):
        sources.average_probability(slm, "mean")


def test_records_without_logprobs_are_one_clear_line(slm):
    with pytest.raises(
        ValueError, match="records hold no mean_probability: generate them with log-probabilities"
    ):
        sources.average_probability(slm.assign(mean_probability=None))


@pytest.mark.parametrize(
    ("numerals", "digits", "mass", "reason"),
    [
        ("0.0:0.5 1:0.5", 0.5, 1.0, "a coin between 0 and 1"),
        ("0.7:0.2 0.8:0.2", 0.75, 0.4, "over what is known; the truncated mass is stated"),
        ("1:1.00001", 1.0, 1.0, "rounding never leaves [0, 1]"),
        (None, np.nan, 0.0, "no confidence was stated"),
        ("", np.nan, 0.0, "no numeral could stand there"),
    ],
)
def test_digit_expectation(numerals, digits, mass, reason):
    rows = pd.DataFrame({"numerals": ["0.5:1", numerals]})
    found = sources.digit_expectation(rows).iloc[1]
    assert found["digits"] == pytest.approx(digits, nan_ok=True), reason
    assert found["mass"] == pytest.approx(mass), reason


def test_numerals_survive_being_written_and_lose_only_dust():
    numerals = {"0.0": 2e-6, "0.7": 0.25, "1": 0.74999}
    assert sources.parse_numerals(evaluation.format_numerals(numerals)) == {
        "0.7": 0.25,
        "1": 0.74999,
    }
    assert evaluation.format_numerals(None) is None and sources.parse_numerals(None) == {}


# --- samples ---


def vote(answers: list, correct: list) -> pd.DataFrame:
    rows = pd.DataFrame({
        "system": "SLM", "dataset": "drill", "question_id": "q", "sample": range(len(answers)), "answer": answers,
        "correct": correct, "confidence": 0.9, "prompt_tokens": 10, "completion_tokens": [1, 2, 3, 4][: len(answers)],
    })  # fmt: skip
    return sources.self_consistency(rows)


@pytest.mark.parametrize(
    ("answers", "correct", "answer", "share", "right", "reason"),
    [
        (
            ["7", "8", "7", None],
            [True, False, True, False],
            "7",
            0.5,
            True,
            "two of four, one silent",
        ),
        (
            ["8", "7", "7", "8"],
            [False, True, True, False],
            "8",
            0.5,
            False,
            "a tie goes to what came first",
        ),
        (["9"] * 4, [False] * 4, "9", 1.0, False, "sure and wrong"),
        ([None, None], [False, False], np.nan, np.nan, False, "nobody voted"),
    ],
)
def test_self_consistency_is_the_majority_at_the_price_of_all(
    answers, correct, answer, share, right, reason
):
    found = vote(answers, correct)
    assert len(found) == len(answers) and found["answer"].isna().all() == (answer is np.nan)
    assert found["answer"].dropna().eq(answer).all(), reason
    assert found["confidence"].iloc[0] == pytest.approx(share, nan_ok=True), reason
    assert (found["correct"] == right).all(), reason
    assert (found["completion_tokens"] == sum(range(1, len(answers) + 1))).all()
    assert (found["prompt_tokens"] == 10 * len(answers)).all()


def test_self_consistency_does_not_depend_on_the_order_of_rows(slm):
    one = sources.self_consistency(slm)
    other = sources.self_consistency(slm.sample(frac=1, random_state=0)).loc[slm.index]
    pd.testing.assert_frame_equal(one, other[one.columns])


# --- fitted ---


def states_of(rows: pd.DataFrame, layers: int = 3, seed: int = 0) -> np.ndarray:
    """Hidden states of noise, but for one direction of layer 1 that knows whether the answer is right."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(len(rows), layers, 8)).astype(np.float32)
    states[:, 1, 3] += 2.5 * rows["correct"].to_numpy(dtype=np.float32)
    return states


def test_the_probe_finds_the_layer_and_ranks_by_it(slm):
    known, other = slm[slm["group"] == "calibration"], slm[slm["dataset"] == "drill"]
    probe = sources.fit_probe(states_of(known), known["correct"], known["question_id"])
    assert probe.layer == 1 and 1 <= probe.epochs <= 200
    found = probe.predict(states_of(other, seed=1))
    assert ((found >= 0) & (found <= 1)).all()
    assert roc_auc_score(other["correct"], found) > 0.9


def test_the_probe_stops_early_on_noise(slm):
    known = slm[slm["group"] == "calibration"]
    noise = np.random.default_rng(0).normal(size=(len(known), 1, 64))
    probe = sources.fit_probe(noise, known["correct"], known["question_id"])
    assert probe.epochs < 100, "held-out loss stops falling soon where there is nothing to learn"


def test_calibration_rows_are_judged_by_a_probe_that_did_not_see_them(slm):
    """States that name the question: a probe that saw a question would know its outcome, one that did not cannot."""
    known = slm[slm["group"] == "calibration"].reset_index(drop=True)
    outcome = known.groupby("question_id")["correct"].transform("first").astype(bool)
    known = known.assign(correct=outcome)
    number = pd.factorize(known["question_id"])[0]
    states = np.eye(number.max() + 1)[number][:, None, :] * 5
    _, found = sources.probe_confidences({"calibration": states}, {"calibration": known})
    assert abs(roc_auc_score(known["correct"], found["calibration"]) - 0.5) < 0.25
    seen = sources.fit_probe(states, known["correct"], known["question_id"]).predict(states)
    assert roc_auc_score(known["correct"], seen) > 0.8


@pytest.mark.parametrize("value", [True, False])
def test_a_probe_without_both_outcomes_is_one_clear_line(slm, value):
    known = slm[slm["group"] == "calibration"]
    with pytest.raises(
        ValueError, match="part of the calibration split has no right, or no wrong, answers"
    ):
        sources.fit_probe(states_of(known), np.full(len(known), value), known["question_id"])


def test_a_probe_of_other_rows_is_one_clear_line(slm):
    with pytest.raises(ValueError, match=r"states, \d+ grades and \d+ question ids"):
        sources.fit_probe(np.zeros((3, 1, 2)), [1, 0], ["a", "b"])


def routed() -> pd.DataFrame:
    """Questions with an x are always right, those with a y never: in a calibration split and in a test set."""
    rows = [
        (group, f"{group}/{n}", sample, n % 2 == 0)
        for group in ("calibration", "ood-math") for n in range(60) for sample in range(2)
    ]  # fmt: skip
    records = pd.DataFrame(rows, columns=["group", "question_id", "sample", "correct"])
    number = {q: int(q.split("/")[1]) for q in records["question_id"]}
    texts = {q: f"{'xy'[n % 2]}{n}+{n * 3}=?" for q, n in number.items()}
    return records.assign(question=records["question_id"].map(texts))


def test_the_router_learns_from_calibration_questions_alone():
    records = routed()
    found = sources.router_confidences(records)
    assert roc_auc_score(records["correct"], found) > 0.95
    swapped = records.assign(correct=records["correct"] ^ (records["group"] == "ood-math"))
    pd.testing.assert_series_equal(found, sources.router_confidences(swapped))
    assert found.groupby(records["question_id"]).nunique().eq(1).all(), (
        "a router sees the question, not the answer"
    )


def test_folds_keep_questions_whole_and_do_not_depend_on_the_table():
    ids = [f"q{n}" for n in range(500)] * 2
    found = sources.folds(ids)
    assert (found[:500] == found[500:]).all() and set(found) == {0, 1, 2, 3, 4}
    assert (sources.folds(ids[::-1])[::-1] == found).all()
    assert np.bincount(found).min() > 120


def test_gain_prefers_to_keep_what_the_llm_cannot_mend(slm, llm):
    hopeless = llm.assign(correct=False)
    hopeless.loc[::7, "correct"] = True  # both outcomes must be there to fit
    kept = sources.deferral_gain(slm, hopeless)
    worth = sources.deferral_gain(slm, llm.assign(correct=~hopeless["correct"]))
    assert kept.between(0, 1).all() and kept.mean() > worth.mean() + 0.1


def test_gain_looks_at_no_test_outcome(slm, llm):
    is_test = slm["group"] != "calibration"
    one = sources.deferral_gain(slm, llm)
    other = sources.deferral_gain(
        slm.assign(correct=slm["correct"] ^ is_test), llm.assign(correct=llm["correct"] ^ is_test)
    )
    pd.testing.assert_series_equal(one, other)


def test_the_oracle_and_gain_need_the_llms_answer_to_each_question(slm, llm):
    for estimator in (sources.oracle_confidence, lambda s, m: sources.deferral_gain(s, m)):
        with pytest.raises(ValueError, match="the LLM's records lack a question"):
            estimator(slm, llm[llm["group"] != "calibration"])


def test_the_oracle_keeps_what_the_llm_could_not_better(slm, llm):
    found = sources.oracle_confidence(slm, llm)
    assert (found[slm["correct"]] == 1).all()
    rescued = (~slm["correct"]).to_numpy() & llm["correct"].to_numpy()
    assert (found[~rescued] == 1).all() and (found[rescued] < 0.5).all()
    tokens = llm["prompt_tokens"] + llm["completion_tokens"]
    assert found[rescued].rank().corr(tokens[rescued].rank()) > 0.999, "cheap rescues first"


# --- recalibration ---


@pytest.mark.parametrize("method", sources.RECALIBRATIONS)
def test_recalibration_never_turns_the_order_around_and_lowers_the_loss(method):
    rng = np.random.default_rng(0)
    truth = rng.random(4000)
    stated = np.clip(truth**0.4, 0, 1).round(1)  # overconfident
    right = rng.random(4000) < truth
    found = sources.recalibration(method, stated, right)(stated)
    order = np.argsort(stated, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all() and ((found >= 0) & (found <= 1)).all()
    assert np.mean((found - right) ** 2) <= np.mean((stated - right) ** 2) + 1e-3
    if method != "temperature":
        assert abs(found.mean() - right.mean()) < 0.02


@pytest.mark.parametrize("method", sources.RECALIBRATIONS)
def test_a_confidence_that_was_not_stated_stays_so(method):
    apply = sources.recalibration(method, [0.2, np.nan, 0.9, 0.5], [0, 1, 1, 0])
    found = apply(np.array([np.nan, 0.9, 0.2]))
    assert np.isnan(found[0]) and found[1] >= found[2]
    assert np.isnan(apply(np.array([np.nan]))).all()


def test_a_confidence_that_ranks_backwards_is_flattened_and_not_turned_around():
    stated, right = np.tile([0.1, 0.9], 200), np.tile([1, 0], 200)
    found = sources.recalibration("platt", stated, right)(np.array([0.1, 0.9]))
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("method", "right", "message"),
    [("beta", [0, 1], "recalibration 'beta' is not one of isotonic, platt, temperature"),
     ("platt", [1, 1], "no right, or no wrong, answers to fit on")],
)  # fmt: skip
def test_what_cannot_be_recalibrated_is_one_clear_line(method, right, message):
    with pytest.raises(ValueError, match=message):
        sources.recalibration(method, [0.1, 0.9], right)


def test_random_confidence_knows_nothing_and_is_the_same_each_time(slm):
    found = sources.random_confidence(slm)
    assert found.equals(sources.random_confidence(slm)) and found.between(0, 1).all()
    assert abs(roc_auc_score(slm["correct"], found) - 0.5) < 0.08


def test_fake_records_hold_every_question(records):
    assert records["question"].str.len().gt(0).all()
