"""The transformers engine: what it draws, what it counts, and how it fails."""

from __future__ import annotations

import json
import math
import sys
import types
from collections import Counter

import pytest
import torch

from corea.engines.base import ModelFilesError
from corea.engines.loading import load_model
from corea.engines.local import TransformersEngine, _Sampler
from corea.engines.numerals import numerals_of_path
from corea.engines.vllm import VLLMEngine
from corea.prompts import load_tokenizer
from corea.questions.load import load_questions
from corea.support.files import sha256_of
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(folder):
    return TransformersEngine(
        load_model(folder), load_tokenizer(folder), name="tiny", max_new_tokens=8, batch_size=5
    )


@pytest.fixture(scope="module")
def questions():
    return load_questions("drill", "test", size=6)


def test_completions_come_in_the_order_asked_and_count_their_tokens(engine, questions):
    groups = engine.complete(questions, samples=3)
    assert [len(group) for group in groups] == [3] * 6
    for question, group in zip(questions, groups, strict=True):
        for completion in group:
            assert completion.prompt_tokens == 8 + len(question.text)
            assert 1 <= completion.completion_tokens <= 8
            assert completion.finish == (
                "stop" if completion.completion_tokens < 8 else completion.finish
            )


def test_a_completion_does_not_depend_on_what_is_asked_beside_it(engine, questions):
    together = engine.complete(questions, samples=2, seed=7)
    alone = [engine.complete([question], samples=2, seed=7)[0] for question in questions]
    assert together == alone
    assert together != engine.complete(questions, samples=2, seed=8)


def test_greedy_decoding_agrees_with_generate_itself(folder, questions):
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    greedy = TransformersEngine(model, tokenizer, name="tiny", max_new_tokens=8, temperature=0)
    from corea.prompts import render

    for question, (found,) in zip(questions, greedy.complete(questions), strict=True):
        inputs = tokenizer(
            render([question], tokenizer), return_tensors="pt", add_special_tokens=False
        )
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id,
                             pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        text = tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert found.text == text


def test_sampling_follows_the_distribution():
    """40,000 draws of three tokens: each share within four standard errors of its probability."""
    rows = 40_000
    scores = torch.tensor([[0.0, math.log(2), math.log(5), -torch.inf]]).repeat(rows, 1)
    chosen = _Sampler([str(n) for n in range(rows)], 1, 3, 1.0)(
        torch.zeros(rows, 3), scores
    ).argmax(dim=1)
    counts = Counter(chosen.tolist())
    for token, probability in enumerate((1 / 8, 2 / 8, 5 / 8)):
        error = math.sqrt(probability * (1 - probability) / rows)
        assert abs(counts[token] / rows - probability) < 4 * error
    assert counts[3] == 0, "a token of probability zero was drawn"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot load model weights from"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 100),
            "cannot load model weights from",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-64]
            ),
            "cannot load",
        ),
        (lambda f: (f / "config.json").unlink(), "cannot load model weights from"),
    ],
    ids=["missing", "garbage", "cut short", "no configuration"],
)
def test_missing_or_damaged_weights_are_one_clear_line(tmp_path, damage, says):
    save_tiny(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelFilesError, match=says) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value) and "make base" in str(caught.value)


def test_a_flipped_bit_is_told_from_the_weights_of_the_manifest(tmp_path):
    """It loads without complaint, so only the hash can tell."""
    save_tiny(tmp_path)
    weights = tmp_path / "model.safetensors"
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": sha256_of(weights)}))
    load_model(tmp_path)
    found = bytearray(weights.read_bytes())
    found[-1] ^= 1
    weights.write_bytes(found)
    with pytest.raises(
        ModelFilesError, match=r"is not the file its manifest names .*make base"
    ) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "manifest.json").unlink()
    load_model(tmp_path)


def test_wrong_settings_are_refused(folder):
    with pytest.raises(ValueError, match="temperature=-1"):
        TransformersEngine(
            load_model(folder),
            load_tokenizer(folder),
            name="tiny",
            max_new_tokens=8,
            temperature=-1,
        )


@pytest.fixture(scope="module")
def keeping(folder):
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    return TransformersEngine(
        model, tokenizer, name="tiny", max_new_tokens=8, batch_size=5, keep_logprobs=True
    )


def test_keeping_logprobs_changes_no_completion(engine, keeping, questions):
    plain, kept = engine.complete(questions, samples=2), keeping.complete(questions, samples=2)
    assert [[c.text for c in group] for group in plain] == [
        [c.text for c in group] for group in kept
    ]
    assert plain[0][0].logprobs is None
    assert all(len(c.logprobs) == c.completion_tokens for group in kept for c in group)


@pytest.fixture(scope="module")
def shipped():
    """An engine of the shipped SLM, keeping log-probabilities."""
    from corea.paper.profiles import load_profile

    folder = load_profile("cpu").slm
    return TransformersEngine(
        load_model(folder), load_tokenizer(folder), name="SLM", max_new_tokens=96, keep_logprobs=True
    )  # fmt: skip


def test_logprobs_are_those_of_a_plain_forward_pass(shipped, questions):
    from corea.prompts import render

    (found,) = shipped.complete(questions[:1])[0]
    prompt, written = shipped._ids([render(questions[:1], shipped.tokenizer)[0], found.text])
    with torch.no_grad():
        logits = shipped.model(torch.tensor([prompt + written])).logits[0].log_softmax(-1)
    expected = [float(logits[len(prompt) - 1 + n, token]) for n, token in enumerate(written)]
    assert found.logprobs[: len(written)] == pytest.approx(expected, abs=1e-3)
    first, last = found.answer_span
    answer = found.text.split("<answer>")[1].split("</answer>")[0]
    assert shipped.tokenizer.decode(written[first:last]) == answer


def step(token: str, p: float, **others: float) -> tuple:
    """One step of a path: the token written, and all likely ones by their probability."""
    likely = {token: p} | {name.strip("_"): value for name, value in others.items()}
    return token, math.log(p), [(name, math.log(value)) for name, value in likely.items()]


@pytest.mark.parametrize(
    ("path", "expected", "reason"),
    [
        ([("1", 0.0, [("1", 0.0)])], {"1": 1.0}, "a sure 1"),
        (
            [step("0", 0.8, _1=0.2), step(".", 1.0), step("7", 0.5, _6=0.3, x=0.2)],
            {"0.6": 0.24, "0.7": 0.4, "1": 0.2},
            "a 1 in the first place can only be 1; a letter is no numeral",
        ),
        (
            [step("1", 0.6, _0=0.4), step(".", 1.0), step("0", 1.0)],
            {"1": 0.6},
            "what would have followed the 0 is not known",
        ),
        (
            [step("0", 1.0), step(".", 1.0), step("8", 0.9, _7=0.1), step("5", 0.5, **{"</": 0.5})],
            {"0.8": 0.45, "0.85": 0.45},
            "the numeral may end where the tag begins; 0.7 may go on and is left out",
        ),
        (
            [step("1", 0.6, _0=0.4)],
            {"1": 0.6},
            "a 0 in the place of a lone 1 may go on, as in 0.9: not a whole numeral",
        ),
        ([step("0", 0.6, _1=0.4)], {"0": 0.6, "1": 0.4}, "a 0 that was written and ended is one"),
        ([step("high", 1.0)], {}, "no numeral at all"),
        ([step("2", 0.5, _1=0.5)], {"1": 0.5}, "2 is no probability"),
        ([], {}, "nothing was written"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numerals_of_a_path(path, expected, reason):
    assert numerals_of_path(path) == pytest.approx(expected), reason


def test_where_a_1_was_stated_the_other_branch_is_read_too(shipped, questions):
    """With the branch "0." read, the numerals' probabilities sum to nearly 1."""
    found = [group[0] for group in shipped.complete(questions)]
    stated = [c for c in found if c.numerals]
    assert len(stated) >= 5
    ones = [c for c in stated if "<confidence>1" in c.text]
    assert ones and all(sum(c.numerals.values()) > 0.97 and len(c.numerals) > 3 for c in ones)
    assert all(sum(c.numerals.values()) <= 1 + 1e-6 for c in stated)


def test_hidden_states_do_not_depend_on_what_is_asked_beside_them(keeping, questions):
    texts = [
        "<answer>1</answer><confidence>0.5</confidence>",
        "no tag",
        "<confidence>",
        "",
        "x" * 40,
        "<answer>",
    ]
    together = keeping.hidden_states(questions, texts)
    assert together.shape == (6, 2, 32)
    for n, (question, text) in enumerate(zip(questions, texts, strict=True)):
        assert keeping.hidden_states([question], [text])[0] == pytest.approx(together[n], abs=1e-5)
    assert keeping.hidden_states(questions[:1], [texts[0] + "junk"])[0] == pytest.approx(
        together[0], abs=1e-5
    ), "what follows the tag is not read"


def test_generation_settings_that_a_model_brings_do_not_bend_its_distribution(folder):
    """Qwen2.5 ships a repetition penalty, top-p and top-k: completions and log-probabilities are the model's own."""
    plain = TransformersEngine(
        load_model(folder),
        load_tokenizer(folder),
        name="tiny",
        max_new_tokens=12,
        keep_logprobs=True,
    )
    bent = load_model(folder)
    bent.generation_config.update(
        repetition_penalty=3.0,
        top_k=2,
        top_p=0.1,
        do_sample=True,
        no_repeat_ngram_size=1,
        min_new_tokens=12,
    )
    other = TransformersEngine(
        bent, load_tokenizer(folder), name="tiny", max_new_tokens=12, keep_logprobs=True
    )
    questions = load_questions("drill", "test", size=6)
    assert other.complete(questions, samples=2) == plain.complete(questions, samples=2)


class FakeVLLM(types.ModuleType):
    """What `VLLMEngine` asks of vLLM, answered from a transformers engine: only how it asks is tested, `make test-serving` does the rest."""

    def __init__(self, inner):
        super().__init__("vllm")
        self.inner, self.asked, self.options = inner, [], {}
        self.wrote = "<answer>7</answer><confidence>0.9</confidence><|im_end|>"
        self.after: dict[
            str, dict[str, float]
        ] = {}  # end of a prompt -> probability of each next token
        self.SamplingParams = types.SimpleNamespace
        self.LLM = self.load

    def load(self, **options):
        self.options = options
        return types.SimpleNamespace(generate=self.generate)

    def generate(self, inputs, sampling, use_tqdm):
        each = sampling if isinstance(sampling, list) else [sampling] * len(inputs)
        self.asked.append(each)
        return [
            self.output(given["prompt_token_ids"], settings)
            for given, settings in zip(inputs, each, strict=True)
        ]

    def output(self, ids, settings):
        if settings.max_tokens == 1:
            said = next(
                said
                for end, said in self.after.items()
                if self.inner.tokenizer.decode(ids).endswith(end)
            )
            steps = [
                {
                    self.token(name): types.SimpleNamespace(logprob=math.log(p))
                    for name, p in said.items()
                }
            ]
            tokens = [next(iter(steps[0]))]
        else:
            tokens = self.inner.tokenizer(self.wrote).input_ids
            steps = (
                [{token: types.SimpleNamespace(logprob=-0.25)} for token in tokens]
                if settings.logprobs
                else None
            )
        said = types.SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=steps)
        return types.SimpleNamespace(prompt_token_ids=ids, outputs=[said])

    def token(self, name: str) -> int:
        (token,) = self.inner.tokenizer(name).input_ids
        return token


@pytest.fixture
def vllm(engine, monkeypatch):
    fake = FakeVLLM(engine)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


def test_vllm_is_asked_for_the_models_own_distribution_in_chunks(vllm, folder, questions):
    asked = VLLMEngine(
        folder,
        name="v",
        max_new_tokens=9,
        keep_logprobs=True,
        batch_size=4,
        llm={"dtype": "float32"},
    )
    told = []
    found = asked.complete(questions, samples=2, seed=5, progress=told.append)
    rows = [settings for batch in vllm.asked for settings in batch]
    assert (
        told == [len(batch) for batch in vllm.asked]
        and max(told) == 4
        and sum(told) == 2 * len(questions)
    )
    assert len({settings.seed for settings in rows}) == len(rows), (
        "every completion has a seed of its own"
    )
    assert {
        (s.temperature, s.top_p, s.top_k, s.repetition_penalty, s.max_tokens, s.logprobs)
        for s in rows
    } == {(1.0, 1.0, 0, 1.0, 9, 20)}
    assert vllm.options["trust_remote_code"] is False and vllm.options["dtype"] == "float32"
    (first, _), *_ = found
    assert first.text == "<answer>7</answer><confidence>0.9</confidence>" and first.finish == "stop"
    assert first.completion_tokens == len(first.logprobs) == 9 and first.answer_span == (1, 2)
    assert first.numerals == {"0.9": pytest.approx(math.exp(-0.75))}


def test_a_vllm_completion_keeps_its_seed_whatever_is_asked_beside_it(vllm, folder, questions):
    asked = VLLMEngine(folder, name="v", max_new_tokens=9)
    asked.complete(questions, samples=2)
    asked.complete(questions[1:2], samples=1)
    assert vllm.asked[1][0].seed == vllm.asked[0][2].seed and vllm.asked[0][0].logprobs is None


@pytest.mark.parametrize(
    ("first", "expected", "reason"),
    [
        (
            {"1": 0.78, "0": 0.2},
            {"0.8": 0.15, "0.9": 0.05, "1": 0.7788},
            "P(0) P(.) times that of each digit",
        ),
        (
            {"1": 0.78, "2": 0.2},
            {"1": 0.7788},
            "0 is not among the likeliest: nothing is known of its branch",
        ),
    ],
    ids=["likely", "cut off"],
)
def test_vllm_reads_the_other_branch_where_a_1_was_stated(
    vllm, folder, questions, first, expected, reason
):
    vllm.wrote = vllm.wrote.replace("0.9", "1")
    vllm.after = {
        "<confidence>": first,
        "<confidence>0": {".": 1.0},
        "<confidence>0.": {"8": 0.75, "9": 0.25},
    }
    ((found,), _) = VLLMEngine(folder, name="v", max_new_tokens=9, keep_logprobs=True).complete(
        questions[:2]
    )
    assert found.numerals == pytest.approx(expected, abs=1e-4), reason
    assert [len(batch) for batch in vllm.asked] == [2, 6]


def test_without_vllm_the_line_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        ModelFilesError,
        match=r"needs vLLM, which cannot be imported \(.*\); use `pip install \.\[gpu\]`",
    ):
        VLLMEngine(folder, name="v", max_new_tokens=9)
