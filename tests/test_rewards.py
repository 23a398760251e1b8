"""Rewards against a plain loop, in any order of rows, and what they refuse."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import pickle
import random
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corea import rewards
from corea.prompts import response_text
from corea.rewards import (
    REWARDS,
    RewardSpec,
    confidence_reward,
    correctness_reward,
    format_reward,
    text_of,
)


class ExactGrader:
    """Right is what equals the gold; picklable, no workers."""

    def grade(self, answers, golds, answer_types):
        return [answer == gold for answer, gold in zip(answers, golds, strict=True)]


class BrokenGrader:
    def __init__(self, grades):
        self.grades = grades

    def grade(self, answers, golds, answer_types):
        return self.grades


def rollout(right: bool, confidence: str | None = "0.5") -> str:
    text = response_text("w", "6" if right else "5", confidence or "")
    return text if confidence else text[: text.index("<confidence>")]


def call(reward, completions, question_id=None, **columns):
    """Call a reward as TRL does, with columns and extras it does not need."""
    count = len(completions)
    rows = {"prompts": ["2*3"] * count, "gold": ["6"] * count, "answer_type": ["math"] * count}
    if question_id is not None:
        rows["question_id"] = question_id
    extras = {"completion_ids": [[1]] * count, "family": ["x"] * count, "trainer_state": object()}
    return reward(completions=completions, **extras, **(rows | columns))


def confidence(distance="l1", target="group", grader=None):
    return partial(
        confidence_reward, distance=distance, target=target, grader=grader or ExactGrader()
    )


def correctness(grader):
    return partial(correctness_reward, grader=grader)


# --- single rewards -------------------------------------------------------------------------------


def test_correctness_is_one_for_right_and_zero_for_wrong_or_missing():
    completions = [rollout(True), rollout(False), "", rollout(True, None), "<think>6"]
    assert call(correctness(ExactGrader()), completions) == [1, 0, 0, 1, 0]


def test_format_is_one_for_the_exact_form_alone():
    completions = [
        rollout(False),
        rollout(True, "90%"),
        rollout(True, None),
        rollout(True) + "!",
        "",
    ]
    assert call(format_reward, completions) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("why", "distance", "target", "expected"),
    [
        ("mean .5: distances .4, .5", "l1", "group", [-0.4, -0.5]),
        ("squared", "l2", "group", [-0.16, -0.25]),
        ("own 1 and 0", "l1", "sample", [-0.1, 0.0]),
        ("Brier", "l2", "sample", [-0.01, 0.0]),
        ("half of each: targets .75, .25", "l1", 0.5, [-0.15, -0.25]),
        ("weight 0 is the group", "l1", 0, [-0.4, -0.5]),
        ("weight 1 is the sample", "l1", 1.0, [-0.1, 0.0]),
        ("KL(.5 || .9), KL(.5 || .01)", "kl", "group",
         [-math.log(0.25 / 0.09) / math.log(1e4), -math.log(0.25 / 0.0099) / math.log(1e4)]),
        ("KL(1 || .9), KL(0 || .01)", "kl", "sample",
         [math.log(0.9) / math.log(100), math.log(0.99) / math.log(100)]),
    ],
)  # fmt: skip
def test_confidence_reward_by_hand(why, distance, target, expected):
    rows = [rollout(True, "0.9"), rollout(False, "0.0")]
    assert call(confidence(distance, target), rows, ["a", "a"]) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("distance", rewards.DISTANCES)
@pytest.mark.parametrize("target", ["group", "sample", 0.3])
def test_silence_is_never_better_than_a_number(distance, target):
    silent, worst, best = call(
        confidence(distance, target),
        [rollout(True, None), rollout(True, "0"), rollout(True, "1")],
        ["a"] * 3,
    )
    assert silent == -1 <= worst < best <= 0


@given(st.floats(0, 1), st.floats(0, 1))
def test_distances_stay_in_bounds_and_vanish_on_target(stated, target):
    for name, distance in rewards.DISTANCES.items():
        assert 0 <= distance(stated, target) <= 1
        # kl: the clip at both ends.  log: the entropy of the target, at most log(2) / log(100).
        assert distance(target, target) <= {"kl": 0.0022, "log": 0.1506}.get(name, 0)
        assert distance(target, target) <= distance(stated, target) + 1e-12


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_log_and_kl_give_the_same_advantages_in_a_group_with_one_target(one, other, target):
    log, kl = rewards.DISTANCES["log"], rewards.DISTANCES["kl"]
    assert log(one, target) - log(other, target) == pytest.approx(
        kl(one, target) - kl(other, target), abs=1e-9
    )


@pytest.mark.parametrize(
    ("distance", "best"), [("l1", 0.0), ("l2", 0.3), ("kl", 0.3), ("log", 0.3)]
)
def test_which_confidence_is_best_when_targets_vary(distance, best):
    targets = [0.0] * 7 + [1.0] * 3  # median 0, mean .3
    grid = [n / 100 for n in range(101)]
    assert min(grid, key=lambda c: sum(rewards.DISTANCES[distance](c, t) for t in targets)) == best


# --- groups ---------------------------------------------------------------------------------------


def plain_loop(rows, distance, target):
    """The reward written out without groups, mixes or tables: one row against all rows."""
    expected = []
    for question, right, stated in rows:
        if stated is None:
            expected.append(-1.0)
            continue
        same = [other_right for other, other_right, _ in rows if other == question]
        weight = {"group": 0.0, "sample": 1.0}.get(target, target)
        goal = weight * right + (1 - weight) * (sum(same) / len(same))
        c = float(stated)
        if distance == "kl":
            c = min(max(c, 0.01), 0.99)
            terms = [p * math.log(p / q) for p, q in ((goal, c), (1 - goal, 1 - c)) if p > 0]
            expected.append(-sum(terms) / math.log(100))
        else:
            expected.append(-(abs(c - goal) ** (1 if distance == "l1" else 2)))
    return expected


@st.composite
def batches(draw):
    size = draw(st.integers(2, 4))
    multiples = draw(st.lists(st.integers(1, 2), min_size=1, max_size=4))
    stated = st.sampled_from(["0.0", "0.1", "0.35", "0.5", "0.9", "1.0", None])
    rows = [
        (f"q{question}", draw(st.booleans()), draw(stated))
        for question, multiple in enumerate(multiples)
        for _ in range(size * multiple)
    ]
    return rows, draw(st.permutations(range(len(rows))))


targets = st.one_of(st.sampled_from(["group", "sample"]), st.floats(0, 1))


@settings(deadline=None)
@given(batches(), st.sampled_from(["l1", "l2", "kl"]), targets, st.booleans())
def test_agrees_with_a_plain_loop_in_any_order(batch, distance, target, with_ids):
    rows, order = batch
    reward = confidence(distance, target)

    def ask(rows):
        ids = [row[0] for row in rows]
        prompts = [[{"role": "user", "content": q}] for q in ids]
        completions = [[{"role": "assistant", "content": rollout(row[1], row[2])}] for row in rows]
        return call(reward, completions, ids if with_ids else None, prompts=prompts)

    given_order = ask(rows)
    assert given_order == pytest.approx(plain_loop(rows, distance, target), abs=1e-9)
    assert ask([rows[n] for n in order]) == [given_order[n] for n in order]  # to the last bit
    assert all(-1 <= r <= 0 for r in given_order)


OLD = "49959fcd59ab8d61"  # of the factories that these functions took the place of


def test_a_hundred_and_twenty_random_vectors_are_those_of_the_factories_before():
    draw, vectors = random.Random(0), []
    for _ in range(10):
        size = draw.choice([2, 3, 4, 8])
        ids = [f"q{n}" for n in range(draw.randint(1, 4)) for _ in range(size)]
        draw.shuffle(ids)
        stated = [
            draw.choice([None, f"{draw.random():.2f}"])
            if draw.random() < 0.3
            else f"{draw.random():.2f}"
            for _ in ids
        ]
        texts = [rollout(draw.random() < 0.5, c) for c in stated]
        for distance in rewards.DISTANCES:
            for target in ("group", "sample", 0.3):
                paid = call(confidence(distance, target), texts, ids)
                vectors.append([f"{reward:.10f}" for reward in paid])
    assert len(vectors) == 120
    assert hashlib.sha256(json.dumps(vectors).encode()).hexdigest()[:16] == OLD


def test_rows_of_one_question_are_one_group_wherever_they_stand():
    completions = [rollout(True), rollout(False), rollout(True), rollout(False)]
    assert call(confidence(), completions, ["a", "b", "a", "b"]) == [-0.5] * 4  # means 1 and 0
    assert call(confidence(), completions, ["a", "a", "b", "b"]) == [0.0] * 4  # means .5


def test_a_question_drawn_twice_has_one_mean_over_all_its_rows():
    completions = [rollout(True), rollout(True), rollout(False), rollout(False)]
    assert call(confidence(), completions, ["a"] * 4) == [0.0] * 4


@pytest.mark.parametrize(
    "prompts", [["x", "x", "y", "y"], [[{"role": "user", "content": t}] for t in "xxyy"]]
)
def test_without_ids_the_prompt_tells_the_question(prompts):
    completions = [rollout(True), rollout(True), rollout(False), rollout(False)]
    assert call(confidence(), completions, prompts=prompts) == [-0.5] * 4


def test_ids_go_before_prompts():
    completions = [rollout(True), rollout(True), rollout(False), rollout(False)]
    assert call(confidence(), completions, ["a", "a", "b", "b"], prompts=["same"] * 4) == [-0.5] * 4


@pytest.mark.parametrize("target", ["group", 0.5, 0.0])
@pytest.mark.parametrize("ids", [["a", "a", "a", "b"], ["a", "a", "b"], ["a"]])
def test_a_broken_group_is_refused_with_the_fix(target, ids):
    with pytest.raises(ValueError) as error:
        call(confidence("l1", target), [rollout(True)] * len(ids), ids)
    message, fewest = str(error.value), min(ids, key=ids.count)
    assert f"question '{fewest}' has {ids.count(fewest)} rows in this call, another" in message
    assert (
        "per_device_train_batch_size x processes x steps_per_generation must be a multiple of "
        "num_generations, 2 or more" in message
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("counts", "size", "broken"),
    [
        ([4, 4, 2], None, None),  # groups of two, two of them drawn twice
        ([4, 4, 2], 2, None),
        ([4, 4, 2], 4, "has 2 rows in this call, not a multiple of num_generations=4"),
        ([6, 4], 4, "has 6 rows in this call, not a multiple of num_generations=4"),
        ([8, 4], 4, None),
        ([3, 5], None, "has 3 rows in this call, another 5"),
        ([2, 2], 1, "num_generations, 2 or more"),
    ],
)
def test_groups_are_checked_exactly_if_their_size_is_given(counts, size, broken):
    ids = [question for question, count in enumerate(counts) for _ in range(count)]
    reward = partial(confidence(), num_generations=size)
    if broken is None:
        assert call(reward, [rollout(True)] * len(ids), ids) == [-0.5] * len(ids)
    else:
        with pytest.raises(ValueError, match=broken):
            call(reward, [rollout(True)] * len(ids), ids)


def test_a_spec_hands_on_the_size_of_a_group():
    *_, reward = REWARDS["L1"].functions(4)
    with pytest.raises(ValueError, match="not a multiple of num_generations=4"):
        call(reward, [rollout(True)] * 2, ["a", "a"])


@pytest.mark.parametrize("target", ["sample", 1, 1.0])
def test_the_sample_target_needs_no_groups(target):
    assert call(confidence("l1", target), [rollout(True)] * 3) == [-0.5] * 3
    assert call(confidence("l1", target), [rollout(True)] * 3, prompts=None) == [-0.5] * 3


def test_no_rows_give_no_rewards():
    for reward in REWARDS["L1"].functions():
        assert call(reward, [], grader=ExactGrader()) == []


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "l3"}, "distance='l3' is not one of l1, l2, kl"),
        ({"distance": None}, "distance=None"),
        ({"target": "batch"}, "target='batch' is not 'group', 'sample' or a weight in [0, 1]"),
        ({"target": 1.5}, "target=1.5"),
        ({"target": -0.1}, "target=-0.1"),
        ({"target": math.nan}, "target=nan"),
        ({"target": True}, "target=True"),
        ({"target": None}, "target=None"),
    ],
)
def test_settings_are_checked_in_every_call_and_in_a_spec_when_it_is_built(settings, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        call(confidence(**settings), [rollout(True)] * 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"gold": None}, "no column 'gold', 'solution' or 'answer' to grade by"),
        ({"answer_type": ["math"]}, "column 'answer_type' has 1 rows for 2 completions"),
        ({"gold": ["6"]}, "column 'gold' has 1 rows for 2 completions"),
        ({"gold": ["6", None]}, "column 'gold' has rows without a value"),
        ({"question_id": ["a"]}, "column 'question_id' has 1 rows for 2 completions"),
        ({"question_id": ["a", None]}, "column 'question_id' has rows without a value"),
        ({"prompts": None}, "read a column 'prompts'"),
        ({"prompts": ["x"]}, "column 'prompts' has 1 rows for 2 completions"),
    ],
)
def test_columns_are_checked(columns, message):
    with pytest.raises(ValueError, match=message):
        call(confidence(), [rollout(True)] * 2, **columns)


@pytest.mark.parametrize(
    "grades", [[], [True], [True] * 3, [True, None], [True, math.nan], [True, 0.5]]
)
@pytest.mark.parametrize("make", [lambda g: correctness(g), lambda g: confidence(grader=g)])
def test_grades_that_are_not_one_bool_a_row_are_refused(make, grades):
    with pytest.raises(ValueError, match="2 answers need as many grades, True or False"):
        call(make(BrokenGrader(grades)), [rollout(True)] * 2)


@pytest.mark.parametrize("column", ["gold", "solution", "answer"])
def test_the_right_answer_has_one_of_three_names_and_mathematics_is_the_default(column):
    rows = {column: ["6", "6"], "question_id": ["a", "a"], "answer": ["6", "6"]}
    texts = [rollout(True, "0.5"), rollout(False, "0.5")]
    assert correctness_reward(completions=texts, **rows) == [1, 0]
    assert confidence_reward(completions=texts, **rows) == [0, 0]


def test_gold_goes_before_solution_and_solution_before_answer():
    rows = {"gold": ["6"], "solution": ["5"], "answer": ["4"]}
    for right in ("6", "5", "4"):
        assert correctness_reward([f"<answer>{right}</answer>"], **rows) == [1]
        rows.pop(next(iter(rows)))


def test_the_shared_grader_survives_a_fork():
    """A child that inherits a grader starts its own worker: the parent's speaks to the parent."""
    texts, gold = ["<answer>1/2</answer>", "<answer>1/3</answer>"], ["0.5", "0.5"]
    assert correctness_reward(texts, gold) == [1, 0]
    rewards.shared_grader()._cache.clear()
    child = os.fork()
    if not child:
        os._exit(0 if correctness_reward(texts, gold) == [1, 0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert correctness_reward(texts, gold) == [1, 0]


# --- as TRL calls them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("6", "6"),
        ([{"role": "assistant", "content": "6"}], "6"),
        ([{"role": "assistant", "content": "5"}, {"role": "assistant", "content": "6"}], "6"),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "6"}, {"type": "image"}]}],
            "6",
        ),
        ([{"role": "assistant", "content": None}], ""),
        ([], ""),
    ],
)
def test_text_of_strings_and_messages(completion, text):
    assert text_of(completion) == text


NAMES = ["correctness_reward", "format_reward", "confidence_reward"]


def name_of(function) -> str:
    return getattr(function, "func", function).__name__


@pytest.mark.parametrize("name", REWARDS)
def test_presets_as_trl_sees_them(name):
    spec = REWARDS[name]
    functions = spec.functions()
    assert list(map(name_of, functions)) == (NAMES[:2] if name == "RLVR" else NAMES)
    assert len(spec.weights) == len(functions) and all(type(w) is float for w in spec.weights)
    completions = [rollout(True, "0.9"), "cut off"]
    for function in functions:
        result = call(function, completions, ["a", "a"], grader=ExactGrader())
        assert type(result) is list and all(type(r) is float and math.isfinite(r) for r in result)
        copied = pickle.loads(pickle.dumps(function))
        assert call(copied, completions, ["a", "a"], grader=ExactGrader()) == result


def test_trl_calculates_and_names_our_rewards():
    torch = pytest.importorskip("torch")
    grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    functions = REWARDS["L1"].functions()
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        reward_funcs=functions,
        reward_func_names=[grpo.get_callable_name(function) for function in functions],
        reward_processing_classes=[None] * 3,
        state=SimpleNamespace(global_step=0),
        environments=None,
        _log_completion_extra=None,
        _log_metric=None,
    )
    rows = [{"prompt": "2*3", "question_id": "a", "gold": "6", "answer_type": "math"}] * 2
    completions = [rollout(True, "0.75"), rollout(False, None)]
    original, grpo.gather = grpo.gather, lambda tensor: tensor
    try:
        result = inspect.unwrap(grpo.GRPOTrainer._calculate_rewards)(
            trainer, rows, ["2*3"] * 2, completions, [[1], [2]]
        )
    finally:
        grpo.gather = original
    assert trainer.reward_func_names == NAMES
    assert torch.equal(result, torch.tensor([[1.0, 1.0, -0.25], [0.0, 0.0, -1.0]]))


def test_with_the_real_grader():
    rows = [rollout(True, "0.9"), rollout(False, "0.9"), "", rollout(True, None)]
    for function in pickle.loads(pickle.dumps(REWARDS["L1"].functions())):
        expected = {
            "correctness_reward": [1, 0, 0, 1],
            "format_reward": [1, 1, 0, 0],
            "confidence_reward": [-0.4, -0.4, -1, -1],
        }[name_of(function)]
        assert call(function, rows, ["a"] * 4) == pytest.approx(expected)
    option = response_text("w", "(B)", "0.9")
    columns = {"gold": ["6", "B"], "answer_type": ["math", "choice"]}
    assert call(correctness_reward, [rollout(True), option], **columns) == [1, 1]


def test_presets_are_the_named_rewards():
    assert [(s.distance, s.target) for s in REWARDS.values() if s.distance] == [
        ("l2", "sample"), ("l1", "group"), ("l2", "group"), ("kl", "group"), ("log", "sample")
    ]  # fmt: skip
    assert (
        list(REWARDS) == ["RLVR", "Brier", "L1", "L2", "KL", "log"]
        and REWARDS["RLVR"].distance is None
    )


def test_a_spec_is_plain_data():
    for spec in [*REWARDS.values(), RewardSpec("kl", 0.5)]:
        assert RewardSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
        assert pickle.loads(pickle.dumps(spec)) == spec and hash(spec) is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        REWARDS["L1"].distance = "l2"


@pytest.mark.parametrize(
    "settings",
    [{"distance": "l3"}, {"target": 2}, {"target": "half"}, {"format_weight": -1},
     {"confidence_weight": math.nan},
     {"correctness_weight": math.inf}, {"correctness_weight": "1"}, {"format_weight": True}],
)  # fmt: skip
def test_a_spec_is_checked_when_built(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RewardSpec(**settings)


@pytest.mark.parametrize("gold", [4, 4.0, "4"])
def test_a_gold_that_is_a_number_counts_as_its_text(gold):
    told = ["<think></think><answer>4</answer><confidence>1</confidence>"]
    assert rewards.correctness_reward(told, answer=[gold]) == [1.0]
