"""Engines turn questions into completions.

An engine answers `complete(questions, samples=..., seed=...)` with `samples` completions a question.  A completion depends
on the question's id, the sample's index and the seed, not on what else is in the batch (up to float rounding), so
asking again for a part of the questions, as a cascade does, gives the same completions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from corea import prompts
from corea.files import sha256_of
from corea.tasks import Question


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for one prompt.  `finish` is "stop", or "length" where the token limit cut it off.

    Token counts are the model's own: the prompt without padding, the completion with its end token.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str


class Engine(Protocol):
    """Anything that completes questions: outer list by question, inner by sample."""

    name: str

    def complete(
        self, questions: Sequence[Question], *, samples: int = 1, seed: int = 0
    ) -> list[list[Completion]]: ...


class ModelFilesError(ValueError):
    """Weights that are missing, damaged or not what their manifest says."""


class TransformersEngine:
    """A causal language model run in this process by `transformers`.

    model, tokenizer: as loaded by `load_model` and `prompts.load_tokenizer`.  temperature 0 is greedy decoding.
    instruction: the system turn, for models that were not taught the response format.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        name: str,
        max_new_tokens: int,
        temperature: float = 1.0,
        batch_size: int = 256,
        instruction: str | None = None,
    ):
        if temperature < 0 or max_new_tokens < 1 or batch_size < 1:
            raise ValueError(
                f"engine {name!r}: temperature={temperature} must be >= 0, "
                f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be >= 1"
            )
        self.name = name
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.batch_size, self.instruction = batch_size, instruction

    def complete(
        self,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions for each question; `progress` is told how many are done after each batch."""
        texts = prompts.render(questions, self.tokenizer, instruction=self.instruction)
        rows = [(q, s) for q in range(len(questions)) for s in range(samples)]
        rows.sort(key=lambda row: len(texts[row[0]]))  # alike lengths waste the least padding
        found: dict[tuple[int, int], Completion] = {}
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            keys = [f"{seed}/{questions[q].id}/{s}" for q, s in batch]
            found.update(zip(batch, self._generate([texts[q] for q, _ in batch], keys), strict=True))
            if progress:
                progress(len(batch))
        return [[found[q, s] for s in range(samples)] for q in range(len(questions))]

    def _generate(self, texts: list[str], keys: list[str]) -> Iterator[Completion]:
        import torch
        from transformers import LogitsProcessorList

        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        width = inputs.input_ids.shape[1]
        choose = [_InverseCdf(keys, self.max_new_tokens, width, self.temperature)]
        with torch.no_grad():
            output = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,  # `choose` leaves one token, drawn from the model's distribution
                logits_processor=LogitsProcessorList(choose if self.temperature > 0 else []),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        prompt_tokens = inputs.attention_mask.sum(dim=1).tolist()
        for tokens, asked in zip(output[:, width:].tolist(), prompt_tokens, strict=True):
            yield self._completion(tokens, asked)

    def _completion(self, tokens: list[int], prompt_tokens: int) -> Completion:
        end = self.tokenizer.eos_token_id
        finish = "stop" if end in tokens else "length"
        used = tokens.index(end) + 1 if finish == "stop" else len(tokens)
        text = self.tokenizer.decode(tokens[:used], skip_special_tokens=True)
        return Completion(text, prompt_tokens, used, finish)


class _InverseCdf:
    """Logits processor that samples by inverting the cumulative distribution at one uniform number a row and step.

    Each row's numbers come from its own key, so a row draws the same tokens whatever batch it stands in.
    """

    def __init__(self, keys: Sequence[str], steps: int, width: int, temperature: float):
        import numpy as np
        import torch

        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big") for key in keys]
        draws = [np.random.Generator(np.random.Philox(key=seed)).random(steps) for seed in seeds]
        self.uniform = torch.from_numpy(np.stack(draws))
        self.width, self.temperature = width, temperature

    def __call__(self, input_ids, scores):
        import torch

        step = input_ids.shape[1] - self.width
        cumulative = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        target = self.uniform[:, step : step + 1].to(scores.device) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def load_model(folder: str | Path, *, dtype: str = "float32"):
    """A causal language model from a local folder or a hub id; safetensors only, no remote code.

    Raises ModelFilesError, in one line, where the weights are missing, damaged, or not those that a `manifest.json` beside
    them names by SHA-256 (the shipped base models have one).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    _check_manifest(Path(folder))
    disable_progress_bar()  # of loading weights, which takes milliseconds here and clutters notebooks
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors raises its own type, transformers OSError or ValueError
        first = str(error).strip().splitlines()[0]
        raise ModelFilesError(
            f"cannot load model weights from {folder}: {first}; restore the folder or retrain it (`make base`)"
        ) from error


def _check_manifest(folder: Path) -> None:
    """A flipped bit loads without complaint and changes every number: compare the weights with their manifest."""
    manifest, weights = folder / "manifest.json", folder / "model.safetensors"
    if not (manifest.exists() and weights.exists()):
        return
    expected = json.loads(manifest.read_text())["sha256"]
    found = sha256_of(weights)
    if found != expected:
        raise ModelFilesError(
            f"{weights} is not the file its manifest names (SHA-256 {found[:12]}, not {expected[:12]}); "
            "restore the folder or retrain it (`make base`)"
        )
