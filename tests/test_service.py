"""The cascade as a service and on the command line, with the real `openai` client over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import uvicorn

from corea import cli
from corea.costs import Price, PriceList
from corea.serving import app
from corea.serving.client import Budget, Server
from tests.faulty import FaultyServer

PRICES = PriceList(Price(1.0, 1.0), Price(5.0, 5.0), "test")


def engine(server: FaultyServer, name: str, **options) -> Server:
    return Server(server.url, "tiny", name=name, max_new_tokens=40, timeout=2.0, **options)


class Running:
    """The service in a thread, on a free port of the loopback address."""

    def __init__(self, app):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="error")
        )
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def servers():
    with FaultyServer() as slm, FaultyServer() as llm:
        yield slm, llm


@pytest.fixture
def running(servers):
    slm, llm = servers
    slm.faults = llm.faults = lambda *_: None
    slm.asked.clear(), llm.asked.clear()

    def start(threshold: float, **options) -> Running:
        return Running(app.build_app(engine(slm, "slm"), engine(llm, "llm"), threshold, **options))

    return start


def ask(client: openai.OpenAI, text: str = "1+1=?", **options):
    return client.chat.completions.create(
        model="corea", messages=[{"role": "user", "content": text}], **options
    )


@pytest.mark.parametrize(("threshold", "source"), [(0.5, "slm"), (0.7, "slm"), (0.71, "llm")])
def test_any_client_gets_the_cascades_answer(running, servers, threshold, source):
    with running(threshold, prices=PRICES) as up:
        found = ask(up.client())
    assert found.choices[0].message.content == "1+1=?" and found.choices[0].finish_reason == "stop"
    extra = found.model_extra["corea"]
    assert (extra["source"], extra["confidence"], extra["threshold"], extra["answer_found"]) == (
        source,
        0.7,
        threshold,
        True,
    )
    assert servers[1].asked.total() == (source == "llm")
    both = source == "llm"
    assert found.usage.total_tokens == 50 * (1 + both)
    assert extra["cost"] == pytest.approx((50 + 250 * both) / 1e6)
    assert (extra["llm_usage"] is not None) == both


def test_models_are_listed(running):
    with running(0.5) as up:
        assert [model.id for model in up.client().models.list()] == ["corea"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"stream": True}, "stream", "streaming is not offered"),
        ({"n": 2}, "n", "n must be 1"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": "hello"}, "messages", "at least one message"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages",
            r"messages\[0\] needs a role",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages",
            r"messages\[0\]\.content must be text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            "must be text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages",
            "the last message must be the user's",
        ),
        ({"seed": "seven"}, "seed", "seed must be a whole number"),
    ],
)
def test_wrong_input_gets_the_apis_error(running, servers, change, param, message):
    with running(0.5) as up:
        body = {"model": "corea", "messages": [{"role": "user", "content": "q"}]} | change
        found = httpx.post(f"{up.url}/chat/completions", json=body)
    error = found.json()["error"]
    assert (
        found.status_code == 400
        and error["param"] == param
        and error["type"] == "invalid_request_error"
    )
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error["message"])
    assert servers[0].asked.total() == 0, "nothing was paid"


def test_another_model_is_not_found(running):
    with running(0.5) as up, pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        up.client().chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": "q"}]
        )


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 50_000, b'"x"', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(running, body):
    with running(0.5) as up:
        found = httpx.post(f"{up.url}/chat/completions", content=body)
    assert found.status_code == 400 and "error" in found.json()


def test_a_body_without_end_is_refused(running):
    with running(0.5) as up:
        assert (
            httpx.post(f"{up.url}/chat/completions", content=b" " * (2**20 + 1)).status_code == 413
        )


def test_another_route_is_told_in_the_apis_shape(running):
    with running(0.5) as up:
        found = httpx.get(f"{up.url}/embeddings")
    assert (
        found.status_code == 404 and "POST /v1/chat/completions" in found.json()["error"]["message"]
    )


def test_the_key_is_asked_for(running):
    with running(0.5, api_key="secret") as up:
        for key in ("none", "secre", "é"):
            sent = {"Authorization": f"Bearer {key}".encode()}
            assert (
                httpx.post(f"{up.url}/chat/completions", json={}, headers=sent).status_code == 401
            )
        with pytest.raises(openai.AuthenticationError):
            ask(up.client("wrong"))
        assert ask(up.client("secret")).model == "corea"


def test_a_server_that_fails_is_a_502_and_one_that_recovers_is_none(running, servers):
    with running(0.5) as up:
        servers[0].faults = lambda question, nth: 503 if nth == 1 else None
        assert ask(up.client(), "first").choices
        servers[0].faults = lambda *_: 400
        with pytest.raises(openai.InternalServerError, match="refused the request"):
            ask(up.client(), "second")


def test_a_spent_budget_is_a_429(servers):
    slm, llm = servers
    slm.faults = lambda *_: None
    service = app.build_app(
        engine(slm, "slm", price=Price(1.0, 1.0), budget=Budget(1e-9)), engine(llm, "llm"), 0.5
    )
    with (
        Running(service) as up,
        pytest.raises(openai.RateLimitError, match="stopped before the budget"),
    ):
        ask(up.client())


def test_parameters_that_are_not_passed_on_are_named(running):
    with running(0.5) as up:
        found = ask(up.client(), temperature=0.2, max_tokens=5)
    assert found.model_extra["corea"]["ignored"] == ["max_tokens", "temperature"]


def test_a_text_without_an_answer_comes_whole(servers):
    from corea.engines.base import Completion

    found = app.response(Completion("I do not know.", 3, 4, "length"), None, 0.5, None, [])
    assert (
        found["choices"][0]["message"]["content"] == "I do not know."
        and found["choices"][0]["finish_reason"] == "length"
    )
    assert (
        found["corea"]["answer_found"] is False
        and found["corea"]["confidence"] is None
        and found["corea"]["cost"] is None
    )


def test_many_clients_at_once_get_their_own_answers(running, servers):
    with running(0.71) as up, ThreadPoolExecutor(16) as pool:
        client = up.client()
        found = list(
            pool.map(lambda n: ask(client, f"{n}+0=?").choices[0].message.content, range(60))
        )
    assert found == [f"{n}+0=?" for n in range(60)] and servers[1].asked.total() == 60


@pytest.mark.parametrize("threshold", [-0.1, 1.1, True])
def test_a_threshold_out_of_range_is_refused(servers, threshold):
    with pytest.raises(ValueError, match="threshold"):
        app.build_app(engine(servers[0], "slm"), engine(servers[1], "llm"), threshold)


# --- the command line ---


def command(servers, tmp_path, *extra: str) -> list[str]:
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"{n}", "answer": f"{n if n % 2 else n + 1}", "answer_type": "text"}
        for n in range(6)
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    places = [
        word
        for side, server in zip(("slm", "llm"), servers, strict=True)
        for word in (f"--{side}", server.url, f"--{side}-model", "tiny")
    ]
    return ["answer", str(questions), *places, "--out", str(tmp_path / "answers.jsonl"), *extra]


def test_answer_writes_what_the_cascade_did(servers, tmp_path, capsys):
    for server in servers:
        server.faults = lambda *_: None
    priced = ["--slm-price", "1", "1", "--llm-price", "5", "5", "--budget", "10"]
    assert cli.main(command(servers, tmp_path, "--threshold", "0.71", *priced)) == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [str(n) for n in range(6)]
    assert [row["correct"] for row in rows] == [False, True] * 3 and {
        row["source"] for row in rows
    } == {"llm"}
    assert rows[0]["cost"] == pytest.approx(300e-6)
    assert "6 questions, right 0.500, 100.0% by the LLM, cost 0.0018" in capsys.readouterr().out


def test_answers_need_no_gold(servers, tmp_path, capsys):
    for server in servers:
        server.faults = lambda *_: None
    given = command(servers, tmp_path, "--threshold", "0.71")
    lines = [json.dumps({"question": f"{n}"}) for n in range(6)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    assert cli.main(given) == 0
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {row["correct"] for row in rows} == {None} and len({row["id"] for row in rows}) == 6
    assert "6 questions, 100.0% by the LLM" in capsys.readouterr().out


def test_answer_run_again_pays_nothing(servers, tmp_path):
    for server in servers:
        server.faults = lambda *_: None
        server.asked.clear()
    assert cli.main(command(servers, tmp_path, "--threshold", "0.71")) == 0
    first = (tmp_path / "answers.jsonl").read_bytes()
    assert cli.main(command(servers, tmp_path, "--threshold", "0.71")) == 0
    assert (tmp_path / "answers.jsonl").read_bytes() == first
    assert servers[0].asked.total() == servers[1].asked.total() == 6


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--threshold", "2"], "threshold=2.0; it must be in [0, 1]"),
        (["--threshold", ".5", "--budget", "1"], "--budget needs --slm-price and --llm-price"),
        (["--threshold", ".5", "--slm-price", "1", "1"], "give both --slm-price and --llm-price"),
        (
            [
                "--threshold",
                ".71",
                "--slm-price",
                "1",
                "1",
                "--llm-price",
                "9",
                "9",
                "--budget",
                "1e-6",
            ],
            "stopped before the budget of 1e-06",
        ),
    ],
)
def test_what_cannot_be_answered_is_one_line(servers, tmp_path, capsys, extra, message):
    assert cli.main(command(servers, tmp_path, *extra)) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("corea answer: ") and message in told
    assert not (tmp_path / "answers.jsonl").exists()


def test_an_interrupt_while_a_server_makes_wait_ends_in_one_line(servers, tmp_path):
    """The client's own waits end with the one that is under way: three seconds here."""
    for server in servers:
        server.faults = lambda *_: (429, 3)
        server.asked.clear()
    line = [sys.executable, "-m", "corea.cli", *command(servers, tmp_path, "--threshold", "0.5")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not servers[0].asked:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    for server in servers:
        server.faults = lambda *_: None
    assert process.returncode == 130 and max(servers[0].asked.values()) <= 2
    assert told.strip().splitlines()[-1].startswith("corea answer: interrupted; what was finished")


@pytest.mark.parametrize("name", ["answer", "serve"])
def test_help_shows_an_example(name):
    done = subprocess.run(
        [sys.executable, "-m", "corea.cli", name, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and f"corea {name}" in done.stdout and "example:" in done.stdout


def test_serve_runs_as_a_command(servers):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [
        word
        for side, server in zip(("slm", "llm"), servers, strict=True)
        for word in (f"--{side}", server.url, f"--{side}-model", "tiny")
    ]
    command = [
        sys.executable,
        "-m",
        "corea.cli",
        "serve",
        *places,
        "--threshold",
        "0.5",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COREA_API_KEY": "secret"}
    )
    try:
        assert f"http://127.0.0.1:{port}/v1, with an API key" in process.stdout.readline()
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=8
        )
        assert ask(client).model_extra["corea"]["source"] == "slm"
    finally:
        process.terminate()
        process.wait(10)
