"""A model run in this process by vLLM."""

import gc
import hashlib
import math
from pathlib import Path

from corea import prompts
from corea.engines.base import Completion, ModelEngine, ModelFilesError
from corea.engines.numerals import BRANCH, Likely
from corea.support.models import REVISIONS


class VLLMEngine(ModelEngine):
    """The engine of a folder or hub id, which batches by itself; `llm` has `vllm.LLM`'s options."""

    sorts = reads_past_limit = False

    def __init__(self, model: str | Path, *, llm: dict | None = None, batch_size=2048, **settings):
        try:
            import vllm
        except ImportError as error:
            problem = f"engine {settings['name']!r} needs vLLM, which cannot be imported ({error})"
            raise ModelFilesError(f"{problem}; use `pip install .[gpu]`") from error
        super().__init__(prompts.load_tokenizer(model), batch_size=batch_size, **settings)
        self.sampling_params = vllm.SamplingParams
        self.llm = vllm.LLM(
            model=str(model),
            revision=REVISIONS.get(str(model)),
            max_logprobs=max(1, self.top_logprobs),
            trust_remote_code=False,
            disable_log_stats=True,
            **(llm or {}),
        )

    def close(self) -> None:
        self.llm = None
        gc.collect()

    def _generate(self, texts: list[str], keys: list[str]) -> list[Completion]:
        completions = []
        for output in self._ask(self._ids(texts), [self._sampling(key) for key in keys]):
            written, kept = output.outputs[0], None
            tokens = list(written.token_ids)
            if written.logprobs:
                steps = [_logprobs(step) for step in written.logprobs]
                logprobs = [step[token] for step, token in zip(steps, tokens, strict=True)]
                kept = logprobs, [[*step] for step in steps], [[*step.values()] for step in steps]
            finish = "length" if written.finish_reason == "length" else "stop"
            prompt_tokens = len(output.prompt_token_ids)
            completions.append(self._completion(tokens, prompt_tokens, finish, kept))
        return completions

    def _sampling(self, key: str):
        """The model's own distribution: only a temperature, whatever its settings say."""
        return self.sampling_params(
            temperature=self.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            max_tokens=self.max_new_tokens,
            seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"),
            logprobs=self.top_logprobs or None,
            stop_token_ids=[self.tokenizer.eos_token_id],
        )

    def _ask(self, ids: list[list[int]], sampling) -> list:
        requests = [{"prompt_token_ids": row} for row in ids]
        return self.llm.generate(requests, sampling, use_tqdm=False)

    def _branches(self, texts: list[str]) -> list[Likely]:
        (branch,) = self._ids([BRANCH])
        width = len(branch) + 1
        # Not by `prompt_logprobs`: it holds scores of all prompt tokens and skips the prefix cache.
        outputs = self._ask(
            [row + branch[:k] for row in self._ids(texts) for k in range(width)],
            self.sampling_params(temperature=0.0, max_tokens=1, logprobs=self.top_logprobs),
        )
        steps = [_logprobs(output.outputs[0].logprobs[0]) for output in outputs]
        branches = []
        for start in range(0, len(steps), width):
            *along, last = steps[start : start + width]
            pairs = zip(branch, along, strict=True)
            reached = sum(step.get(token, -math.inf) for token, step in pairs)
            likely = self._decoded([*last], [reached + p for p in last.values()])
            # Of a token that is not among the likeliest, nothing is known.
            branches.append(likely if reached > -math.inf else [])
        return branches


def _logprobs(step) -> dict[int, float]:
    """By token, what vLLM tells of one step: the likeliest and the chosen one."""
    return {token: one.logprob for token, one in step.items()}
