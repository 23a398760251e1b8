"""Policies: the promise of a calibrated threshold, by simulation, and what becomes of records that allow none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from corea import policies
from corea.cascade import Cascade
from corea.policies import Policy, calibrate
from corea.records import read_records, write_records
from tests.fakes import fake_records
from tests.test_cascade import Completion, Replay

nan, inf = float("nan"), math.inf
MADE = Policy(0.7, 0.02, 0.9, True, 400, {"llm_share": 0.3})


def records(confidence, slm, llm, samples=1) -> pd.DataFrame:
    """Records of two models from columns by question and then by sample."""
    rows = np.arange(len(slm))
    shared = {"dataset": "toy", "question_id": rows // samples, "sample": rows % samples}
    small = pd.DataFrame({**shared, "system": "small", "confidence": confidence, "correct": slm})
    large = pd.DataFrame({**shared, "system": "large", "confidence": nan, "correct": llm})
    return pd.concat([small, large], ignore_index=True)


# --- a world whose true losses are known ----------------------------------------------------------

LEVELS = np.array([0.2, 0.5, 0.8, 0.9])  # stated by a quarter of the answers each


def world(losing, winning, questions, seed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and correctness of both models; by level, how often only one of them is right."""
    rng = np.random.default_rng(seed)
    level, chance = rng.integers(len(LEVELS), size=questions), rng.random(questions)
    llm_only = chance < np.array(losing)[level]
    slm_only = ~llm_only & (chance < np.add(losing, winning)[level])
    both = rng.random(questions) < 0.5
    return LEVELS[level], slm_only | (both & ~llm_only), llm_only | (both & ~slm_only)


def true_loss(losing, winning, threshold) -> float:
    return float((np.subtract(losing, winning) * (threshold <= LEVELS)).sum() / len(LEVELS))


@pytest.mark.parametrize(
    ("losing", "winning", "reason"),
    [
        ([0.5, 0.3, 0.09, 0.081], [0, 0, 0, 0], "nothing is safe, and the surest only just not"),
        ([0.5, 0.3, 0.15, 0.2], [0, 0, 0, 0.118], "the same with wins and losses"),
        ([0.5, 0.3, 0.081, 0.0], [0, 0, 0, 0], "the second level is only just not safe"),
    ],
)
def test_the_promise_is_broken_in_at_most_a_tenth_of_1000_draws(losing, winning, reason):
    broken = 0
    for seed in range(1000):
        confidence, slm, llm = world(losing, winning, 200, seed)
        rows = pd.DataFrame({"question": range(200), "confidence": confidence})
        rows = rows.assign(slm_correct=slm.astype(float), llm_correct=llm.astype(float))
        threshold = policies._least_safe(policies._losses(rows), 0.02, 0.9)
        broken += true_loss(losing, winning, threshold) > 0.02
    assert broken / 1000 <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 1000), reason


def test_a_real_saving_is_certified():
    losing, winning = [0.6, 0.3, 0.01, 0.0], [0.0, 0.0, 0.01, 0.0]
    policy = calibrate(records(*world(losing, winning, 800, seed=0)))
    assert policy.holds and policy.threshold == 0.8
    assert true_loss(losing, winning, policy.threshold) <= 0.02
    assert policy.figures["llm_share"] == pytest.approx(0.5, abs=0.05)
    drop = policy.figures["llm_correct"] - policy.figures["correct"]
    assert drop == pytest.approx(0, abs=0.02)
    assert policy.questions == 800


def test_p_values_agree_with_a_loop():
    losses = np.random.default_rng(0).integers(-1, 2, size=(50, 3)) * 0.5
    expected, bound = [], (0.02 + 1) / 2
    for column in ((losses + 1) / 2).T:
        capital = best = 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for n, value in enumerate(column, start=1):
            bet = min(math.sqrt(2 * math.log(10) / (50 * variance)), 0.75 / (1 - bound))
            capital *= 1 - bet * (value - bound)
            best = max(best, capital)
            total += value
            squares += (value - total / (n + 1)) ** 2
            variance = squares / (n + 1)
        expected.append(1 / best)
    assert policies._p_values(losses, 0.02, 0.9) == pytest.approx(expected)


def test_losses_are_means_over_samples_of_what_is_kept():
    table = records([0.9, 0.5, nan, 1.0], [0, 1, 0, 1], [1, 1, 1, 0], samples=2)
    losses = policies._losses(policies._both(table, None, None))
    at = {threshold: losses[:, round(100 * threshold)].tolist() for threshold in (0, 0.6, 0.95, 1)}
    assert at == {0: [0.5, -0.5], 0.6: [0.5, -0.5], 0.95: [0, -0.5], 1: [0, -0.5]}


def test_rows_in_another_order_and_names_give_the_same_policy():
    table = records(*world([0.5, 0.1, 0, 0], [0, 0, 0, 0], 400, seed=1))
    shuffled = table.sample(frac=1, random_state=0)
    assert calibrate(table) == calibrate(shuffled, slm="small", llm="large")


def test_models_that_a_file_has_swapped_are_not_taken_for_each_other(tmp_path):
    """A file is sorted by system, so that the order of the rows no longer says which is small."""
    path, table = tmp_path / "records.parquet", fake_records(questions=60)
    right = table.groupby("system")["correct"].mean().sort_values()
    worse, better = right.index[0], right.index[-1]
    names = {worse: "small", better: "large"}  # by name, "large" comes first
    table = table[table["system"].isin(names)].replace({"system": names})
    table = table.sort_values("system", ascending=False, kind="stable")
    write_records(table, path)
    for saved in (path, str(path), read_records(path)):
        with pytest.raises(
            ValueError, match=r"'large', is right more .* by slm= and llm="
        ) as error:
            calibrate(saved)
        assert "\n" not in str(error.value)
    named = {"slm": "small", "llm": "large", "max_loss": 0.5}
    assert calibrate(path, **named) == calibrate(table, max_loss=0.5) == calibrate(table, **named)


# --- records that allow no promise ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "slm", "llm", "message"),
    [
        ([0.9] * 3, [1] * 3, [1] * 3, "3 questions are too few .*; ask about 2.. more"),
        ([nan] * 300, [1] * 300, [1] * 300, "no confidence was stated"),
        (
            [0.9] * 300,
            [1, 0, 0] * 100,
            [1, 1, 0] * 100,
            "at 0.9 still loses 0.333 .*SLM 0.333, LLM 0.667",
        ),
        (
            [1.0, 0.1] * 150,
            [0, 1] * 150,
            [1, 1] * 150,
            "at 1 still loses 0.500 of Pass@1, above max_loss 0.02 .*; raise",
        ),
    ],
)
def test_without_a_promise_all_is_deferred_and_one_line_says_why(confidence, slm, llm, message):
    with pytest.warns(UserWarning, match=message) as caught:
        policy = calibrate(records(confidence, slm, llm))
    assert "\n" not in str(caught[0].message)
    assert (policy.threshold, policy.holds) == (inf, False)
    assert policy.figures["llm_share"] == 1 and not policy.keeps([1.0, None]).any()


def test_as_many_more_questions_as_it_asks_for_do_help():
    def ask(questions):
        return calibrate(records([0.9] * questions, [1] * questions, [1] * questions))

    with pytest.warns(UserWarning, match="100 questions are too few .*; ask about 1.. more"):
        ask(100)
    assert ask(230).holds


def test_models_without_errors_and_ties_keep_everything():
    policy = calibrate(records([0.5] * 400, [1] * 400, [1] * 400))
    assert policy.holds and policy.threshold == 0.5 and policy.figures["llm_share"] == 0
    assert "auroc" not in policy.figures  # not defined, and NaN is no JSON


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t[t["system"] == "small"], {}, r"systems \['small'\]; name two of them"),
        (lambda t: t, {"slm": "small", "llm": "big"}, "name two of them"),
        (lambda t: t, {"slm": "small", "llm": "small"}, "name two of them"),
        (lambda t: t.assign(correct=None), {}, "questions with gold answers"),
        (lambda t: t.iloc[1:], {}, "slm records lack question"),
        (lambda t: t, {"max_loss": 1}, "max_loss=1.* use a loss in"),
        (lambda t: t, {"confidence": 1}, "confidence=1.* a confidence in"),
    ],
)
def test_calibrate_refuses(change, options, message):
    with pytest.raises(ValueError, match=message) as error:
        calibrate(change(records([0.9] * 3, [1] * 3, [1] * 3)), **options)
    assert "\n" not in str(error.value)


# --- the policy itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(("confidence", "source"), [(0.7, "slm"), (0.6, "llm")])
def test_a_cascade_takes_a_policy(confidence, source):
    slm = Completion(f"<answer>1</answer><confidence>{confidence}</confidence>", 1, 1)
    llm = Completion("<answer>2</answer>", 1, 1)

    class Same(Replay):
        def complete(self, questions, *, samples=1, seed=0):
            return [[self.found] for _ in questions]

    assert Cascade(Same("slm", slm), Same("llm", llm), MADE)("2+2").source == source
