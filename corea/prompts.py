"""The one prompt and the one response format, for mini, base and chat models.

A response is `<think>working</think><answer>42</answer><confidence>0.7</confidence>`.  Models that were not taught
it are told so by `INSTRUCTION` in the system turn; the mini models learnt it in pretraining and are given the question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corea.questions.base import Question
from corea.support.models import revision_of

INSTRUCTION = (
    "Solve the problem step by step, then say how likely your answer is to be right. Reply in exactly this form: "
    "<think>your reasoning</think><answer>the final answer alone</answer><confidence>a number from 0.0 "
    "to 1.0, the probability that the answer is correct</confidence>"
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<confidence>", "</confidence>")
CONFIDENCES = tuple(f"{tenth / 10:.1f}" for tenth in range(11))
TEMPLATE_OPTIONS = {
    "date_string": "26 Jul 2024"
}  # Llama's templates tell the date: the same one on every day
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def messages(question: Question, *, instruction: str | None = None) -> list[dict[str, str]]:
    """Chat messages that ask one question; with `instruction` as the system turn where one is given."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": question.text}]


def render(
    questions: Sequence[Question], tokenizer, *, instruction: str | None = None
) -> list[str]:
    """Prompt texts, ready to be tokenized without further special tokens, by the tokenizer's own chat template."""
    chats = [messages(question, instruction=instruction) for question in questions]
    return tokenizer.apply_chat_template(
        chats, tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
    )


def response_text(working: str, answer: str, confidence: str) -> str:
    """A well-formed response."""
    return f"<think>{working}</think><answer>{answer}</answer><confidence>{confidence}</confidence>"


def build_mini_tokenizer():
    """A `Qwen2Tokenizer` with one token a byte and ChatML, in which tags and role names are single tokens.

    Tags are *not* special tokens, as TRL decodes with `skip_special_tokens=True` and the parser needs to see them.
    There are no merges, so that digits and letters stay apart; any text can be encoded.
    """
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {token: len(vocab) + n for n, token in enumerate(_SPECIAL)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*TAGS, *_ROLES)])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def load_tokenizer(folder: str | Path):
    """The tokenizer of a local folder or a hub model, padding on the left for generation.

    Raises ValueError where it has no chat template, or would hide a tag of the response format.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision_of(folder) or "main")
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of {folder} has no chat template: use an instruction-tuned model, or set one"
        )
    if hidden := sorted(
        set(TAGS) & {str(t) for t in (*tokenizer.all_special_tokens, *_special_added(tokenizer))}
    ):
        raise ValueError(
            f"the tokenizer of {folder} has {hidden[0]} as a special token, which is dropped when a completion is decoded, so "
            "that its parts could not be told; use a model whose tags are ordinary tokens"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _special_added(tokenizer) -> list[str]:
    """Added tokens that decoding with `skip_special_tokens=True` drops."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
