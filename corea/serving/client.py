"""Completions from any OpenAI-compatible server: vLLM, `transformers serve`, a vendor.

What is paid for is kept: a completion is on disk before its thread asks for the next one. The
`openai` client tries again if a server is full or a connection breaks. `_tried` adds what the
client leaves out: limits that last longer, and answers that are none.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import KW_ONLY, asdict, dataclass, field
from email.utils import mktime_tz, parsedate_tz
from functools import cached_property
from pathlib import Path
from threading import Event, Lock

from corea import prompts
from corea.costs import Price
from corea.engines import base
from corea.engines.base import Completion, Progress, Questions
from corea.questions.base import as_questions
from corea.support.files import settings_hash

_TEMPLATE_BYTES = 64  # of a chat template, on top of each message
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 900.0  # seconds, for a limit that does not say how long
_wait = Event.wait  # some seconds; true if it was stopped before they were over


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
                problem = f"stopped before the budget of {self.limit:g} could be passed"
                sums = f"{self.spent:g} spent, {self.reserved:g} under way, {worst:g} for the next"
                raise BudgetError(f"{problem} ({sums}); raise it to go on")
            self.reserved += worst

    def settle(self, worst: float, cost: float) -> None:
        """Give back what was set aside, and book what the request cost."""
        with self._lock:
            self.reserved -= worst
            self.spent += cost


@dataclass(eq=False)
class Server:
    """An engine behind an OpenAI-compatible `/v1/chat/completions`."""

    base_url: str  # ends in /v1
    model: str  # the name the server knows
    _: KW_ONLY
    name: str = ""  # of the engine; by default the model's
    max_new_tokens: int = 1024
    temperature: float = 1.0
    instruction: str | None = prompts.INSTRUCTION
    api_key: str | None = field(default=None, repr=False)  # by default OPENAI_API_KEY
    journal: str | Path | None = None  # JSONL of what is finished: not asked again, counts as spent
    price: Price = Price(0.0, 0.0)  # noqa: RUF009
    budget: Budget = field(default_factory=Budget)
    top_logprobs: int = 0  # likely tokens to ask for at each step
    concurrency: int = 16  # requests under way at once
    max_retries: int = 5  # of the `openai` client, for each request
    patience: float = 7200.0  # seconds a request may wait for a server that says it has a limit
    timeout: float = 120.0  # seconds
    show_progress: bool = False  # by a bar, unless `complete` is given a function to tell

    def __post_init__(self):
        if not str(self.base_url).startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url!r} must begin with http:// or https://")
        self.name = self.name or self.model
        self.api_key = self.api_key or os.environ.get("OPENAI_API_KEY") or "none"
        base.check_settings(self, max_new_tokens=1, concurrency=1, timeout=0.001)
        base.check_settings(self, temperature=0, max_retries=0, patience=0)
        self.lock, self.booked, self.told = Lock(), set[str](), set[str]()
        self.stop = Event()  # once it is set, nothing is tried again

    def complete(
        self, questions: Questions, *, samples: int = 1, seed: int = 0, progress: Progress = None
    ) -> list[list[Completion]]:
        """Complete each question `samples` times, those of the journal without asking.

        Raises:
            ServerError, BudgetError: if a request fails for good; what was finished is kept.
        """
        from tqdm import tqdm

        how = [self.max_new_tokens, self.temperature, self.top_logprobs]
        keys, chats = [], {}
        for question in as_questions(questions):
            messages = prompts.messages(question, instruction=self.instruction)
            request = [self.model, messages, *how, question.id]
            # A key names a completion in the journal, and makes its seed.
            keys.append([settings_hash([*request, n, seed]) for n in range(samples)])
            chats.update(dict.fromkeys(keys[-1], messages))
        kept = _journalled(self.journal)
        completions = {key: kept[key] for key in chats if key in kept}
        for key in completions.keys() - self.booked:
            self.budget.settle(0.0, self.cost(completions[key]))
        self.booked |= chats.keys()
        missing = {key: messages for key, messages in chats.items() if key not in completions}
        with tqdm(total=len(chats), desc=self.name, disable=not self.show_progress) as bar:
            tell = progress or bar.update
            tell(len(completions))
            for key, completion in _ask_all(self, missing):
                completions[key] = completion
                tell(1)
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
        _write(self, key, completion)
        return completion

    def cost(self, completion: Completion) -> float:
        """What a completion cost, in the unit of the prices."""
        return self.price.cost(completion.prompt_tokens, completion.completion_tokens)

    @cached_property
    def client(self):
        """The `openai` client, shared by the threads."""
        import openai

        hooks = {"request": [self._raise_if_stopped]}
        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self.api_key,
            max_retries=self.max_retries,
            timeout=self.timeout,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    def _raise_if_stopped(self, request) -> None:
        """Keep the client from its further tries when all was stopped."""
        if self.stop.is_set() and request.headers.get("x-stainless-retry-count", "0") != "0":
            raise ServerError(f"{self.base_url}: stopped before another try")


def _ask_all(server: Server, chats: dict[str, list[dict]]) -> Iterator[tuple[str, Completion]]:
    """Complete chats by threads; after a failure only what is under way is finished and kept."""
    server.stop = Event()
    pool = ThreadPoolExecutor(server.concurrency)
    futures = {pool.submit(server.ask, messages, key): key for key, messages in chats.items()}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException as error:
        server.stop.set()
        was_failure = isinstance(error, Exception)  # an interrupt does not wait for the threads
        pool.shutdown(wait=was_failure, cancel_futures=True)
        raise
    pool.shutdown()


def _tried(server: Server, messages: list[dict], key: str) -> Completion:
    """One completion, asked for until it comes or no other try would help."""
    import openai

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
    waits: list[float] = []
    while True:
        try:
            return _completion(server, server.client.chat.completions.create(**request), messages)
        except (openai.OpenAIError, ValueError) as error:
            waits.append(_seconds_until_next_try(server, error, attempt=len(waits)))
            is_patient = sum(waits) <= server.patience
            if is_patient and waits[-1]:
                until = time.strftime("%H:%M", time.localtime(time.time() + waits[-1]))
                _tell(server, f"has a limit: waiting {_duration(waits[-1])}, until {until}")
            if not is_patient or _wait(server.stop, waits[-1]):
                limit = f"has a limit and asks to wait {_duration(waits[-1])}"
                patience = f"patience is {_duration(server.patience)} in all, so ask again later"
                raise ServerError(f"{server.base_url} {limit}; {patience}") from error


def _seconds_until_next_try(server: Server, error: Exception, attempt: int) -> float:
    """How long to wait after the client gave up; ServerError if another try would not help."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    status = getattr(error, "status_code", 0)  # 0 if there was no response
    # A quota that is used up is a 429 too, but no time brings it back.
    is_used_up = "insufficient_quota" in str(getattr(error, "body", None))
    if status in (401, 403):
        problem = f"refused the key (HTTP {status}); set OPENAI_API_KEY or api_key"
    elif status == 404:
        problem = f"knows no model {server.model!r}, or serves no chat completions (HTTP 404)"
    elif is_used_up or (0 < status < 500 and status not in (408, 409, 429)):
        problem = f"refused the request (HTTP {status}): {reason}"
    elif status and (seconds := _retry_after(error.response)):  # type: ignore[attr-defined]
        return seconds
    elif status == 429:
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
    elif isinstance(error, ValueError) and attempt < server.max_retries:
        return 0.0  # an answer that is none, or no JSON: the client does not ask again
    else:
        last = f"last: {f'HTTP {status}' if status else reason}; is the server up?"
        problem = f"gave no answer in {server.max_retries + 1} tries, {last}"
    raise ServerError(f"{server.base_url} {problem}") from error


def _retry_after(response) -> float:
    """Seconds that a response's `Retry-After` asks for, as a number or a date; 0 without one."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        date = parsedate_tz(value)
        seconds = mktime_tz(date) - time.time() if date else 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _tell(server: Server, text: str) -> None:
    """Tell something of a server on stderr, once; progress bars stay whole."""
    from tqdm import tqdm

    if text not in server.told:
        server.told.add(text)
        tqdm.write(f"{server.base_url} {text}", file=sys.stderr)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _completion(server: Server, answer, messages: list[dict]) -> Completion:
    """The server's answer as a completion; ValueError if it is none."""
    choices = getattr(answer, "choices", None)
    if not choices or choices[0].message is None:
        raise ValueError("an answer without choices or message")
    message, steps = choices[0].message, getattr(choices[0].logprobs, "content", None)
    finish = "length" if choices[0].finish_reason == "length" else "stop"
    text = message.content or ""
    reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if reasoning:  # a server that sets it apart: it is put back
        was_cut = finish == "length" and not text  # while it was reasoning
        text = f"<think>{reasoning}" if was_cut else f"<think>{reasoning}</think>{text}"
    if answer.usage is not None:
        counts = answer.usage.prompt_tokens, answer.usage.completion_tokens
    else:  # no cost is understated
        counts = _most_tokens(messages), len(steps or text.encode())
        _tell(server, "reports no usage: a token is counted for every byte, more than there were")
    completion = Completion(text, *counts, finish)
    if not steps:
        return completion
    return base.with_estimates(
        completion,
        [step.token for step in steps],
        [step.logprob for step in steps],
        lambda n: [(other.token, other.logprob) for other in steps[n].top_logprobs or ()],
    )


def _most_tokens(messages: list[dict]) -> int:
    """More tokens than a prompt can have: one per byte, and some for the chat template."""
    return sum(len(message["content"].encode()) + _TEMPLATE_BYTES for message in messages)


def _journalled(path: str | Path | None) -> dict[str, Completion]:
    """Finished completions by key; a last line that a kill cut off is dropped from the file."""
    if path is None or not Path(path).exists():
        return {}
    text = Path(path).read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    completions = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            pairs = json.loads(line).items()
            row: dict = {name: tuple(v) if isinstance(v, list) else v for name, v in pairs}
            key = row.pop("key")
            completions[key] = Completion(**row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = "not a completion of this engine; remove the line or the file"
            raise ServerError(f"{path}, line {number}: {reason}") from error
    return completions


def _write(server: Server, key: str, completion: Completion) -> None:
    """Append a completion to the journal, if there is one; it is on disk when this returns."""
    if server.journal is None:
        return
    path = Path(server.journal)
    path.parent.mkdir(parents=True, exist_ok=True)
    with server.lock, open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"key": key, **asdict(completion)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
