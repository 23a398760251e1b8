"""The cascade as a service: an OpenAI-compatible `/v1/chat/completions` in front of two servers.

The SLM is asked first; its answer is kept where it states a confidence of at least the threshold, and the LLM is asked where
not.  A response is the API's own, its content the answer alone, with `reasoning_content` beside it and a field `corea`:

| field | |
|---|---|
| source | "slm" or "llm": who answered |
| confidence | the SLM's, null where it stated none |
| threshold | what it was held against |
| answer_found | false where the text held no answer; the content is then the whole text |
| cost | in units of the price list, null without one |
| slm_usage, llm_usage | tokens of each; null for the LLM where it was not asked |
| ignored | parameters of the request that this service does not pass on |

Streaming is refused: who answers is known only when the SLM has ended.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from corea.cascade import keeps
from corea.costs import PriceList
from corea.engines.base import Completion
from corea.parser import parse
from corea.serving.client import BudgetError, ServerEngine, ServerError

MODEL = "corea"
_ROLES = ("system", "user", "assistant")
_READ = {"model", "messages", "stream", "seed", "n"}
_LONGEST_BODY = 2**20  # bytes


class RequestError(ValueError):
    """A request that cannot be served; becomes the API's error object."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ):
        super().__init__(message)
        self.param, self.status, self.kind = param, status, kind

    def body(self) -> dict:
        """The API's error object."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": None}
        }


@dataclass(frozen=True, slots=True)
class Request:
    """What is read of a request, checked."""

    messages: list[dict]
    key: str
    ignored: list[str]


def read_request(body: object) -> Request:
    """A request's JSON body, checked.  Raises RequestError with the name of the parameter that is wrong."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if body.get("model", MODEL) != MODEL:
        raise RequestError(
            f"no model {str(body['model'])[:80]!r} here; use {MODEL!r}", "model", 404
        )
    if body.get("stream"):
        raise RequestError(
            "streaming is not offered: who answers is known only when the small model has ended",
            "stream",
        )
    if body.get("n", 1) not in (1, None):
        raise RequestError("n must be 1", "n")
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestError("seed must be a whole number", "seed")
    key = secrets.token_hex(6) if seed is None else f"{seed % 2**31:x}"
    return Request(_messages(body.get("messages")), key, sorted(set(body) - _READ))


def _messages(given: object) -> list[dict]:
    if not isinstance(given, list) or not given:
        raise RequestError("messages must be a list of at least one message", "messages")
    found = []
    for n, message in enumerate(given):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise RequestError(
                f"messages[{n}] needs a role, one of {', '.join(_ROLES)}", "messages"
            )
        found.append({"role": role, "content": _content(message.get("content"), n)})
    if found[-1]["role"] != "user":
        raise RequestError("the last message must be the user's", "messages")
    return found


def _content(content: Any, n: int) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    is_text = isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in parts
    )
    if not is_text or not any(part["text"].strip() for part in parts):
        raise RequestError(f"messages[{n}].content must be text", "messages")
    return "".join(part["text"] for part in parts)


def response(
    request: Request,
    attempt: Completion,
    rescue: Completion | None,
    threshold: float,
    prices: PriceList | None,
) -> dict:
    """The API's response, with the field `corea`."""
    stated, used = parse(attempt.text), attempt if rescue is None else rescue
    said = parse(used.text)
    both = [c for c in (attempt, rescue) if c is not None]
    asked, written = sum(c.prompt_tokens for c in both), sum(c.completion_tokens for c in both)
    message = {"role": "assistant", "content": used.text if said.answer is None else said.answer}
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "message": message | {"reasoning_content": said.reasoning}, "finish_reason": used.finish, "logprobs": None}],
        "usage": {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written},
        "corea": {
            "source": "slm" if rescue is None else "llm",
            "confidence": stated.confidence,
            "threshold": threshold,
            "answer_found": said.answer is not None,
            "cost": None if prices is None else prices.cascade_cost(attempt, rescue),
            "slm_usage": _usage(attempt),
            "llm_usage": None if rescue is None else _usage(rescue),
            "ignored": request.ignored,
        },
    }  # fmt: skip


def _usage(completion: Completion) -> dict:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }


def build_app(
    slm: ServerEngine,
    llm: ServerEngine,
    threshold: float,
    *,
    prices: PriceList | None = None,
    api_key: str | None = None,
):
    """The service as a Starlette (ASGI) application, for uvicorn.

    slm, llm: the servers; each engine's `concurrency` bounds what is under way there.  threshold: in [0, 1].  api_key: what
    clients must send as bearer token; None lets everyone in.  Raises ValueError for another threshold.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} is not in [0, 1]")
    service = _Service(slm, llm, threshold, prices, api_key)
    return Starlette(
        routes=[
            Route("/v1/models", service.models),
            Route("/v1/chat/completions", service.complete, methods=["POST"]),
        ],
        exception_handlers={RequestError: _refused, HTTPException: _no_such_route},
        lifespan=service.lifespan,
    )


class _Service:
    """The two endpoints, and what they share between requests."""

    def __init__(self, slm, llm, threshold, prices, api_key):
        self.slm, self.llm, self.threshold, self.prices, self.api_key = (
            slm,
            llm,
            threshold,
            prices,
            api_key,
        )
        self.open: dict[str, tuple] = {}  # client and places of each engine, while the service runs

    @asynccontextmanager
    async def lifespan(self, _):
        for side, engine in (("slm", self.slm), ("llm", self.llm)):
            self.open[side] = engine, engine.client(), asyncio.Semaphore(engine.concurrency)
        yield
        for _, client, _ in self.open.values():
            await client.close()

    async def models(self, request):
        self._check_key(request)
        return _reply(
            {
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "corea"}],
            }
        )

    async def complete(self, request):
        self._check_key(request)
        asked = read_request(await _json(request))
        try:
            attempt, rescue = await self._ask("slm", asked), None
            if not keeps(parse(attempt.text).confidence, self.threshold):
                rescue = await self._ask("llm", asked)
        except BudgetError as error:
            raise RequestError(str(error), status=429, kind="insufficient_quota") from error
        except ServerError as error:
            raise RequestError(str(error), status=502, kind="server_error") from error
        return _reply(response(asked, attempt, rescue, self.threshold, self.prices))

    async def _ask(self, side: str, request: Request) -> Completion:
        engine, client, places = self.open[side]
        system = [{"role": "system", "content": engine.instruction}] if engine.instruction else []
        async with places:
            return await engine.ask(client, system + request.messages, request.key)

    def _check_key(self, request) -> None:
        sent = request.headers.get("authorization", "").encode()
        if self.api_key is not None and not hmac.compare_digest(
            sent, f"Bearer {self.api_key}".encode()
        ):
            raise RequestError(
                "wrong or missing API key: send it as a bearer token",
                status=401,
                kind="authentication_error",
            )


def _reply(body: dict, status: int = 200):
    from starlette.responses import JSONResponse

    return JSONResponse(body, status_code=status)


async def _refused(_, error: RequestError):
    return _reply(error.body(), error.status)


async def _no_such_route(request, error):
    what = f"{request.method} {request.url.path}: {error.detail}; there are GET /v1/models and POST /v1/chat/completions"
    return _reply(RequestError(what).body(), error.status_code)


async def _json(request) -> object:
    """The body as JSON, refused where it is too long, no JSON, or no UTF-8."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise RequestError(f"the body is longer than {_LONGEST_BODY} bytes", status=413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
