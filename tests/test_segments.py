"""Advantages by segment: by hand, against TRL's own, and in real steps of the shipped SLM."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from corea import grpo
from corea._trainer import Trainer, group_advantages
from corea.grpo import GRPOSettings
from corea.paper.profiles import load_profile
from corea.prompts import response_text
from corea.questions.base import Question
from corea.questions.load import load_questions
from corea.rewards import REWARDS
from corea.support.hardware import Compute
from tests import tiny
from tests.test_grpo import SETTINGS, train_tiny

RIGHT, WRONG = response_text("2+2=4", "4", "0.9"), response_text("2+2=5", "5", "0.4")
MALFORMED = "<think>2+2=4</think> so <answer>4</answer><confidence>0.9</confidence>"
QUESTIONS = [Question("2+2", "4", id="a"), Question("1+3", "4", id="b")]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("tiny"))


def scored(base, folder, texts, monkeypatch, **changes) -> tuple[dict, Trainer]:
    """What TRL makes of these completions, two a question, before it shuffles them."""
    options = {"questions_per_step": 2, "num_generations": 2, "segments": True} | changes
    settings = GRPOSettings(steps=1, **options)
    reward = REWARDS["L1"]
    trainer = grpo.build_trainer(base, QUESTIONS, folder, reward, settings, Compute(), None)
    end = trainer.processing_class.eos_token
    ids = trainer.processing_class([text + end for text in texts], add_special_tokens=False)
    monkeypatch.setattr(Trainer, "_generate_single_turn", lambda *_, **__: (ids.input_ids, None))
    rows = trainer.train_dataset
    return trainer._generate_and_score_completions([rows[0], rows[0], rows[1], rows[1]]), trainer


def test_advantages_by_hand(base, tmp_path, monkeypatch):
    """Correct .9, wrong .4 (target .5): -.4 and -.1; correct and malformed: format pays .1 less."""
    texts = [RIGHT, WRONG, RIGHT, MALFORMED]
    batch, trainer = scored(base, tmp_path, texts, monkeypatch, scale_rewards="none")
    before, stated = [0.5, -0.5, 0.05, -0.05], [-0.15, 0.15, 0.0, None]
    for row in range(4):
        mask = batch["completion_mask"][row].bool()
        tokens = batch["completion_ids"][row][mask]
        pieces = [trainer.processing_class.decode([token]) for token in tokens]
        first = "".join(pieces).index("<confidence>")
        length = 0
        for position, piece in enumerate(pieces):
            own = before[row] if length < first or stated[row] is None else stated[row]
            assert float(batch["advantages"][row, position]) == pytest.approx(own, abs=1e-6), piece
            length += len(piece)
        assert length > first


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_parts_add_up_to_trls_own_advantage_where_nothing_is_divided(
    base, tmp_path, monkeypatch, scale
):
    texts = [RIGHT, WRONG, RIGHT, RIGHT.replace("0.9", "0.2")]
    whole, _ = scored(base, tmp_path, texts, monkeypatch, scale_rewards=scale, segments=False)
    parts, trainer = scored(base, tmp_path, texts, monkeypatch, scale_rewards=scale)
    rewards, last = trainer._scored[0], parts["completion_mask"].sum(dim=1, keepdim=True) - 1
    total = (rewards * trainer.reward_weights).sum(dim=1)
    torch.testing.assert_close(group_advantages(total, 2, scale), whole["advantages"])
    ends = parts["advantages"][:, 0] + parts["advantages"].gather(1, last)[:, 0]
    if scale == "none":
        torch.testing.assert_close(ends, whole["advantages"])
    else:
        assert not torch.allclose(ends, whole["advantages"])


def test_one_advantage_in_both_segments_gives_the_plain_loss(base, tmp_path, monkeypatch):
    texts = [RIGHT, WRONG, RIGHT, RIGHT]
    batch, trainer = scored(base, tmp_path, texts, monkeypatch)
    trainer.current_gradient_accumulation_steps = 1
    one = torch.tensor([1.0, -1.0, 2.0, 0.5])
    same = one[:, None].expand_as(batch["completion_ids"])
    losses = [
        trainer._compute_loss(trainer.model, batch | {"advantages": advantages}).item()
        for advantages in (one, same)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] != 0


def test_segments_train_alike_in_one_pass_and_in_several(tmp_path):
    """Gradients of the first step of the shipped SLM, whose rollouts are the same in all three."""
    base, questions = load_profile("cpu").slm, load_questions("drill", "train", size=24)
    norms = []
    for segments, compute in (
        (False, Compute()),
        (True, Compute()),
        (True, Compute(micro_batch=2)),
    ):
        settings = dataclasses.replace(SETTINGS, segments=segments, steps=2, save_steps=99)
        folder = tmp_path / str(len(norms))
        reward = REWARDS["L1"]
        trainer = grpo.build_trainer(base, questions, folder, reward, settings, compute, None)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    plain, whole, small = norms
    assert small == pytest.approx(whole, rel=1e-3) and abs(plain - whole) > 0.05 * whole


def test_a_run_with_segments_is_another_run_and_goes_its_own_way(tmp_path):
    base = Path(load_profile("cpu").slm)
    plain, apart = (
        train_tiny(base, tmp_path / str(segments), steps=2, segments=segments)
        for segments in (False, True)
    )
    assert plain.settings != apart.settings
    assert grpo.fingerprint(plain.model) != grpo.fingerprint(apart.model)


def test_segments_count_in_a_hash_only_if_they_are_set():
    assert "segments" not in SETTINGS.hashed()
    assert dataclasses.replace(SETTINGS, segments=True).hashed()["segments"] is True


def test_what_cannot_be_told_apart_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="normalises apart itself"):
        dataclasses.replace(SETTINGS, segments=True, aggregation="normalize_then_sum")
    settings = dataclasses.replace(SETTINGS, segments=True)
    with pytest.raises(ValueError, match="needs a reward of the confidence"):
        grpo.build_trainer(base, QUESTIONS, tmp_path, REWARDS["RLVR"], settings, Compute(), None)
