"""The lean trainer against TRL's own methods: the same numbers up to rounding, with less work."""

from __future__ import annotations

import pytest
import torch

from corea import grpo
from corea._trainer import Trainer
from corea.engines import _decoding
from corea.engines.loading import load_model
from corea.grpo import GRPOSettings
from corea.paper.profiles import load_profile
from corea.prompts import load_tokenizer, render
from corea.questions.load import load_questions
from corea.rewards import REWARDS
from corea.support.hardware import Compute

SETTINGS = GRPOSettings(
    steps=2, questions_per_step=4, num_generations=4, beta=0.03, max_completion_length=64
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    base, questions = load_profile("cpu").slm, load_questions("drill", "train", size=8)
    folder, reward = tmp_path_factory.mktemp("lean"), REWARDS["L1"]
    return grpo.build_trainer(base, questions, folder, reward, SETTINGS, Compute(), None)


@pytest.fixture(scope="module")
def batch(trainer) -> dict:
    """Rollouts of prompts and completions of several lengths, shuffled as TRL does."""
    rows = [trainer.train_dataset[n // 4] for n in range(16)]
    torch.manual_seed(0)
    batch = trainer._generate_and_score_completions(rows)
    mixed = torch.randperm(16)
    return {k: v[mixed] if v.ndim else v for k, v in batch.items()}


def loss_and_gradients(trainer: Trainer, batch: dict, lean: bool, monkeypatch):
    """The loss and the gradient of every weight, by our pass or by TRL's."""
    monkeypatch.setattr(trainer, "lean", lean)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


def test_losses_and_gradients_are_trls(trainer, batch, monkeypatch):
    with torch.no_grad():
        for weight in trainer.model.parameters():  # away from the reference, so that KL counts
            weight.mul_(1.01)
    ours, theirs = (loss_and_gradients(trainer, batch, lean, monkeypatch) for lean in (True, False))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-6) and ours[0] != 0
    for name, gradient in theirs[1].items():
        largest = gradient.abs().max()
        assert largest > 0 and (ours[1][name] - gradient).abs().max() < 1e-3 * largest, name


def test_log_probabilities_and_entropies_are_trls_row_by_row(trainer, batch, monkeypatch):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    assert (mask.sum(dim=1).unique().numel() > 3) and mask[:, 0].min() == 0, "lengths differ"
    found = []
    for lean in (True, False):
        monkeypatch.setattr(trainer, "lean", lean)
        with torch.no_grad():
            found.append(
                trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, batch["completion_ids"].shape[1], compute_entropy=True
                )
            )
    for ours, theirs in zip(*(part[:2] for part in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_each_prompt_is_read_once_and_no_token_behind_an_end(trainer, batch, monkeypatch):
    read = []
    forward = type(trainer.model.base_model).forward

    def counted(self, input_ids, *given, **named):
        read.append(input_ids.numel())
        return forward(self, input_ids, *given, **named)

    monkeypatch.setattr(type(trainer.model.base_model), "forward", counted)
    monkeypatch.setattr("corea._trainer._ROWS", 4)
    trainer._compute_loss(trainer.model, batch)
    unlike = {tuple(row) for row in batch["prompt_ids"].tolist()}
    assert len(unlike) == 4 and read[0] == 4 * (batch["prompt_ids"].shape[1] - 1)
    lengths = sorted(batch["completion_mask"].sum(dim=1).tolist())
    assert read[1:] == [4 * (max(lengths[n : n + 4]) + 1) for n in range(0, 16, 4)]


@pytest.fixture(scope="module")
def slm():
    base = load_profile("cpu").slm
    return load_model(base).eval(), load_tokenizer(base)


def test_greedy_tokens_are_those_of_generate(slm):
    model, tokenizer = slm
    texts = [t for t in render(load_questions("drill", "test", size=12), tokenizer) for _ in "ab"]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    theirs = model.generate(**inputs, max_new_tokens=40, do_sample=False, **ends)
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    options = {"limit": 40, "ends": [tokenizer.eos_token_id], "pad": tokenizer.pad_token_id}
    ours = _decoding.write(model, ids, lambda rows, step, logits: logits.argmax(dim=-1), **options)
    theirs = theirs[:, inputs.input_ids.shape[1] :].tolist()
    assert ours == [_decoding._until(row, options["ends"]) for row in theirs]
    assert len({len(row) for row in ours}) > 3, "rows ended at several steps"


def test_draws_have_the_softmax_as_their_frequencies():
    logits = torch.tensor([0.0, 1.0, -2.0, 3.0]).expand(4000, 4)
    torch.manual_seed(0)
    drawn = _decoding.draw(logits, 1.0, torch.rand(4000, dtype=torch.double)).bincount(minlength=4)
    expected = 4000 * logits[0].softmax(dim=0)
    assert ((drawn - expected).abs() < 4 * expected.sqrt()).all()
    ends = torch.tensor([0.0, 1 - 1e-12], dtype=torch.double)
    assert _decoding.draw(logits[:2], 1.0, ends).tolist() == [0, 3]


def test_only_one_process_with_plain_attention_is_lean(trainer, tmp_path):
    assert trainer.lean
    base, questions = load_profile("cpu").slm, load_questions("drill", "train", size=8)
    for compute in (Compute(lora_rank=2), Compute(gradient_checkpointing=True)):
        made = grpo.build_trainer(base, questions, tmp_path, REWARDS["L1"], SETTINGS, compute, None)
        assert not made.lean
    windowed = load_model(base)
    windowed.config.layer_types = ["sliding_attention"] * 3
    windowed.config.sliding_window = 16
    arguments = grpo._arguments(SETTINGS, [1.0], tmp_path, Compute())
    reward, data = REWARDS["L1"].functions()[:1], grpo.training_set(questions, None)
    options = {"args": arguments, "train_dataset": data, "lean": True}
    assert not Trainer(model=windowed, reward_funcs=reward, **options).lean
