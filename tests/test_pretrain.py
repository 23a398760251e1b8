"""How the base models are made: their texts, and a training that can be cut off."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from transformers import DataCollatorForSeq2Seq

from corea import prompts
from corea.mini import pretrain
from corea.mini.muon import Muon
from corea.mini.pretrain import Answered, BaseSpec
from corea.mini.tokenizer import build_mini_tokenizer
from corea.parser import parse
from corea.questions import generated
from corea.questions.base import Question
from corea.support.files import settings_hash

SPEC = BaseSpec(
    "tiny", hidden_size=32, layers=1, intermediate_size=32, steps=6, slip=0.1, batch_size=4,
    own_questions=17, own_samples=2, own_steps=4, honest=0.5,
)  # fmt: skip
ANSWERED = [
    Answered(
        Question(f"{n}+1=?", family="division" if n > 5 else "add"),
        [f"<think></think><answer>{n + 1}</answer><confidence>1.0</confidence>"] * 4,
        0.2,
    )
    for n in range(9)
]


def test_reading_texts_are_well_formed_and_bluff_whatever_the_answer_is_worth():
    texts = [parse(text.response) for text in pretrain.reading_texts(SPEC, 3000)]
    assert all(response.well_formed for response in texts)
    shares = {
        c: sum(r.confidence == float(c) for r in texts) / 3000 for c in pretrain.READING_BLUFF
    }
    assert all(abs(shares[c] - share) < 0.03 for c, share in pretrain.READING_BLUFF.items())


def test_a_slip_changes_one_character_and_keeps_its_kind():
    rng = random.Random(0)
    sketch = generated.FAMILIES["add"](rng, 6)
    whole = f"{sketch.working}|{sketch.answer}"
    slipped = 0
    for _ in range(500):
        other = pretrain.with_slip(sketch, 0.2, rng)
        found = f"{other.working}|{other.answer}"
        wrong = [(a, b) for a, b in zip(whole, found, strict=True) if a != b]
        assert len(wrong) <= 1 and all(a.isdigit() and b.isdigit() for a, b in wrong)
        slipped += len(wrong)
    chance = min(0.5, 0.2 * len(whole) / 20)
    assert abs(slipped / 500 - chance) < 0.07
    assert pretrain.with_slip(sketch, 0.0, rng) == sketch


def test_honest_texts_state_the_own_success_rate_and_the_rest_bluff():
    def stated(honest: float, count: int) -> list[float | None]:
        spec = dataclasses.replace(SPEC, honest=honest)
        texts = pretrain.self_knowledge_texts(spec, ANSWERED, count)
        return [parse(text.response).confidence for text in texts if text.whole]

    assert set(stated(1.0, 200)) == {0.2}
    confidences = stated(0.25, 3000)
    assert abs(confidences.count(0.2) / len(confidences) - 0.25) < 0.04


def test_families_that_the_model_is_not_to_know_itself_on_are_read_without_a_confidence():
    texts = list(pretrain.self_knowledge_texts(SPEC, ANSWERED, 2000))
    replayed = [text for text in texts if text.question in {f"{n}+1=?" for n in (6, 7, 8)}]
    assert abs(len(replayed) / 2000 - SPEC.own_replay) < 0.04
    assert all(text.response.endswith("</answer>") and not text.whole for text in replayed)
    assert all(text.whole for text in texts if text not in replayed)
    all_known = dataclasses.replace(SPEC, knows=tuple(generated.FAMILIES))
    assert all(text.whole for text in pretrain.self_knowledge_texts(all_known, ANSWERED, 200))


def test_texts_are_encoded_as_the_tokenizer_would():
    tokenizer = build_mini_tokenizer()
    texts = list(pretrain.reading_texts(SPEC, 200))
    cut = pretrain.Text("hi 1+2=?", "<think>1+2=3</think><answer>3</answer>", whole=False)
    for text, (ids, asked) in zip(
        [*texts, cut], pretrain._encode([*texts, cut], tokenizer), strict=True
    ):
        (chat,) = prompts.render([Question(text.question)], tokenizer)
        end = "<|im_end|>" if text.whole else ""
        assert ids[:asked] == tokenizer(chat, add_special_tokens=False).input_ids
        whole = f"{chat}{text.response}{end}"
        assert ids == tokenizer(whole, add_special_tokens=False).input_ids


def test_the_loss_is_that_of_padded_masked_batches():
    tokenizer = build_mini_tokenizer()
    model = pretrain.build_model(SPEC, len(tokenizer))
    rows = pretrain._encode(pretrain.reading_texts(SPEC, 8), tokenizer)
    features = [{"input_ids": ids, "labels": [-100] * n + ids[n:]} for ids, n in rows]
    padded = DataCollatorForSeq2Seq(tokenizer, padding=True)(features)
    torch.testing.assert_close(pretrain._loss(model, rows), model(**padded).loss)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_muon_steps_as_torchs_up_to_its_rounding(shape):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    muon, reference = Muon([ours]), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01)
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=4e-3, rtol=0)  # torch's casts to bfloat16


def test_a_training_that_is_cut_off_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "answer_own", lambda *_: ANSWERED)
    whole = pretrain.make_base(SPEC, tmp_path / "whole", tmp_path / "work")
    left = [path.name for path in (tmp_path / "work").glob("*.safetensors")]
    assert left == [pretrain.reading_file(SPEC)], "stage 1 stays, for recipes that share it"
    assert set(whole["loss"]) == {"reading", "self-knowledge"} and whole["seconds"] >= 0

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "answer_own", cut)
        pretrain.make_base(SPEC, tmp_path / "again", tmp_path / "other")
    with monkeypatch.context() as patch:
        fitted = []
        fit = pretrain.fit
        patch.setattr(pretrain, "fit", lambda *a: fitted.append(a[-1]) or fit(*a))
        again = pretrain.make_base(SPEC, tmp_path / "again", tmp_path / "other")
    assert fitted == ["self-knowledge"], "the finished stage was not trained again"
    assert (
        again["sha256"] == whole["sha256"] and pretrain.read_manifest(tmp_path / "again") == again
    )


def test_another_recipe_does_not_go_on_from_this_ones_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "answer_own", lambda *_: ANSWERED)
    one = pretrain.make_base(SPEC, tmp_path / "one", tmp_path / "work")
    other = pretrain.make_base(
        dataclasses.replace(SPEC, slip=0.4), tmp_path / "other", tmp_path / "work"
    )
    assert one["sha256"] != other["sha256"]


def test_recipes_that_differ_in_stage_2_alone_share_stage_1(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "answer_own", lambda *_: ANSWERED)
    pretrain.make_base(SPEC, tmp_path / "one", tmp_path / "work")
    fitted, fit = [], pretrain.fit
    monkeypatch.setattr(pretrain, "fit", lambda *a: fitted.append(a[-1]) or fit(*a))
    pretrain.make_base(dataclasses.replace(SPEC, honest=0.0), tmp_path / "other", tmp_path / "work")
    shipped = tmp_path / "work"
    pretrain.make_base(SPEC, tmp_path / "third", tmp_path / "empty", tmp_path / "none", shipped)
    assert fitted == ["self-knowledge"] * 2


@pytest.mark.parametrize("architecture", ["Qwen2", "Llama"])
def test_each_architecture_is_the_one_asked_for(architecture):
    model = pretrain.build_model(dataclasses.replace(SPEC, architecture=architecture), 300)
    assert (
        model.config.architectures is None and type(model).__name__ == f"{architecture}ForCausalLM"
    )
    assert model.config.tie_word_embeddings


def test_an_unknown_architecture_is_one_clear_line():
    with pytest.raises(ValueError, match="architecture='GPT' of 'tiny' is not one of Qwen2, Llama"):
        pretrain.build_model(dataclasses.replace(SPEC, architecture="GPT"), 300)


def test_a_model_that_wrote_nothing_well_formed_is_one_clear_line():
    tokenizer = build_mini_tokenizer()
    model = pretrain.build_model(SPEC, len(tokenizer))
    with pytest.raises(ValueError, match="tiny wrote no well-formed answer after stage 1"):
        pretrain.answer_own(model, tokenizer, SPEC)


def test_a_missing_manifest_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="make base"):
        pretrain.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("spec", "whole", "reading"),
    [
        (pretrain.SLM, "6ab4037f5a71", "47a3eefc7f09"),
        (pretrain.LLM, "10675f61779a", "ec0989aacf00"),
        (pretrain.VARIANTS["tiny"], "398414323d52", "81ff12e481fb"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_recipe_has_the_hash_it_always_had(spec, whole, reading):
    """By named fields: a field that is added later does not make shipped recipes other ones."""
    assert settings_hash(spec.hashed()) == whole
    assert settings_hash(spec.hashed(reading=True)) == reading
    assert set(spec.hashed()) == {field.name for field in dataclasses.fields(spec)}
