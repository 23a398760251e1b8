"""The cascade as a service: an OpenAI-compatible `/v1/chat/completions` in front of two servers.

The SLM is asked first, and the LLM if the SLM states no confidence of at least the threshold. A
response is the API's own: the answer, the reasoning apart from it, and a field `corea`.
"""

import hmac
import json
import secrets
import time
from typing import Any

from corea.cascade import keeps
from corea.costs import PriceList
from corea.engines.base import Completion
from corea.parser import parse
from corea.serving.client import BudgetError, Server, ServerError

_MODEL = "corea"
_LISTED = {"id": _MODEL, "object": "model", "created": 0, "owned_by": "corea"}
_ROLES = ("system", "user", "assistant")
_READ = {"model", "messages", "stream", "seed", "n"}
_COUNTED = ("prompt_tokens", "completion_tokens")
_LONGEST_BODY = 2**20  # bytes
_FAILURES = {BudgetError: (429, "insufficient_quota"), ServerError: (502, "server_error")}


class RequestError(ValueError):
    """A request that cannot be served; becomes the API's error object."""

    def __init__(self, message, param=None, status=400, kind="invalid_request_error"):
        super().__init__(message)
        self.param, self.status, self.kind = param, status, kind


def read_request(body: object) -> tuple[list[dict], str, list[str]]:
    """Check a JSON body and give its messages, the key for a seed, and parameters passed over."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if (model := body.get("model", _MODEL)) != _MODEL:
        raise RequestError(f"no model {str(model)[:80]!r} here; use {_MODEL!r}", "model", 404)
    if body.get("stream"):
        raise RequestError("streaming is not offered: who answers is known at the end", "stream")
    if body.get("n", 1) not in (1, None):
        raise RequestError("n must be 1", "n")
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestError("seed must be a whole number", "seed")
    key = secrets.token_hex(6) if seed is None else f"{seed % 2**31:x}"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of at least one message", "messages")
    messages = [_message(message, n) for n, message in enumerate(messages)]
    if messages[-1]["role"] != "user":
        raise RequestError("the last message must be the user's", "messages")
    return messages, key, sorted(set(body) - _READ)


def _message(message: object, n: int) -> dict:
    """A message whose content is one text, whether it came as one or in parts."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RequestError(f"messages[{n}] needs a role, one of {', '.join(_ROLES)}", "messages")
    content = message.get("content")
    parts: list = content if isinstance(content, list) else [{"text": content}]
    try:
        text = "".join(part["text"] for part in parts)
    except (KeyError, TypeError):  # an image, or no part at all
        text = ""
    if not text.strip():
        raise RequestError(f"messages[{n}].content must be text", "messages")
    return {"role": message["role"], "content": text}


def response(
    attempt: Completion, rescue: Completion | None, threshold: float, prices, ignored: list[str]
) -> dict:
    """The API's response, with the field `corea`; without prices no cost."""
    used = attempt if rescue is None else rescue
    parsed, completions = parse(used.text), [attempt, rescue] if rescue else [attempt]
    usages = [{name: getattr(c, name) for name in _COUNTED} for c in completions]
    totals = {name: sum(usage[name] for usage in usages) for name in _COUNTED}
    message = {
        "role": "assistant",
        "content": used.text if parsed.answer is None else parsed.answer,
        "reasoning_content": parsed.reasoning,
    }
    choice = {"index": 0, "message": message, "finish_reason": used.finish, "logprobs": None}
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": _MODEL,
        "choices": [choice],
        "usage": totals | {"total_tokens": sum(totals.values())},
        "corea": {
            "source": "slm" if rescue is None else "llm",
            "confidence": parse(attempt.text).confidence,  # None if it stated none
            "threshold": threshold,
            "answer_found": parsed.answer is not None,  # if not, the content is the whole text
            "cost": None if prices is None else prices.cascade_cost(attempt, rescue),
            "slm_usage": usages[0],
            "llm_usage": None if rescue is None else usages[1],
            "ignored": ignored,  # parameters that are not passed on
        },
    }


def build_app(
    slm: Server, llm: Server, threshold: float, *, prices: PriceList | None = None, api_key=None
):
    """Make the service as a Starlette (ASGI) application, for uvicorn.

    Args:
        slm, llm: the `concurrency` of each bounds what is under way there.
        threshold: in [0, 1]; ValueError if it is not.
        api_key: what clients must send as bearer token; None lets everyone in.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} is not in [0, 1]")
    ask_slm, ask_llm = _asker(slm), _asker(llm)

    async def models(http_request):
        _check_key(http_request, api_key)
        return JSONResponse({"object": "list", "data": [_LISTED]})

    async def complete(http_request):
        _check_key(http_request, api_key)
        messages, key, ignored = read_request(await _json(http_request))
        attempt, rescue = await ask_slm(messages, key), None
        if not keeps(parse(attempt.text).confidence, threshold):
            rescue = await ask_llm(messages, key)
        return JSONResponse(response(attempt, rescue, threshold, prices, ignored))

    completions = Route("/v1/chat/completions", complete, methods=["POST"])
    handlers = dict.fromkeys((RequestError, HTTPException, *_FAILURES), _failed)
    return Starlette(routes=[Route("/v1/models", models), completions], exception_handlers=handlers)


def _asker(server: Server):
    """A function that asks a server in a thread, so many at once as its `concurrency`."""
    from anyio import CapacityLimiter, to_thread

    limiter = CapacityLimiter(server.concurrency)
    system = [{"role": "system", "content": server.instruction}] if server.instruction else []

    async def ask(messages: list[dict], key: str) -> Completion:
        return await to_thread.run_sync(server.ask, system + messages, key, limiter=limiter)

    return ask


def _check_key(request, api_key: str | None) -> None:
    sent = request.headers.get("authorization", "").encode()
    if api_key is not None and not hmac.compare_digest(sent, f"Bearer {api_key}".encode()):
        reason = "wrong or missing API key: send it as a bearer token"
        raise RequestError(reason, None, 401, "authentication_error")


async def _json(request) -> object:
    """The body as JSON; RequestError if it is too long, no JSON, or no UTF-8."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise RequestError(f"the body is longer than {_LONGEST_BODY} bytes", status=413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error


async def _failed(request, error: Any):
    """The API's error object: the request is wrong, a server failed, or there is no such route."""
    from starlette.responses import JSONResponse

    if type(error) in _FAILURES:
        error = RequestError(str(error), None, *_FAILURES[type(error)])
    elif not isinstance(error, RequestError):  # Starlette's own
        offered = "there are GET /v1/models and POST /v1/chat/completions"
        problem = f"{request.method} {request.url.path}: {error.detail}; {offered}"
        error = RequestError(problem, status=error.status_code)
    what = {"message": str(error), "type": error.kind, "param": error.param, "code": None}
    return JSONResponse({"error": what}, status_code=error.status)
