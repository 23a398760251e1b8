"""A small HTTP server on the loopback address that speaks `/v1/chat/completions` and fails on purpose, for tests."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESPONSE = "<think>{0}</think><answer>{0}</answer><confidence>0.7</confidence>"


class FaultyServer:
    """Answers every question with a response that names it; `faults` says what goes wrong first.

    faults: called as faults(question, nth try of it), gives None (answer well), an HTTP status, a pair of it and its
    `Retry-After`, "apart" (well, reasoning set apart),
    "unfinished" (reasoning set apart and cut off by the limit), "uncounted" (well, without usage), "malformed", "cut", "stalled",
    "empty" or "used up".  asked counts the tries of each question, paid the answers that left whole.
    """

    def __init__(
        self, faults=lambda question, nth: None, key: str | None = None, model: str = "tiny"
    ):
        self.faults, self.key, self.model = faults, key, model
        self.asked, self.paid, self.under_way, self.most = Counter(), Counter(), 0, 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = request["messages"][-1]["content"]
        with self.lock:
            self.asked[question] += 1
            nth = self.asked[question]
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            self._answer(handler, request, question, nth)
        finally:
            with self.lock:
                self.under_way -= 1

    def _answer(self, handler, request, question, nth) -> None:
        if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
            return send(handler, 401, {"error": {"message": "wrong key"}})
        if request["model"] != self.model:
            return send(handler, 404, {"error": {"message": f"no model {request['model']}"}})
        fault = self.faults(question, nth)
        if fault == "stalled":
            time.sleep(3)
            return None
        if fault == "cut":
            handler.connection.close()
            return None
        if fault == "malformed":
            return send(handler, 200, b'{"choices": [{"mess')
        if fault == "empty":
            return send(handler, 200, {"choices": []})
        status, *wait = fault if isinstance(fault, tuple) else (fault,)
        if status == "used up":
            error = {"message": "no money left", "code": "insufficient_quota"}
            return send(handler, 429, {"error": error})
        if isinstance(status, int):
            return send(handler, status, {"error": {"message": f"fault {status}"}}, *wait)
        time.sleep(0.005)
        with self.lock:
            self.paid[question] += 1
        answer = body(request, question, fault)
        if fault == "uncounted":
            del answer["usage"]
        return send(handler, 200, answer)


def body(request: dict, question: str, fault: str | None = None) -> dict:
    text = RESPONSE.format(question)
    pieces = [*text[: text.index("0.7")], "0", ".", "7", "</confidence>"]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": None,
    }
    if fault == "apart":  # as `transformers serve` and vLLM's reasoning parsers do
        choice["message"] |= {"content": text.split("</think>")[1], "reasoning_content": question}
    if fault == "unfinished":
        choice |= {
            "message": {"role": "assistant", "content": "", "reasoning_content": question},
            "finish_reason": "length",
        }
    if request.get("logprobs"):
        likely = {"7": [("7", -0.5), ("8", -1.2)], "0": [("0", -0.2), ("1", -1.8)]}
        choice["logprobs"] = {"content": [
            {"token": p, "logprob": -0.5 if p == "7" else -0.2 if p == "0" else 0.0, "bytes": None,
             "top_logprobs": [{"token": t, "logprob": v, "bytes": None} for t, v in likely.get(p, [(p, 0.0)])]}
            for p in pieces
        ]}  # fmt: skip
    usage = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [choice],
        "usage": usage,
    }


def send(
    handler: BaseHTTPRequestHandler, status: int, content: dict | bytes, wait: object = None
) -> None:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    if wait is not None:
        handler.send_header("Retry-After", str(wait))
    handler.send_header("Content-Length", str(len(payload)))
    handler.end_headers()
    handler.wfile.write(payload)
