"""Completions from any OpenAI-compatible server (vLLM, `transformers serve`, a vendor), through the `openai` client.

What is paid for is kept: every completion is on disk before the next one of its worker is asked for, so that a process that
is killed neither loses nor pays again.  What may pass by itself (a full server, a broken connection, an answer that is no
answer) is tried again with growing pauses; what will not (a wrong key or model name) stops with one line.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from corea import prompts
from corea.costs import Price
from corea.engines.base import Completion, with_estimates
from corea.questions.base import Question
from corea.support.files import settings_hash

_LONGEST_PAUSE = 60.0  # seconds
_BYTES_OVERHEAD = 64  # of a chat template, on top of the messages


class ServerError(RuntimeError):
    """A server that refused, or did not answer after all tries; the one line says what to check."""


class BudgetError(RuntimeError):
    """The next request might cost more than is left of the budget."""


@dataclass
class Budget:
    """A hard cap on money, in units of the engines' prices; several engines may share one.

    A request is allowed where its worst case (every byte of the prompt a token, all tokens it may write) still fits beside
    what was spent and what is under way, so the cap is never passed.
    """

    limit: float = math.inf
    spent: float = 0.0
    reserved: float = 0.0

    def reserve(self, worst: float) -> None:
        """Set aside a request's worst case; BudgetError where it does not fit."""
        if self.spent + self.reserved + worst > self.limit:
            raise BudgetError(
                f"stopped before the budget of {self.limit:g} could be passed: {self.spent:g} is spent, "
                f"{self.reserved:g} under way, and the next request may cost {worst:g}; raise the budget to go on"
            )
        self.reserved += worst

    def settle(self, worst: float, cost: float) -> None:
        """Give back what was set aside, and book what the request cost."""
        self.reserved -= worst
        self.spent += cost


class ServerEngine:
    """An engine behind an OpenAI-compatible `/v1/chat/completions`.

    base_url: ends in /v1.  model: the name the server knows.  api_key: by default from OPENAI_API_KEY; servers that ask for
    none take anything.  journal: a JSONL file of finished completions, read at the start: what lies there is not asked for
    again, and counts as spent.  price, budget: see `Budget`.  top_logprobs: how many likely tokens to ask for at each step
    (0: none).  concurrency: requests under way at once; tries: of one request, with pauses that double from `pause` seconds; timeout: seconds of one.
    A completion's seed is made from question, sample and seed; whether a server keeps to it is the server's affair.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        name: str,
        max_new_tokens: int,
        temperature: float = 1.0,
        instruction: str | None = prompts.INSTRUCTION,
        api_key: str | None = None,
        journal: str | Path | None = None,
        price: Price | None = None,
        budget: Budget | None = None,
        top_logprobs: int = 0,
        concurrency: int = 16,
        tries: int = 6,
        pause: float = 0.5,
        timeout: float = 120.0,
    ):
        if (
            min(max_new_tokens, concurrency, tries) < 1
            or timeout <= 0
            or temperature < 0
            or pause < 0
        ):
            raise ValueError(
                f"engine {name!r}: max_new_tokens={max_new_tokens}, concurrency={concurrency} and tries={tries} must be >= 1, "
                f"timeout={timeout} > 0, temperature={temperature} and pause={pause} >= 0"
            )
        self.name, self.base_url, self.model = name, base_url, model
        self.max_new_tokens, self.temperature, self.instruction = (
            max_new_tokens,
            temperature,
            instruction,
        )
        self.api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self.journal = Path(journal) if journal is not None else None
        self.price, self.budget = price or Price(0.0, 0.0), budget or Budget()
        self.top_logprobs, self.concurrency = top_logprobs, concurrency
        self.tries, self.pause, self.timeout = tries, pause, timeout
        self._said = False  # that tokens are counted

    def complete(
        self,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions for each question; `progress` is told of each one, those of the journal included.

        Raises ServerError and BudgetError when nothing is left under way; what was finished is in the journal.
        """
        keys = {
            (q, s): self._key(question, s, seed)
            for q, question in enumerate(questions)
            for s in range(samples)
        }
        found = self._journalled(set(keys.values()))
        self.budget.spent += sum(map(self._cost, found.values()))
        if progress and found:
            progress(sum(key in found for key in keys.values()))
        missing = {key: (questions[q], key) for (q, _), key in keys.items() if key not in found}
        if missing:
            asyncio.run(self._all(list(missing.values()), found, progress))
        return [[found[keys[q, s]] for s in range(samples)] for q in range(len(questions))]

    def _key(self, question: Question, sample: int, seed: int) -> str:
        asked = prompts.messages(question, instruction=self.instruction)
        return settings_hash(
            [
                self.model,
                asked,
                self.max_new_tokens,
                self.temperature,
                self.top_logprobs,
                question.id,
                sample,
                seed,
            ]
        )

    def _journalled(self, wanted: set[str]) -> dict[str, Completion]:
        """Finished completions of the journal; a last line that was cut off by a kill is dropped from the file."""
        if self.journal is None or not self.journal.exists():
            return {}
        text = self.journal.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self.journal, len(whole))
        found = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                key, completion = row.pop("key"), _completion_of(row)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ServerError(
                    f"{self.journal}, line {number}: not a completion of this engine; remove the line or the file"
                ) from error
            if key in wanted:
                found[key] = completion
        return found

    async def _all(self, missing: list[tuple[Question, str]], found: dict, progress) -> None:
        queue, journal, client = list(reversed(missing)), _Journal(self.journal), self.client()
        failed: list[Exception] = []

        async def worker() -> None:
            while queue and not failed:
                question, key = queue.pop()
                try:
                    completion = await self.ask(
                        client, prompts.messages(question, instruction=self.instruction), key
                    )
                    journal.write(key, completion)
                except (ServerError, BudgetError, OSError) as error:
                    failed.append(error)  # the others finish what they have under way, and keep it
                    return
                found[key] = completion
                if progress:
                    progress(1)

        try:
            await asyncio.gather(*(worker() for _ in range(min(self.concurrency, len(queue)))))
        finally:
            await client.close()
            journal.close()
        if failed:
            raise failed[0]

    def client(self):
        """A client of this server, for `ask`; to be closed."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=self.timeout
        )

    async def ask(self, client, messages: list[dict], key: str) -> Completion:
        """One completion of chat messages, within the budget; key: hexadecimal, its seed.

        Raises ServerError and BudgetError.
        """
        worst, cost = self.price.cost(_most_tokens(messages), self.max_new_tokens), 0.0
        self.budget.reserve(worst)
        try:
            completion = await self._tried(client, messages, key)
            cost = self._cost(completion)
        finally:
            self.budget.settle(worst, cost)
        return completion

    def _cost(self, completion: Completion) -> float:
        return self.price.cost(completion.prompt_tokens, completion.completion_tokens)

    async def _tried(self, client, messages: list[dict], key: str) -> Completion:
        """One completion, asked for until it comes, `tries` times at the most."""
        rng, reason = random.Random(key), None
        for attempt in range(self.tries):
            if attempt:
                await asyncio.sleep(
                    min(_LONGEST_PAUSE, self.pause * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.5)
                )
            try:
                answer = await client.chat.completions.create(**self._request(messages, key))
                return self._completion(answer, messages)
            except Exception as error:
                reason = _passing(error, self)
        raise ServerError(
            f"{self.base_url} gave no answer in {self.tries} tries, last: {reason}; is the server up?"
        )

    def _request(self, messages: list[dict], key: str) -> dict:
        request = {
            "model": self.model, "messages": messages, "max_tokens": self.max_new_tokens, "temperature": self.temperature,
            "top_p": 1.0, "seed": int(key, 16) % 2**31,
        }  # fmt: skip
        if self.top_logprobs:
            request |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return request

    def _counts(self, usage, messages: list[dict], text: str, steps) -> tuple[int, int]:
        """Prompt and completion tokens by the server's own account; without one, counted so that no cost is understated."""
        if usage is not None:
            return usage.prompt_tokens, usage.completion_tokens
        if not self._said:
            print(
                f"{self.base_url} reports no usage: a token is counted for every byte, which is more than there were",
                file=sys.stderr,
            )
            self._said = True
        return _most_tokens(messages), len(steps) if steps else len(text.encode())

    def _completion(self, answer, messages: list[dict]) -> Completion:
        """The server's answer as a completion.  Raises ValueError where it is not one, which is tried again."""
        choices = getattr(answer, "choices", None)
        if not choices or choices[0].message is None:
            raise ValueError("an answer without choices or message")
        choice = choices[0]
        finish = "length" if choice.finish_reason == "length" else "stop"
        text = _text_of(choice.message, finish)
        steps = getattr(choice.logprobs, "content", None)
        plain = Completion(text, *self._counts(answer.usage, messages, text, steps), finish)
        if not steps:
            return plain
        return with_estimates(
            plain,
            [step.token for step in steps],
            [step.logprob for step in steps],
            lambda n: [(other.token, other.logprob) for other in steps[n].top_logprobs or ()],
        )


def _most_tokens(messages: list[dict]) -> int:
    """More tokens than a prompt can have: one for every byte, and some for the chat template."""
    return sum(len(message["content"].encode()) + _BYTES_OVERHEAD for message in messages)


def _text_of(message, finish: str) -> str:
    """What the model wrote; servers that set reasoning apart (`transformers serve`, vLLM's reasoning parsers) are undone."""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = message.content or ""
    if not reasoning:
        return content
    was_cut = finish == "length" and not content  # while it was reasoning
    return f"<think>{reasoning}" if was_cut else f"<think>{reasoning}</think>{content}"


def _passing(error: Exception, engine: ServerEngine) -> str:
    """What went wrong, in a few words, where another try may help; else ServerError."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        raise ServerError(
            f"{engine.base_url} refused the key (HTTP {error.status_code}); set OPENAI_API_KEY or api_key"
        ) from error
    if isinstance(error, openai.NotFoundError):
        raise ServerError(
            f"{engine.base_url} knows no model {engine.model!r}, or serves no chat completions (HTTP 404)"
        ) from error
    if (
        isinstance(error, openai.APIStatusError)
        and error.status_code < 500
        and error.status_code not in (408, 409, 429)
    ):
        raise ServerError(
            f"{engine.base_url} refused the request (HTTP {error.status_code}): {_line(error)}"
        ) from error
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}"
    if isinstance(error, openai.APITimeoutError):
        return f"nothing within {engine.timeout:g} s"
    if isinstance(
        error, openai.OpenAIError | ValueError
    ):  # ValueError: malformed JSON, or an answer that is none
        return _line(error) or type(error).__name__
    raise error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Journal:
    """Finished completions, a line of JSON each, on disk before `write` returns."""

    def __init__(self, path: Path | None):
        self.file: IO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115

    def write(self, key: str, completion: Completion) -> None:
        if self.file is not None:
            self.file.write(json.dumps({"key": key, **asdict(completion)}) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def _completion_of(row: dict) -> Completion:
    for name in ("logprobs", "answer_span"):
        if row.get(name) is not None:
            row[name] = tuple(row[name])
    return Completion(**row)
