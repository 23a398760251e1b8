"""`corea`: the cascade on your own questions and servers.

    corea answer questions.jsonl --slm http://127.0.0.1:8001/v1 --slm-model small --llm http://127.0.0.1:8002/v1 \\
        --llm-model large --threshold 0.8 --out answers.jsonl
    corea serve --slm http://127.0.0.1:8001/v1 --slm-model small --llm http://127.0.0.1:8002/v1 --llm-model large --threshold 0.8
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from corea.costs import Price, PriceList
from corea.files import atomic_write

_KEYS = "API keys are read from COREA_SLM_KEY and COREA_LLM_KEY, or OPENAI_API_KEY for both."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where something is wrong."""
    from corea.servers import BudgetError, ServerError

    given = _parser().parse_args(arguments)
    try:
        if given.command == "serve":
            _serve(given)
        else:
            _answer(given)
    except (ValueError, OSError, ServerError, BudgetError) as error:
        print(f"corea {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"corea {given.command}: interrupted; what was finished is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(
        prog="corea", description="Calibrated small-large model cascades.", epilog=_KEYS, allow_abbrev=False
    )
    commands = cli.add_subparsers(dest="command", required=True)
    options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    answer = commands.add_parser("answer", help="answer a JSONL file of questions", epilog=f"{_example('answer')}\n\n{_KEYS}", **options)
    answer.add_argument("questions", type=Path, help='one {"question": ..., "answer": ...} a line')
    answer.add_argument("--out", type=Path, required=True, help="where the answers go, as JSONL; finished completions lie beside it")
    answer.add_argument("--budget", type=float, default=math.inf, help="most to spend, in the unit of the prices; stops before it is passed")
    serve = commands.add_parser("serve", help="serve the cascade as an OpenAI-compatible API", epilog=f"{_example('serve')}\n\n{_KEYS} Clients send COREA_API_KEY, where it is set.", **options)
    serve.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s, this machine alone)")
    serve.add_argument("--port", type=int, default=8000)
    for command in (answer, serve):
        for side in ("slm", "llm"):
            command.add_argument(f"--{side}", required=True, metavar="URL", help=f"the {side.upper()}'s server, ending in /v1")
            command.add_argument(f"--{side}-model", required=True, metavar="NAME", help="the model's name there")
            command.add_argument(f"--{side}-price", nargs=2, type=float, metavar=("PROMPT", "COMPLETION"), help="price of a million tokens")
        command.add_argument("--threshold", type=float, required=True, help="keep the SLM's answer from this confidence on, in [0, 1]")
        command.add_argument("--max-new-tokens", type=int, default=1024)
        command.add_argument("--temperature", type=float, default=0.0)
        command.add_argument("--concurrency", type=int, default=16, help="requests under way at once, at each server")
        command.add_argument("--timeout", type=float, default=120.0, help="seconds a request may take")
    return cli


def _example(command: str) -> str:
    servers = "--slm http://127.0.0.1:8001/v1 --slm-model small --llm http://127.0.0.1:8002/v1 --llm-model large --threshold 0.8"
    what = "questions.jsonl --out answers.jsonl " if command == "answer" else ""
    return f"example:\n  corea {command} {what}\\\n    {servers}"


def _prices(given: argparse.Namespace) -> PriceList | None:
    if (given.slm_price is None) != (given.llm_price is None):
        raise ValueError("give both --slm-price and --llm-price, or neither")
    if given.slm_price is None:
        if math.isfinite(getattr(given, "budget", math.inf)):
            raise ValueError("--budget needs --slm-price and --llm-price")
        return None
    return PriceList(Price(*given.slm_price), Price(*given.llm_price), "the command line")


def _engine(given: argparse.Namespace, side: str, **options):
    from corea.servers import ServerEngine

    return ServerEngine(
        getattr(given, side), getattr(given, f"{side}_model"), name=side, max_new_tokens=given.max_new_tokens,
        temperature=given.temperature, concurrency=given.concurrency, timeout=given.timeout,
        api_key=os.environ.get(f"COREA_{side.upper()}_KEY"), **options,
    )  # fmt: skip


def _answer(given: argparse.Namespace) -> None:
    """Answer every question; completions are kept beside the answers, so the same command goes on where it was cut off."""
    from tqdm import tqdm

    from corea.cascade import Cascade
    from corea.grader import Grader
    from corea.servers import Budget
    from corea.tasks import load_jsonl

    questions, prices, budget = load_jsonl(given.questions), _prices(given), Budget(given.budget)
    slm, llm = (
        _Shown(_engine(given, side, journal=given.out.with_name(f"{given.out.name}.{side}.journal"), budget=budget,
                       price=getattr(prices, side, None)), tqdm)
        for side in ("slm", "llm")
    )  # fmt: skip
    answers = Cascade(slm, llm, given.threshold, prices).answer(questions)
    with Grader() as grader:
        right = grader.grade([a.answer for a in answers], [q.gold for q in questions], [q.answer_type for q in questions])
    with atomic_write(given.out) as file:
        for question, answer, correct in zip(questions, answers, right, strict=True):
            row = {"id": question.id, "answer": answer.answer, "correct": bool(correct), "source": answer.source,
                   "confidence": answer.confidence, "cost": answer.cost}  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    share = sum(a.source == "llm" for a in answers) / len(answers)
    money = f", cost {sum(a.cost for a in answers):g}" if prices else ""
    print(f"{len(answers)} questions, right {sum(right) / len(right):.3f}, {share:.1%} by the LLM{money}; answers in {given.out}")


class _Shown:
    """An engine with a progress bar."""

    def __init__(self, engine, tqdm):
        self.engine, self.name, self.tqdm = engine, engine.name, tqdm

    def complete(self, questions, *, samples: int = 1, seed: int = 0):
        with self.tqdm(total=len(questions) * samples, desc=self.name.upper()) as bar:
            return self.engine.complete(questions, samples=samples, seed=seed, progress=bar.update)


def _serve(given: argparse.Namespace) -> None:
    import uvicorn

    from corea.service import build_app

    key = os.environ.get("COREA_API_KEY")
    app = build_app(_engine(given, "slm"), _engine(given, "llm"), given.threshold, prices=_prices(given), api_key=key)
    print(f"corea: http://{given.host}:{given.port}/v1, {'with' if key else 'without'} an API key", flush=True)
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    sys.exit(main())
