"""Completions from any OpenAI-compatible server: vLLM, `transformers serve`, a vendor.

What is paid for is kept: a completion is on disk before its thread asks for the next one, so a
process that is killed neither loses nor pays again. The `openai` client tries again if a server is
full or a connection breaks. `_tried` adds what the client leaves out: limits that last longer, and
answers that are none. What does not pass by itself, as a wrong key, ends in one line.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import KW_ONLY, asdict, dataclass, field
from email.utils import mktime_tz, parsedate_tz
from functools import cached_property
from pathlib import Path
from threading import Event, Lock

from corea import prompts
from corea.costs import Price
from corea.engines.base import (
    Completion,
    Progress,
    Questions,
    as_questions,
    check_settings,
    with_estimates,
)
from corea.questions.base import Question
from corea.support.files import settings_hash

_TEMPLATE_BYTES = 64  # of a chat template, on top of each message
_FREE = Price(0.0, 0.0)
_SHOWN = 5.0  # seconds: shorter waits are not shown
_CLIENT_WAITS = 120.0  # seconds: the longest `Retry-After` that the client keeps to by itself
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 900.0  # seconds, for a limit that does not say how long


class ServerError(RuntimeError):
    """A server that refused, or did not answer after all tries; the one line says what to check."""


class BudgetError(RuntimeError):
    """The next request might cost more than is left of the budget."""


@dataclass
class Budget:
    """A hard cap on money, in the unit of the prices; several servers and threads may share one.

    A request is allowed if its worst case (every byte of the prompt a token, all tokens it may
    write) fits beside what was spent and what is under way. So the cap is never passed.
    """

    limit: float = math.inf
    spent: float = 0.0
    reserved: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def reserve(self, worst: float) -> None:
        """Set aside a request's worst case; BudgetError if it does not fit."""
        with self._lock:
            if self.spent + self.reserved + worst > self.limit:
                raise BudgetError(
                    f"stopped before the budget of {self.limit:g} could be passed: "
                    f"{self.spent:g} is spent, {self.reserved:g} under way, and the next request "
                    f"may cost {worst:g}; raise the budget to go on"
                )
            self.reserved += worst

    def settle(self, worst: float, cost: float) -> None:
        """Give back what was set aside, and book what the request cost."""
        with self._lock:
            self.reserved -= worst
            self.spent += cost


@dataclass(eq=False)
class Server:
    """An engine behind an OpenAI-compatible `/v1/chat/completions`.

    Args:
        base_url: ends in /v1.
        model: the name the server knows.
        name: of the engine; by default the model's.
        api_key: by default OPENAI_API_KEY; servers that ask for no key take anything.
        journal: a JSONL file of finished completions. What it holds is not asked for again, and
            counts as spent.
        price, budget: see `Budget`.
        top_logprobs: how many likely tokens to ask for at each step.
        concurrency: requests under way at once.
        max_retries, timeout: of the `openai` client, for each request; the latter in seconds.
        patience: seconds that a request may wait for a server that says it has a limit.

    Raises:
        ValueError: if a setting is out of range.
    """

    base_url: str
    model: str
    _: KW_ONLY
    name: str = ""
    max_new_tokens: int = 1024
    temperature: float = 1.0
    instruction: str | None = prompts.INSTRUCTION
    api_key: str | None = field(default=None, repr=False)
    journal: str | Path | None = None
    price: Price = _FREE
    budget: Budget = field(default_factory=Budget)
    top_logprobs: int = 0
    concurrency: int = 16
    max_retries: int = 5
    patience: float = 7200.0
    timeout: float = 120.0

    def __post_init__(self):
        self.name = self.name or self.model
        self.api_key = self.api_key or os.environ.get("OPENAI_API_KEY") or "none"
        check_settings(self, max_new_tokens=1, concurrency=1, timeout=0.001)
        check_settings(self, temperature=0, max_retries=0, patience=0)
        self.kept, self.booked, self.told = _Journal(self.journal), set[str](), set[str]()
        self.stop = Event()  # once it is set, nothing is tried again

    def complete(
        self, questions: Questions, *, samples: int = 1, seed: int = 0, progress: Progress = None
    ) -> list[list[Completion]]:
        """Complete each question `samples` times, those of the journal without asking.

        Raises:
            ServerError, BudgetError: if a request fails for good; what was finished is kept.
        """
        questions = as_questions(questions)
        keys = [[_key(self, q, sample, seed) for sample in range(samples)] for q in questions]
        wanted = {key: q for q, row in zip(questions, keys, strict=True) for key in row}
        completions = self.kept.read(wanted)
        for key in completions.keys() - self.booked:
            self.budget.settle(0.0, self.cost(completions[key]))
        self.booked |= wanted.keys()
        if progress and completions:
            progress(sum(key in completions for row in keys for key in row))
        missing = {key: q for key, q in wanted.items() if key not in completions}
        for key, completion in _ask_all(self, missing):
            completions[key] = completion
            if progress:
                progress(1)
        return [[completions[key] for key in row] for row in keys]

    def ask(self, messages: list[dict], key: str) -> Completion:
        """Complete chat messages once, within the budget; the hexadecimal key makes the seed."""
        worst, cost = self.price.cost(_most_tokens(messages), self.max_new_tokens), 0.0
        self.budget.reserve(worst)
        try:
            completion = _tried(self, messages, key)
            cost = self.cost(completion)
        finally:
            self.budget.settle(worst, cost)
        return completion

    def cost(self, completion: Completion) -> float:
        """What a completion cost, in the unit of the prices."""
        return self.price.cost(completion.prompt_tokens, completion.completion_tokens)

    @cached_property
    def client(self):
        """The `openai` client, shared by the threads."""
        import openai

        hooks = {
            "request": [lambda request: _raise_if_stopped(self, request)],
            "response": [lambda response: _show_wait(self, response)],
        }
        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self.api_key,
            max_retries=self.max_retries,
            timeout=self.timeout,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )


def _key(server: Server, question: Question, sample: int, seed: int) -> str:
    """Names a completion in the journal, and makes its seed."""
    messages = prompts.messages(question, instruction=server.instruction)
    how = [server.max_new_tokens, server.temperature, server.top_logprobs]
    return settings_hash([server.model, messages, *how, question.id, sample, seed])


def _ask_all(server: Server, missing: dict[str, Question]) -> Iterator[tuple[str, Completion]]:
    """Complete questions by threads; a completion is in the journal before it is given here.

    After a failure nothing new is asked; what is under way is finished and kept.
    """
    server.stop = Event()
    pool = ThreadPoolExecutor(server.concurrency)

    def finish(key: str, question: Question) -> Completion:
        messages = prompts.messages(question, instruction=server.instruction)
        completion = server.ask(messages, key)
        server.kept.write(key, completion)
        return completion

    futures = {pool.submit(finish, *item): item[0] for item in missing.items()}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException as error:
        server.stop.set()
        was_failure = isinstance(error, Exception)  # an interrupt does not wait for the threads
        pool.shutdown(wait=was_failure, cancel_futures=True)
        raise
    pool.shutdown()


def _raise_if_stopped(server: Server, request) -> None:
    """Keep the client from sending again what it was to try again when all was stopped."""
    if server.stop.is_set() and request.headers.get("x-stainless-retry-count", "0") != "0":
        raise ServerError(f"{server.base_url}: stopped before another try")


def _tried(server: Server, messages: list[dict], key: str) -> Completion:
    """One completion, asked for until it comes or no other try would help."""
    request = {
        "model": server.model,
        "messages": messages,
        "max_tokens": server.max_new_tokens,
        "temperature": server.temperature,
        "top_p": 1.0,
        "seed": int(key, 16) % 2**31,
    }
    if server.top_logprobs:
        request |= {"logprobs": True, "top_logprobs": server.top_logprobs}
    attempt, waited = 0, 0.0
    while True:
        try:
            answer = server.client.chat.completions.create(**request)
            return _completion(server, answer, messages)
        except Exception as error:
            seconds = _seconds_until_next_try(server, error, attempt)
            attempt, waited = attempt + 1, waited + seconds
            if waited > server.patience or _wait(server.stop, seconds):
                raise ServerError(
                    f"{server.base_url} has a limit and asks to wait {_duration(seconds)}; "
                    f"patience is {_duration(server.patience)} in all, so ask again later"
                ) from error


def _wait(stop: Event, seconds: float) -> bool:
    """Whether it was stopped before the time was over."""
    return stop.wait(seconds)


def _seconds_until_next_try(server: Server, error: Exception, attempt: int) -> float:
    """How long to wait after an error that the client did not get over.

    Raises:
        ServerError: if another try would not help.
    """
    import openai

    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, openai.APIStatusError):
        if refusal := _refusal(error, server.model, reason):
            raise ServerError(f"{server.base_url} {refusal}") from error
        reason = f"HTTP {error.status_code}"
        if seconds := _retry_after(error.response):
            return seconds
        if error.status_code == 429:
            seconds = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
            _tell_wait(server, seconds)
            return seconds
    elif isinstance(error, openai.APITimeoutError):
        reason = f"nothing within {server.timeout:g} s"
    elif isinstance(error, ValueError) and attempt < server.max_retries:
        return 0.0  # an answer that is none, or no JSON: the client does not ask again
    elif not isinstance(error, openai.OpenAIError | ValueError):
        raise error
    raise ServerError(
        f"{server.base_url} gave no answer in {server.max_retries + 1} tries, last: {reason}; "
        "is the server up?"
    ) from error


def _refusal(error, model: str, reason: str) -> str | None:
    """What a server refused for good; None if the same request may be answered later."""
    status = error.status_code
    if status in (401, 403):
        return f"refused the key (HTTP {status}); set OPENAI_API_KEY or api_key"
    if status == 404:
        return f"knows no model {model!r}, or serves no chat completions (HTTP 404)"
    # A quota that is used up is a 429 too, but no time brings it back.
    is_used_up = "insufficient_quota" in (error.code, error.type)
    if is_used_up or (status < 500 and status not in (408, 409, 429)):
        return f"refused the request (HTTP {status}): {reason}"
    return None


def _retry_after(response) -> float:
    """Seconds that a response's `Retry-After` asks for, as a number or a date; 0 without one."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        date = parsedate_tz(value)
        seconds = mktime_tz(date) - time.time() if date else 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _show_wait(server: Server, response) -> None:
    """Tell of a wait that a server asks for, whoever keeps to it: the client or `_tried`."""
    seconds = _retry_after(response)
    if response.status_code >= 400 and _SHOWN <= seconds <= max(_CLIENT_WAITS, server.patience):
        _tell_wait(server, seconds)


def _tell_wait(server: Server, seconds: float) -> None:
    at = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    _tell(server, f"has a limit: waiting {_duration(seconds)}, until {at}")


def _tell(server: Server, text: str) -> None:
    """Tell something of a server on stderr, once; progress bars stay whole."""
    from tqdm import tqdm

    if text not in server.told:
        server.told.add(text)
        tqdm.write(f"{server.base_url} {text}", file=sys.stderr)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _completion(server: Server, answer, messages: list[dict]) -> Completion:
    """The server's answer as a completion.  Raises ValueError if it is none."""
    choices = getattr(answer, "choices", None)
    if not choices or choices[0].message is None:
        raise ValueError("an answer without choices or message")
    choice = choices[0]
    finish = "length" if choice.finish_reason == "length" else "stop"
    text = _text_of(choice.message, finish)
    steps = getattr(choice.logprobs, "content", None)
    if answer.usage is not None:
        counts = answer.usage.prompt_tokens, answer.usage.completion_tokens
    else:  # counted so that no cost is understated
        counts = _most_tokens(messages), len(steps) if steps else len(text.encode())
        counted = "a token is counted for every byte, which is more than there were"
        _tell(server, f"reports no usage: {counted}")
    completion = Completion(text, *counts, finish)
    if not steps:
        return completion
    return with_estimates(
        completion,
        [step.token for step in steps],
        [step.logprob for step in steps],
        lambda n: [(other.token, other.logprob) for other in steps[n].top_logprobs or ()],
    )


def _most_tokens(messages: list[dict]) -> int:
    """More tokens than a prompt can have: one per byte, and some for the chat template."""
    return sum(len(message["content"].encode()) + _TEMPLATE_BYTES for message in messages)


def _text_of(message, finish: str) -> str:
    """What the model wrote; reasoning that a server sets apart is put back."""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = message.content or ""
    if not reasoning:
        return content
    was_cut = finish == "length" and not content  # while it was reasoning
    return f"<think>{reasoning}" if was_cut else f"<think>{reasoning}</think>{content}"


class _Journal:
    """Finished completions in a JSONL file; without a path nothing is kept."""

    def __init__(self, path: str | Path | None):
        self.path, self.lock = None if path is None else Path(path), Lock()

    def read(self, wanted: Collection[str]) -> dict[str, Completion]:
        """Completions by key; a last line that was cut off by a kill is dropped from the file."""
        if self.path is None or not self.path.exists():
            return {}
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        rows = dict(self._row(*line) for line in enumerate(whole.splitlines(), start=1))
        return {key: rows[key] for key in rows.keys() & wanted}

    def _row(self, number: int, line: bytes) -> tuple[str, Completion]:
        try:
            pairs = json.loads(line).items()
            row: dict = {name: tuple(v) if isinstance(v, list) else v for name, v in pairs}
            return row.pop("key"), Completion(**row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServerError(
                f"{self.path}, line {number}: not a completion of this engine; "
                "remove the line or the file"
            ) from error

    def write(self, key: str, completion: Completion) -> None:
        """Append a completion; it is on disk when this returns."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock, open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"key": key, **asdict(completion)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
