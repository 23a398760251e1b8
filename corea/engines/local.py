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
        from transformers import GenerationConfig

        self.model = model.eval()
        # A hub model's own repetition penalty or top-p would be mixed in by `generate`.
        self.model.generation_config = GenerationConfig()

    def _generate(self, texts: list[str], keys: list[str]) -> list[Completion]:
        import torch
        from transformers import LogitsProcessorList

        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        width = inputs.input_ids.shape[1]
        sampler = _Sampler(keys, self.max_new_tokens, width, self.temperature, self.top_logprobs)
        with torch.no_grad():
            output = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,  # the sampler leaves one token, drawn by itself
                logits_processor=LogitsProcessorList([sampler]),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        completions, end = [], self.tokenizer.eos_token_id
        prompt_tokens = inputs.attention_mask.sum(dim=1).tolist()
        rows = zip(output[:, width:].tolist(), prompt_tokens, sampler.kept(), strict=True)
        for tokens, count, kept in rows:
            stop = tokens.index(end) + 1 if end in tokens else None  # what follows is padding
            finish = "stop" if stop else "length"
            completions.append(self._completion(tokens[:stop], count, finish, kept))
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
    """Logits processor that inverts the cumulative distribution at one uniform number per step.

    A row's numbers come from its key, so it draws the same tokens in any batch. Of each step it
    keeps the log-probabilities of the chosen token and of the `top` likeliest.
    """

    def __init__(self, keys: Sequence[str], steps: int, width: int, temperature: float, top=0):
        import torch

        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big") for key in keys]
        draws = [np.random.Generator(np.random.Philox(key=seed)).random(steps) for seed in seeds]
        self.uniform = torch.from_numpy(np.stack(draws))
        self.width, self.temperature, self.top = width, temperature, top  # width: of the prompts
        self.steps: list[tuple] = []

    def __call__(self, input_ids, scores):
        import torch

        if self.temperature == 0:
            chosen = scores.argmax(dim=-1, keepdim=True)
        else:
            cumulative = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
            uniform = self.uniform[:, input_ids.shape[1] - self.width, None].to(scores.device)
            target = uniform * cumulative[:, -1:]
            last = scores.shape[-1] - 1
            chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=last)
        if self.top:
            logprobs = scores.log_softmax(dim=-1)
            likely = logprobs.topk(min(self.top, scores.shape[-1]), dim=-1)
            self.steps.append((logprobs.gather(1, chosen)[:, 0], likely.indices, likely.values))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def kept(self) -> list:
        """Per row: (steps,) log-probabilities; (steps, top) ids of likely tokens, and theirs."""
        if not self.steps:
            return [None] * len(self.uniform)
        steps = [[values.cpu().numpy() for values in step] for step in self.steps]
        columns = [np.stack(column, axis=1) for column in zip(*steps, strict=True)]
        return list(zip(*columns, strict=True))
