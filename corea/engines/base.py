"""Engines turn questions into completions.

An engine answers `complete(questions, samples=..., seed=...)` with `samples` completions a question.  A completion depends
on the question's id, the sample's index and the seed, not on what else is in the batch (up to float rounding), so
asking again for a part of the questions, as a cascade does, gives the same completions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from corea import prompts
from corea.questions.base import Question
from corea.support.files import sha256_of
from corea.support.hardware import Compute
from corea.support.models import revision_of

_BRANCH = "0."  # how every stated confidence but 1 begins


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for one prompt.  `finish` is "stop", or "length" where the token limit cut it off.

    Token counts are the model's own: the prompt without padding, the completion with its end token.  An engine that keeps
    log-probabilities gives, at temperature 1: `logprobs`, natural, one for each completion token; `answer_span`, the first
    and the end index of the answer's tokens among them; `numerals`, the probability of each numeral that could stand where
    the confidence stands (see `numerals_of_path`).  None where they are not kept, or the completion has no such place.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str
    logprobs: tuple[float, ...] | None = None
    answer_span: tuple[int, int] | None = None
    numerals: dict[str, float] | None = None


class Engine(Protocol):
    """Anything that completes questions: outer list by question, inner by sample."""

    name: str

    def complete(
        self, questions: Sequence[Question], *, samples: int = 1, seed: int = 0
    ) -> list[list[Completion]]: ...


class ReportingEngine(Engine, Protocol):
    """An engine that calls `progress` with how many completions it has finished since the last call."""

    def complete(
        self,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]: ...


class ModelFilesError(ValueError):
    """Weights that are missing, damaged or not what their manifest says."""


class TransformersEngine:
    """A causal language model run in this process by `transformers`.

    model, tokenizer: as loaded by `load_model` and `prompts.load_tokenizer`.  temperature 0 is greedy decoding.
    instruction: the system turn, for models that were not taught the response format.  keep_logprobs: fill the fields of
    `Completion` that estimators of confidence read, from the `top_logprobs` likeliest tokens of each step.
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
        keep_logprobs: bool = False,
        top_logprobs: int = 20,
    ):
        if temperature < 0 or max_new_tokens < 1 or batch_size < 1:
            raise ValueError(
                f"engine {name!r}: temperature={temperature} must be >= 0, "
                f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be >= 1"
            )
        from transformers import GenerationConfig

        self.name = name
        self.model, self.tokenizer = model.eval(), tokenizer
        # Hub models bring a repetition penalty or a cut-off distribution of their own, which `generate` would mix in.
        self.model.generation_config = GenerationConfig()
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.batch_size, self.instruction = batch_size, instruction
        self.top_logprobs = top_logprobs if keep_logprobs else 0

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
            asked = [texts[q] for q, _ in batch]
            completions = list(self._generate(asked, keys))
            found.update(zip(batch, self._explored(asked, completions), strict=True))
            if progress:
                progress(len(batch))
        return [[found[q, s] for s in range(samples)] for q in range(len(questions))]

    def _generate(self, texts: list[str], keys: list[str]) -> Iterator[Completion]:
        import torch
        from transformers import LogitsProcessorList

        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        width = inputs.input_ids.shape[1]
        choose = _Sampler(keys, self.max_new_tokens, width, self.temperature, self.top_logprobs)
        with torch.no_grad():
            output = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,  # `choose` leaves one token, drawn from the model's distribution
                logits_processor=LogitsProcessorList([choose]),
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        prompt_tokens = inputs.attention_mask.sum(dim=1).tolist()
        kept = choose.kept()
        for row, (tokens, asked) in enumerate(
            zip(output[:, width:].tolist(), prompt_tokens, strict=True)
        ):
            yield self._completion(tokens, asked, kept, row)

    def _completion(self, tokens: list[int], prompt_tokens: int, kept, row: int) -> Completion:
        end = self.tokenizer.eos_token_id
        finish = "stop" if end in tokens else "length"
        used = tokens.index(end) + 1 if finish == "stop" else len(tokens)
        text = self.tokenizer.decode(tokens[:used], skip_special_tokens=True)
        plain = Completion(text, prompt_tokens, used, finish)
        if kept is None:
            return plain
        chosen, likely, names = (column[row, :used] for column in kept)

        def likeliest(step: int) -> list[tuple[str, float]]:
            return [
                (self.tokenizer.decode([i]), float(p))
                for i, p in zip(names[step], likely[step], strict=True)
            ]

        return with_estimates(
            plain,
            [self.tokenizer.decode([token]) for token in tokens[:used]],
            chosen.tolist(),
            likeliest,
        )

    def _explored(self, texts: list[str], completions: list[Completion]) -> list[Completion]:
        """Completions with the branch "0." read too, where "1" was written: one more forward pass for those."""
        before = _stated_one(completions)
        if not before:
            return completions
        (branch,) = self._ids([_BRANCH])
        ids = self._ids([texts[n] + text for n, text in before.items()])
        logits = self._forward([i + branch for i in ids], self.model).logits
        found = list(completions)
        for n, own, scores in zip(before, ids, logits, strict=True):
            steps = scores[len(own) - 1 : len(own) + len(branch)].log_softmax(dim=-1)
            reached = sum(float(steps[k, token]) for k, token in enumerate(branch))
            likely = steps[len(branch)].topk(min(self.top_logprobs, steps.shape[-1]))
            pairs = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
            found[n] = _with_branch(
                found[n], reached, [(self.tokenizer.decode([token]), p) for token, p in pairs]
            )
        return found

    def hidden_states(self, questions: Sequence[Question], texts: Sequence[str]):
        """What the model holds just before it states a confidence, an array (rows, layers + 1, hidden size) of float32.

        questions, texts: one a row, a question and what this model completed it with.  Read at the last token of the last
        `<confidence>` tag, or at the last token of a completion without one.  The first layer is the embeddings.
        """
        import numpy as np

        asked = prompts.render(questions, self.tokenizer, instruction=self.instruction)
        whole = [
            t.rfind("<confidence>") + len("<confidence>") if "<confidence>" in t else len(t)
            for t in texts
        ]
        ids = self._ids([q + t[:end] for q, t, end in zip(asked, texts, whole, strict=True)])
        order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            found |= zip(rows, self._last_states([ids[n] for n in rows]), strict=True)
        return np.stack([found[n] for n in range(len(ids))])

    def _last_states(self, ids: list[list[int]]) -> list:
        """Arrays (layers + 1, hidden size) of the states at the last token of each row; those of the others are given back."""
        import numpy as np

        layers = self._forward(
            ids, self.model.get_decoder(), output_hidden_states=True
        ).hidden_states
        return [
            np.stack([layer[k, len(own) - 1].float().cpu().numpy() for layer in layers])
            for k, own in enumerate(ids)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False).input_ids

    def _forward(self, ids: list[list[int]], model, **options):
        """A model's output for rows of tokens of several lengths."""
        import torch

        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        # Padding on the right: no token sees what comes after it, and positions need no correction.
        inputs = torch.tensor(
            [row + [pad] * (width - len(row)) for row in ids], device=model.device
        )
        with torch.no_grad():
            return model(inputs, use_cache=False, **options)


class VLLMEngine:
    """A causal language model run in this process by vLLM, which batches by itself.

    model: a folder or a hub id.  dtype, tensor_parallel_size (GPUs that share the weights), memory (share of a GPU to fill)
    and max_model_len (tokens of prompt and completion together, None for the model's own): as vLLM has them.  chunk: requests
    handed over at once.  The others: as of `TransformersEngine`; a completion's seed is made from seed, question and sample,
    so that it does not depend on its batch, up to float rounding.  Raises ModelFilesError without vLLM.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str,
        max_new_tokens: int,
        temperature: float = 1.0,
        instruction: str | None = None,
        keep_logprobs: bool = False,
        top_logprobs: int = 20,
        dtype: str = "bfloat16",
        tensor_parallel_size: int = 1,
        memory: float = 0.9,
        max_model_len: int | None = None,
        chunk: int = 2048,
    ):
        if temperature < 0 or min(max_new_tokens, chunk) < 1:
            raise ValueError(
                f"engine {name!r}: temperature={temperature} must be >= 0, max_new_tokens={max_new_tokens} and chunk={chunk} >= 1"
            )
        try:
            import vllm
        except ImportError as error:
            raise ModelFilesError(
                f"engine {name!r} needs vLLM, which cannot be imported ({error}); use `pip install .[gpu]`"
            ) from error
        self.name, self.max_new_tokens, self.temperature, self.chunk = (
            name,
            max_new_tokens,
            temperature,
            chunk,
        )
        self.instruction, self.top_logprobs = instruction, top_logprobs if keep_logprobs else 0
        _check_manifest(Path(model))
        self.tokenizer, self.vllm = prompts.load_tokenizer(model), vllm
        self.llm = vllm.LLM(
            model=str(model), revision=revision_of(model), dtype=dtype, tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=memory, max_model_len=max_model_len, max_logprobs=max(1, top_logprobs), trust_remote_code=False,
            disable_log_stats=True,
        )  # fmt: skip

    def complete(
        self,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions for each question; `progress` is told how many are done after each chunk."""
        texts = prompts.render(questions, self.tokenizer, instruction=self.instruction)
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        rows = [(q, s) for q in range(len(questions)) for s in range(samples)]
        found: list[Completion] = []
        for start in range(0, len(rows), self.chunk):
            batch = rows[start : start + self.chunk]
            outputs = self.llm.generate(
                [{"prompt_token_ids": ids[q]} for q, _ in batch],
                [self._sampling(f"{seed}/{questions[q].id}/{s}") for q, s in batch],
                use_tqdm=False,
            )
            found += self._explored(
                [ids[q] for q, _ in batch], list(map(self._completion, outputs))
            )
            if progress:
                progress(len(batch))
        return [found[q * samples : (q + 1) * samples] for q in range(len(questions))]

    def _sampling(self, key: str):
        """The model's own distribution: a temperature and nothing else, whatever its generation settings say."""
        return self.vllm.SamplingParams(
            temperature=self.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            max_tokens=self.max_new_tokens,
            seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"),
            logprobs=self.top_logprobs or None,
            stop_token_ids=[self.tokenizer.eos_token_id],
        )

    def _completion(self, output) -> Completion:
        said = output.outputs[0]
        tokens, finish = (
            list(said.token_ids),
            "length" if said.finish_reason == "length" else "stop",
        )
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        plain = Completion(text, len(output.prompt_token_ids), len(tokens), finish)
        if not said.logprobs:
            return plain
        steps = (
            said.logprobs
        )  # one a token: token id -> its log-probability, the likeliest and the chosen one
        return with_estimates(
            plain,
            [self.tokenizer.decode([token]) for token in tokens],
            [step[token].logprob for step, token in zip(steps, tokens, strict=True)],
            lambda n: self._decoded(steps[n]),
        )

    def _explored(self, asked: list[list[int]], completions: list[Completion]) -> list[Completion]:
        """Completions with the branch "0." read too, where "1" was written: a request of one token for each step of it."""
        # One that ran into a limit may leave no room for the branch.
        before = {
            n: text
            for n, text in _stated_one(completions).items()
            if completions[n].finish == "stop"
        }
        if not before:
            return completions
        branch, *texts = self.tokenizer(
            [_BRANCH, *before.values()], add_special_tokens=False
        ).input_ids
        width = len(branch) + 1
        begun = [asked[n] + text for n, text in zip(before, texts, strict=True)]
        # Not by `prompt_logprobs`, which holds the scores of every prompt token at once and passes the prefix cache by.
        steps = self.llm.generate(
            [{"prompt_token_ids": own + branch[:k]} for own in begun for k in range(width)],
            self.vllm.SamplingParams(temperature=0.0, max_tokens=1, logprobs=self.top_logprobs),
            use_tqdm=False,
        )
        likely = [step.outputs[0].logprobs[0] for step in steps]
        found = list(completions)
        for row, n in enumerate(before):
            *along, last = likely[row * width : (row + 1) * width]
            if all(token in step for token, step in zip(branch, along, strict=True)):
                reached = sum(
                    step[token].logprob for token, step in zip(branch, along, strict=True)
                )
                found[n] = _with_branch(found[n], reached, self._decoded(last))
        return found

    def _decoded(self, likely) -> list[tuple[str, float]]:
        return [(self.tokenizer.decode([token]), one.logprob) for token, one in likely.items()]

    def close(self) -> None:
        """Give back the memory; the engine cannot be asked again."""
        import gc

        self.llm = None
        gc.collect()


def with_estimates(
    plain: Completion,
    pieces: Sequence[str],
    logprobs: Sequence[float],
    likeliest: Callable[[int], Sequence[tuple[str, float]]],
) -> Completion:
    """A completion with the fields that estimators of confidence read.

    pieces, logprobs: the text and the log-probability of each completion token; likeliest: the likeliest tokens, and their
    log-probabilities, of the step of that number, asked for where the confidence stands alone.
    """
    place = span_of(pieces, "<confidence>", "</confidence>")
    numerals = None
    if place is not None:
        numerals = numerals_of_path(
            [(pieces[n], float(logprobs[n]), likeliest(n)) for n in range(*place)]
        )
    return replace(
        plain,
        logprobs=tuple(logprobs),
        answer_span=span_of(pieces, "<answer>", "</answer>"),
        numerals=numerals,
    )


def _stated_one(completions: Sequence[Completion]) -> dict[int, str]:
    """By index, what stands before the numeral of each completion that states 1: the branch "0." was not written there."""
    found = {}
    for n, completion in enumerate(completions):
        if completion.numerals is not None and sum(completion.numerals.values()) < 0.999:
            begun = completion.text.rfind("<confidence>") + len("<confidence>")
            if completion.text[begun:].lstrip().startswith("1"):
                found[n] = completion.text[:begun]
    return found


def _with_branch(
    completion: Completion, reached: float, likely: Sequence[tuple[str, float]]
) -> Completion:
    """The completion with the numerals of the branch "0." too.

    reached: the branch's log-probability; likely: the likeliest tokens after it, with theirs.
    """
    numerals = dict(completion.numerals or {})
    for token, logprob in likely:
        if _is_probability(_BRANCH + token):
            _add(numerals, _BRANCH + token, math.exp(reached + logprob))
    return replace(completion, numerals=dict(sorted(numerals.items())))


def span_of(pieces: Sequence[str], opening: str, closing: str) -> tuple[int, int] | None:
    """First and end index of the tokens between the last `opening` and the next `closing` (or the end); None without any.

    A tag may be one token or several; a token that a tag shares with what it encloses counts as the tag's.
    """
    text, starts = "", []
    for piece in pieces:
        starts.append(len(text))
        text += piece
    at = text.rfind(opening)
    if at < 0:
        return None
    begin = at + len(opening)
    found = text.find(closing, begin)
    stop = len(text) if found < 0 else found
    first = next((n for n, start in enumerate(starts) if start >= begin), len(pieces))
    last = next((n for n, start in enumerate(starts) if start >= stop), len(pieces))
    return (first, last) if first < last else None


def numerals_of_path(
    path: Sequence[tuple[str, float, Sequence[tuple[str, float]]]],
) -> dict[str, float]:
    """Probability of each numeral in [0, 1] that could have been written at one place, from the tokens written there.

    path: a token written there, its log-probability, and the likeliest (token, log-probability) at its step, as engines and
    OpenAI-compatible servers (`top_logprobs`) give them.  What was not written is known by its first differing token
    alone: a digit in the place of the last one gives a whole numeral (but for a leading 0, which may go on), and a "1" in the
    place of a leading "0" can only be 1.
    Any other branch ("0" where "1" was written, alternatives cut off by `top_logprobs`) is left out, so the values may
    sum to less than 1; the missing sum is the truncated mass.
    """
    found: dict[str, float] = {}
    before, mass = "", 1.0
    for n, (token, logprob, likely) in enumerate(path):
        is_last = n == len(path) - 1
        for other, other_logprob in likely:
            ends = other.lstrip().startswith("<")  # the numeral ends where the next tag begins
            numeral = before.strip() if ends else (before + other).strip()
            whole = (
                (is_last and numeral != "0") or ends or numeral in ("1", "1.")
            )  # a lone "0" may go on: 0.7
            if other != token and whole and _is_probability(numeral):
                _add(found, numeral, mass * math.exp(other_logprob))
        before, mass = before + token, mass * math.exp(logprob)
    if _is_probability(before.strip()):
        _add(found, before.strip(), mass)
    return dict(sorted(found.items()))


def _add(found: dict[str, float], numeral: str, probability: float) -> None:
    key = "1" if float(numeral) == 1 else numeral
    found[key] = min(1.0, found.get(key, 0.0) + probability)


def _is_probability(text: str) -> bool:
    """Whether the text is a plain decimal in [0, 1]."""
    digits = text.replace(".", "", 1)
    return len(text) < 20 and digits.isascii() and digits.isdigit() and 0 <= float(text) <= 1


class _Sampler:
    """Logits processor that samples by inverting the cumulative distribution at one uniform number a row and step.

    Each row's numbers come from its own key, so a row draws the same tokens whatever batch it stands in.  Temperature 0
    takes the likeliest token.  With `top` > 0 it keeps the log-probabilities of what was chosen and of the `top` likeliest.
    """

    def __init__(
        self, keys: Sequence[str], steps: int, width: int, temperature: float, top: int = 0
    ):
        import numpy as np
        import torch

        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big") for key in keys]
        draws = [np.random.Generator(np.random.Philox(key=seed)).random(steps) for seed in seeds]
        self.uniform = torch.from_numpy(np.stack(draws))
        self.width, self.temperature, self.top = width, temperature, top
        self.steps: list[tuple] = []

    def __call__(self, input_ids, scores):
        import torch

        chosen = self._chosen(input_ids.shape[1] - self.width, scores)
        if self.top:
            logprobs = scores.log_softmax(dim=-1)
            likely = logprobs.topk(min(self.top, scores.shape[-1]), dim=-1)
            self.steps.append((logprobs.gather(1, chosen)[:, 0], likely.values, likely.indices))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def _chosen(self, step: int, scores):
        import torch

        if self.temperature == 0:
            return scores.argmax(dim=-1, keepdim=True)
        cumulative = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        target = self.uniform[:, step : step + 1].to(scores.device) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).clamp(max=scores.shape[-1] - 1)

    def kept(self):
        """Arrays (rows, steps) of the chosen tokens' log-probabilities, (rows, steps, top) of likely ones and their ids."""
        import torch

        if not self.steps:
            return None
        return [
            torch.stack(column, dim=1).cpu().numpy() for column in zip(*self.steps, strict=True)
        ]


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
            folder,
            revision=revision_of(folder) or "main",
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (
        Exception
    ) as error:  # safetensors raises its own type, transformers OSError or ValueError
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


ModelEngine = TransformersEngine | VLLMEngine


def model_engine(
    folder: str | Path, compute: Compute, *, batch_size: int, **options
) -> ModelEngine:
    """An engine in this process for the model in a folder or on the hub, on the machine that `compute` names.

    batch_size: of transformers; vLLM batches by itself.  options: as of both engines.
    """
    if compute.engine == "vllm":
        return VLLMEngine(
            folder, dtype=compute.dtype, tensor_parallel_size=compute.gpus_for(folder), **options
        )
    model = load_model(folder, dtype=compute.dtype)
    return TransformersEngine(
        model if compute.use_cpu else model.to("cuda"),
        prompts.load_tokenizer(folder),
        batch_size=batch_size,
        **options,
    )
