"""The mini models' tokenizer: one token per byte, ChatML, and single tokens for tags and roles."""

from corea.prompts import TAGS

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ROLES = ("system", "user", "assistant")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_mini_tokenizer():
    """A `Qwen2Tokenizer` of bytes without merges, so that digits and letters stay apart.

    Tags are not special tokens: TRL drops those from the completions that the parser reads.
    """
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {token: len(vocab) + n for n, token in enumerate(_SPECIAL)}
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512, **ends)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*TAGS, *_ROLES)])
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer
