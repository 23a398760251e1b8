"""The cascade over real servers on the loopback address: vLLM's CPU build and `transformers serve`; run by `make test-serving`.

Not part of `make test`: it needs an environment of 3.4 GB of its own (`tests/serving-requirements.txt`).  What is measured is
printed: how many greedy completions agree with the engine in this process, and the throughput of the service beside that of
the servers behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from corea import evaluation, prompts
from corea.analysis import sources
from corea.cascade import Cascade
from corea.engines.base import Completion
from corea.paper import runs
from corea.paper.profiles import load_profile
from corea.parser import parse
from corea.questions.load import load_questions
from corea.serving.client import Server

ROOT = Path(__file__).resolve().parent.parent
SERVING = ROOT / os.environ.get("COREA_SERVING", ".venv-serving")
PROFILE = load_profile("cpu").reference()
SYSTEMS = {"slm": "L1-SLM", "llm": "LLM"}
FOLDERS = {side: runs.model_folder(PROFILE, name) for side, name in SYSTEMS.items()}
TOKENS = 96
QUESTIONS = load_questions("drill", "test", size=64) + load_questions("shopping", "test", size=32)
TIE = 1e-3  # two tokens whose log-probabilities lie this near are a tie, which rounding may decide either way
LOAD_SECONDS, LOAD_CONCURRENCY = 10.0, 16


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(command: list[str], path: str, log: Path, **environment: str) -> Iterator[str]:
    """A server, up: its URL ending in /v1.  `path` answers once it is up.  Killed with all its children at the end."""
    port = free_port()
    command = [part.replace("PORT", str(port)) for part in command]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}{path}", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(
            ProcessLookupError
        ):  # it may have ended by itself: then its log is what counts
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    pytest.fail(
        f"no server at {url}; the end of its log:\n{log.read_text(errors='replace')[-3000:]}"
    )


def python_of_servers() -> str:
    python = SERVING / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {SERVING}: real servers are not installed (`make test-serving` does)")
    return str(python)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """URLs of vLLM's servers of both models."""

    def command(side: str) -> list[str]:
        return [python_of_servers(), "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDERS[side], "--served-model-name", side,
                "--host", "127.0.0.1", "--port", "PORT", "--dtype", "float32", "--max-model-len", "256", "--generation-config", "vllm"]  # fmt: skip

    logs, room = tmp_path_factory.mktemp("vllm"), {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with (
        started(command("slm"), "/health", logs / "slm.log", **room) as slm,
        started(command("llm"), "/health", logs / "llm.log", **room) as llm,
    ):
        yield {"slm": slm, "llm": llm}


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory):
    """The URL of `transformers serve` with the SLM."""
    program = Path(python_of_servers()).with_name("transformers")
    command = [
        str(program),
        "serve",
        FOLDERS["slm"],
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with started(command, "/health", tmp_path_factory.mktemp("transformers") / "slm.log") as url:
        yield url


def server(url: str, model: str, **options) -> Server:
    return Server(
        url,
        model,
        name=model,
        max_new_tokens=TOKENS,
        instruction=None,
        **({"temperature": 0.0, "top_logprobs": 20} | options),
    )


@pytest.fixture(scope="module")
def here() -> dict:
    """Both models in this process."""
    found = {side: runs.engine_for(PROFILE, name) for side, name in SYSTEMS.items()}
    for engine in found.values():
        engine.temperature = 0.0
    return found


@pytest.fixture(scope="module")
def expected(here) -> dict[str, list[Completion]]:
    """Greedy completions of both models in this process."""
    return {
        side: [group[0] for group in engine.complete(QUESTIONS)] for side, engine in here.items()
    }


def agreement(name: str, engine, found: list[Completion], expected: list[Completion]) -> list[bool]:
    """Which completions agree; prints their share, and fails where two part at a token that is no tie."""
    same, gaps = [], []
    for question, theirs, ours in zip(QUESTIONS, found, expected, strict=True):
        same.append(theirs.text == ours.text)
        if not same[-1]:
            gaps.append(gap_where_they_part(engine, question, theirs.text, ours.text))
    print(
        f"\n{name}: {sum(same)} of {len(same)} greedy completions agree token for token ({np.mean(same):.1%}), {len(gaps)} part at a tie"
    )
    assert all(gap < TIE for gap in gaps), (
        f"{name}: completions part where the choice was clear, gaps {np.round(gaps, 4)}"
    )
    return same


def gap_where_they_part(engine, question, theirs: str, ours: str) -> float:
    """How far apart the log-probabilities of the first differing tokens lie, by the engine in this process."""
    prompt, *both = (
        engine.tokenizer(text, add_special_tokens=False).input_ids
        for text in (prompts.render([question], engine.tokenizer)[0], theirs, ours)
    )
    a, b = ([*ids, engine.tokenizer.eos_token_id] for ids in both)
    n = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    logits = engine._forward([prompt + a[:n]], engine.model).logits[0, -1]
    return abs(float(logits[a[n]] - logits[b[n]]))


def check_probabilities(
    found: list[Completion], expected: list[Completion], same: list[bool], whole: bool = False
) -> None:
    """Log-probabilities and numerals of completions that agree.

    whole: all numerals, those of the branch that was not written too, which a server leaves out.
    """
    for theirs, ours, agrees in zip(found, expected, same, strict=True):
        if agrees:
            assert (theirs.prompt_tokens, theirs.completion_tokens) == (
                ours.prompt_tokens,
                ours.completion_tokens,
            )
            assert theirs.finish == ours.finish
            np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=2e-3)
            assert theirs.answer_span == ours.answer_span
            assert bool(theirs.numerals) == bool(ours.numerals), theirs.text
            told, known = theirs.numerals or {}, ours.numerals or {}
            for numeral in (told.keys() | known.keys()) if whole else told:
                assert told.get(numeral, 0.0) == pytest.approx(known.get(numeral, 0.0), abs=2e-3), (
                    numeral,
                    theirs.text,
                )


@pytest.mark.parametrize("side", ["slm", "llm"])
def test_vllm_server_agrees_with_the_engine_here(side, vllm, here, expected):
    found = [group[0] for group in server(vllm[side], side).complete(QUESTIONS)]
    same = agreement(f"vLLM server, {side.upper()}", here[side], found, expected[side])
    check_probabilities(found, expected[side], same)


def test_the_cascade_over_vllm_keeps_by_stated_confidence_and_by_its_expectation(vllm, expected):
    answers = Cascade(server(vllm["slm"], "slm"), server(vllm["llm"], "llm"), 0.8).answer(QUESTIONS)
    kept = [
        parse(c.text).confidence is not None and parse(c.text).confidence >= 0.8
        for c in expected["slm"]
    ]
    agree = np.mean([(a.source == "slm") == k for a, k in zip(answers, kept, strict=True)])
    print(
        f"\ncascade over vLLM: {np.mean([a.source == 'slm' for a in answers]):.1%} kept; decisions as in this process: {agree:.1%}"
    )
    assert agree > 0.95 and 0 < sum(a.source == "llm" for a in answers) < len(answers)
    completions = [group[0] for group in server(vllm["slm"], "slm").complete(QUESTIONS)]
    stated = np.array([parse(c.text).confidence for c in completions], dtype=float)
    rows = pd.DataFrame({"numerals": [evaluation.format_numerals(c.numerals) for c in completions]})
    digits = sources.digit_expectation(rows)["digits"].to_numpy()
    known = ~np.isnan(stated) & ~np.isnan(digits)
    print(
        f"digit expectation: {known.mean():.1%} of completions have one, |expectation - stated| {np.abs(digits - stated)[known].mean():.3f}"
    )
    assert known.mean() > 0.9 and np.all((digits[known] >= 0) & (digits[known] <= 1))


def test_transformers_serve_agrees_with_the_engine_here(transformers_serve, here, expected):
    """It sets the reasoning apart, which is undone, and gives no log-probabilities, whatever is asked."""
    found = [
        group[0]
        for group in server(transformers_serve, FOLDERS["slm"], concurrency=2).complete(QUESTIONS)
    ]
    same = agreement("transformers serve, SLM", here["slm"], found, expected["slm"])
    assert all(c.logprobs is None and c.numerals is None for c in found)
    for theirs, ours, agrees in zip(found, expected["slm"], same, strict=True):
        assert theirs.prompt_tokens == ours.prompt_tokens
        assert not agrees or (theirs.completion_tokens, theirs.finish) == (
            ours.completion_tokens,
            ours.finish,
        )


def test_a_cascade_of_two_kinds_of_servers(transformers_serve, vllm):
    slm = server(transformers_serve, FOLDERS["slm"], concurrency=2, top_logprobs=0)
    answers = Cascade(slm, server(vllm["llm"], "llm"), 0.8).answer(QUESTIONS[:24])
    assert {a.source for a in answers} == {"slm", "llm"} and all(
        a.answer for a in answers if a.source == "llm"
    )


IN_PROCESS = """
import json, os, sys
def main():
    from corea.engines.vllm import VLLMEngine
    from corea.questions.load import load_questions
    side, folder, out = sys.argv[1:]
    engine = VLLMEngine(folder, name=side, max_new_tokens=96, temperature=0.0, keep_logprobs=True, batch_size=40,
                        llm={"dtype": "float32", "max_model_len": 256, "gpu_memory_utilization": 0.1})
    questions = load_questions("drill", "test", size=64) + load_questions("shopping", "test", size=32)
    told = []
    greedy = [group[0] for group in engine.complete(questions, progress=told.append)]
    engine.temperature = 1.0
    whole, part = engine.complete(questions[:12], samples=2, seed=3), engine.complete(questions[4:8], samples=2, seed=3)
    fields = ("text", "prompt_tokens", "completion_tokens", "finish", "logprobs", "answer_span", "numerals")
    rows = [{name: getattr(c, name) for name in fields} for c in greedy]
    texts = [[[c.text for c in group] for group in groups] for groups in (whole[4:8], part)]
    json.dump({"greedy": rows, "told": told, "texts": texts}, open(out, "w"))
    engine.close()
if __name__ == "__main__":
    main()
"""


def test_vllm_in_process_agrees_with_transformers(here, expected, tmp_path):
    script, out = tmp_path / "in_process.py", tmp_path / "found.json"
    script.write_text(IN_PROCESS)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    command = [python_of_servers(), str(script), "slm", FOLDERS["slm"], str(out)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(out.read_text())
    found = [Completion(**row | {"logprobs": tuple(row["logprobs"]), "answer_span": row["answer_span"] and tuple(row["answer_span"])})
             for row in told["greedy"]]  # fmt: skip
    same = agreement("vLLM in process, SLM", here["slm"], found, expected["slm"])
    check_probabilities(found, expected["slm"], same, whole=True)
    assert any("<confidence>1" in c.text and len(c.numerals) > 3 for c in found), (
        "the other branch was never read"
    )
    assert told["told"] == [40, 40, 16]
    whole, part = told["texts"]
    assert whole == part, "a completion depends on what is asked beside it"
    assert any(a != b for a, b in whole), "samples of one question are all alike"


@pytest.fixture(scope="module")
def service(vllm, tmp_path_factory):
    """`corea serve` in front of both of vLLM's servers."""
    command = [sys.executable, "-m", "corea.cli", "serve", "--slm", vllm["slm"], "--slm-model", "slm", "--llm", vllm["llm"],
               "--llm-model", "llm", "--threshold", "0.8", "--port", "PORT", "--max-new-tokens", str(TOKENS), "--no-instruction",
               "--slm-price", "0.2", "0.2", "--llm-price", "1", "1"]  # fmt: skip
    with started(
        command, "/v1/models", tmp_path_factory.mktemp("service") / "log", PYTHONPATH=str(ROOT)
    ) as url:
        yield url


def test_the_service_answers_the_openai_client(service, expected):
    from openai import OpenAI

    with OpenAI(base_url=service, api_key="none") as client:
        for question, ours in list(zip(QUESTIONS, expected["slm"], strict=True))[:16]:
            said = client.chat.completions.create(
                model="corea", messages=[{"role": "user", "content": question.text}], seed=1
            )
            confidence = said.corea["confidence"]
            assert (said.corea["source"] == "slm") == (confidence is not None and confidence >= 0.8)
            assert said.corea["cost"] > 0 and said.usage.completion_tokens > 0
            if said.corea["source"] == "slm" and confidence == parse(ours.text).confidence:
                assert said.choices[0].message.content == parse(ours.text).answer


def test_load(service, vllm):
    """Throughput of the service, and of each server behind it alone, under the same load; printed, not judged.

    All share the cores of one machine here, so the most that the service can give is what both servers together can.
    """
    places = (
        ("corea serve", service, "corea"),
        ("vLLM SLM", vllm["slm"], "slm"),
        ("vLLM LLM", vllm["llm"], "llm"),
    )
    found = {name: asyncio.run(load(url, model)) for name, url, model in places}
    print(f"\nload, {LOAD_CONCURRENCY} requests at once for {LOAD_SECONDS:g} s:")
    for name, one in found.items():
        print(
            f"  {name:<12}{one.answers:7.1f} answers/s  {one.tokens:8.0f} tokens/s  95% within {one.slow:.2f} s"
        )
    served, slm, llm = found.values()
    most = 1 / (1 / slm.answers + served.deferred / llm.answers)
    print(
        f"  {served.deferred:.0%} deferred: at most {most:.1f} answers/s on these cores; the service gives {served.answers / most:.2f} of it"
    )
    assert min(one.answers for one in found.values()) > 0


@dataclass(frozen=True, slots=True)
class Load:
    """Answers and completion tokens a second, seconds within which 95% came, and the share the LLM answered."""

    answers: float
    tokens: float
    slow: float
    deferred: float


async def load(url: str, model: str) -> Load:
    """Ask one server by `LOAD_CONCURRENCY` clients at once, each again as soon as it is answered."""
    from openai import AsyncOpenAI

    begun, answers = time.perf_counter(), []
    options = {} if model == "corea" else {"max_tokens": TOKENS, "temperature": 0}
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:

        async def worker(n: int) -> None:
            while time.perf_counter() - begun < LOAD_SECONDS:
                asked = time.perf_counter()
                turn = [{"role": "user", "content": QUESTIONS[n % len(QUESTIONS)].text}]
                said = await client.chat.completions.create(
                    model=model, messages=turn, seed=n, **options
                )
                source = getattr(said, "corea", {}).get("source")
                answers.append(
                    (time.perf_counter() - asked, said.usage.completion_tokens, source == "llm")
                )
                n += LOAD_CONCURRENCY

        await asyncio.gather(*(worker(n) for n in range(LOAD_CONCURRENCY)))
    seconds, (taken, tokens, deferred) = time.perf_counter() - begun, zip(*answers, strict=True)
    return Load(
        len(taken) / seconds,
        sum(tokens) / seconds,
        float(np.percentile(taken, 95)),
        float(np.mean(deferred)),
    )
