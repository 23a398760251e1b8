"""The one prompt and the one response format, for mini and hub models.

A response is `<think>working</think><answer>42</answer><confidence>0.7</confidence>`. `INSTRUCTION`
tells so in the system turn; mini models learnt it and are given the question only.
"""

from collections.abc import Sequence
from pathlib import Path

from corea.questions.base import Question
from corea.support.models import REVISIONS

INSTRUCTION = (
    "Solve the problem step by step, then say how likely your answer is to be right. "
    "Reply in exactly this form: <think>your reasoning</think><answer>the final answer alone"
    "</answer><confidence>a number from 0.0 to 1.0, the probability that the answer is correct"
    "</confidence>"
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<confidence>", "</confidence>")
CONFIDENCES = tuple(f"{tenth / 10:.1f}" for tenth in range(11))
# Llama's template tells the date: the same one on every day.
TEMPLATE_OPTIONS = {"date_string": "26 Jul 2024"}


def messages(question: Question, *, instruction: str | None = None) -> list[dict[str, str]]:
    """Chat messages that ask one question, after the instruction as the system turn if given."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": question.text}]


def render(
    questions: Sequence[Question], tokenizer, *, instruction: str | None = None
) -> list[str]:
    """Prompts by the tokenizer's chat template, to be tokenized without more special tokens."""
    chats = [messages(question, instruction=instruction) for question in questions]
    return tokenizer.apply_chat_template(
        chats, tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
    )


def response_text(working: str, answer: str, confidence: str) -> str:
    """A well-formed response."""
    return f"<think>{working}</think><answer>{answer}</answer><confidence>{confidence}</confidence>"


def load_tokenizer(folder: str | Path):
    """The tokenizer of a local folder or a hub model, padding on the left for generation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, revision=REVISIONS.get(str(folder), "main"))
    if tokenizer.chat_template is None:
        remedy = "use an instruction-tuned model, or set one"
        raise ValueError(f"the tokenizer of {folder} has no chat template: {remedy}")
    # Decoding with `skip_special_tokens=True` drops both kinds.
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if hidden := sorted(added.union(tokenizer.all_special_tokens).intersection(TAGS)):
        hides = f"the tokenizer of {folder} has {hidden[0]} as a special token, dropped in decoding"
        raise ValueError(f"{hides}; use a model whose tags are ordinary tokens")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
