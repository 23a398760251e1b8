"""A model run in this process by `transformers`."""

import hashlib
from collections.abc import Sequence

import numpy as np

from corea import prompts
from corea.engines.base import Completion, ModelEngine
from corea.engines.numerals import BRANCH, Likely
from corea.questions.base import Question


class TransformersEngine(ModelEngine):
    """The engine of a model and tokenizer by `load_model` and `prompts.load_tokenizer`."""

    def __init__(self, model, tokenizer, *, batch_size: int = 256, **settings):
        super().__init__(tokenizer, batch_size=batch_size, **settings)
        self.model = model.eval()

    def _generate(self, texts: list[str], keys: list[str]) -> list[Completion]:
        from corea.engines import _decoding

        sampler = _Sampler(keys, self.max_new_tokens, self.temperature, self.top_logprobs)
        prompt_ids, end = self._ids(texts), self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        options = {"limit": self.max_new_tokens, "ends": [end], "pad": pad}
        written = _decoding.write(self.model, prompt_ids, sampler, **options)
        completions = []
        for prompt, tokens, kept in zip(prompt_ids, written, sampler.by_row(), strict=True):
            finish = "stop" if tokens[-1] == end else "length"
            completions.append(self._completion(tokens, len(prompt), finish, kept))
        return completions

    def _branches(self, texts: list[str]) -> list[Likely]:
        (branch,) = self._ids([BRANCH])
        rows = self._ids(texts)
        logits = self._forward(self.model, [row + branch for row in rows]).logits
        branches = []
        for row, scores in zip(rows, logits, strict=True):
            steps = scores[len(row) - 1 : len(row) + len(branch)].log_softmax(dim=-1)
            reached = sum(float(steps[k, token]) for k, token in enumerate(branch))
            top = steps[len(branch)].topk(min(self.top_logprobs, steps.shape[-1]))
            logprobs = [reached + logprob for logprob in top.values.tolist()]
            branches.append(self._decoded(top.indices.tolist(), logprobs))
        return branches

    def hidden_states(self, questions: Sequence[Question], texts: Sequence[str]):
        """Read what the model holds at the last `<confidence>` tag, or a text's end without one.

        Returns:
            Array (rows, layers + 1, hidden size) of float32; the first layer is the embeddings.
        """
        rendered = prompts.render(questions, self.tokenizer, instruction=self.instruction)
        read = ["".join(text.rpartition("<confidence>")[:2]) or text for text in texts]
        ids = self._ids([prompt + text for prompt, text in zip(rendered, read, strict=True)])
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        states = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            decoder = self.model.get_decoder()
            output = self._forward(decoder, [ids[n] for n in rows], output_hidden_states=True)
            for k, n in enumerate(rows):
                last = [layer[k, len(ids[n]) - 1].float().cpu() for layer in output.hidden_states]
                states[n] = np.stack(last)
        return np.stack([states[n] for n in range(len(ids))])

    def _forward(self, model, ids: list[list[int]], **options):
        """A model's output for rows of tokens of several lengths."""
        import torch

        width, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        # Padding on the right: no token sees what comes after it, and positions need no correction.
        padded = [row + [pad] * (width - len(row)) for row in ids]
        with torch.no_grad():
            return model(torch.tensor(padded, device=model.device), use_cache=False, **options)


class _Sampler:
    """Chooses tokens by inverting the cumulative distribution at one uniform number per step.

    A row's numbers come from its key, so it draws the same tokens in any batch. Of each step it
    keeps the log-probabilities of the chosen token and of the `top` likeliest.
    """

    def __init__(self, keys: Sequence[str], steps: int, temperature: float, top: int = 0):
        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big") for key in keys]
        draws = [np.random.Generator(np.random.Philox(key=seed)).random(steps) for seed in seeds]
        self.uniform, self.temperature, self.top = np.stack(draws), temperature, top
        self.kept: list[np.ndarray] = []

    def __call__(self, rows, step: int, scores):
        import torch

        from corea.engines import _decoding

        at = rows.cpu().numpy(), step
        if self.temperature == 0:
            chosen = scores.argmax(dim=-1)
        else:
            uniform = torch.from_numpy(self.uniform[at])
            chosen = _decoding.draw(scores, self.temperature, uniform)
        if self.top:
            logprobs = scores.log_softmax(dim=-1)
            likely = logprobs.topk(min(self.top, scores.shape[-1]), dim=-1)
            found = logprobs.gather(1, chosen[:, None])[:, 0], likely.indices, likely.values
            values = [each.cpu().numpy() for each in found]
            shape = self.uniform.shape
            self.kept = self.kept or [np.zeros((*shape, *v.shape[1:]), v.dtype) for v in values]
            for whole, part in zip(self.kept, values, strict=True):
                whole[at] = part
        return chosen

    def by_row(self) -> list:
        """Per row: (steps,) log-probabilities; (steps, top) ids of likely tokens, and theirs."""
        return list(zip(*self.kept, strict=True)) if self.kept else [None] * len(self.uniform)
