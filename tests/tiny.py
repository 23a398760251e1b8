"""A tiny untrained Qwen2 with the mini tokenizer, for tests that need a real model but no good one."""

from __future__ import annotations

from pathlib import Path

from corea.mini.pretrain import BaseSpec, build_model
from corea.mini.tokenizer import build_mini_tokenizer

SPEC = BaseSpec(
    "tiny",
    hidden_size=32,
    layers=1,
    intermediate_size=32,
    steps=2,
    slip=0.1,
    batch_size=4,
    own_steps=0,
)


def save_tiny(folder: Path) -> Path:
    """Write weights, configuration and tokenizer to `folder`."""
    tokenizer = build_mini_tokenizer()
    build_model(SPEC, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
