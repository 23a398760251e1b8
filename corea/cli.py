"""`corea`: train, measure and cascade on your own questions, models and servers.

    corea train questions.jsonl --model Qwen/Qwen2.5-1.5B-Instruct --out runs/mine --gpus 1 --lora-rank 32
    corea evaluate questions.jsonl --model runs/mine/model --out mine.parquet --gpus 1
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
from corea.support.files import atomic_write

_KEYS = "API keys are read from COREA_SLM_KEY and COREA_LLM_KEY, or OPENAI_API_KEY for both."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where something is wrong."""
    from corea.serving.client import BudgetError, ServerError

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(arguments)
    given.arguments = arguments  # what several processes are launched with again
    try:
        {"answer": _answer, "serve": _serve, "train": _train, "evaluate": _evaluate}[given.command](
            given
        )
    except (ValueError, OSError, RuntimeError, ServerError, BudgetError, ImportError) as error:
        print(f"corea {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"corea {given.command}: interrupted; what was finished is kept, the same command goes on",
            file=sys.stderr,
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(
        prog="corea",
        description="Calibrated small-large model cascades.",
        epilog=_KEYS,
        allow_abbrev=False,
    )
    commands = cli.add_subparsers(dest="command", required=True)

    def command(name: str, what: str, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"{_EXAMPLES[name]}\n\n{more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip

    _train_options(command("train", "train a model to say how sure it is, on your own questions"))
    _evaluate_options(
        command(
            "evaluate", "measure accuracy and calibration of a model on your own questions", _KEYS
        )
    )
    answer = command(
        "answer", "answer a JSONL file of questions by a cascade of two servers", _KEYS
    )
    answer.add_argument("questions", type=Path, help=_QUESTIONS)
    answer.add_argument(
        "--out",
        type=Path,
        required=True,
        help="where the answers go, as JSONL; finished completions lie beside it",
    )
    answer.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="most to spend, in the unit of the prices; stops before it is passed",
    )
    serve = command(
        "serve",
        "serve the cascade as an OpenAI-compatible API",
        f"{_KEYS} Clients send COREA_API_KEY, where it is set.",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind (default: %(default)s, this machine alone)",
    )
    serve.add_argument("--port", type=int, default=8000)
    for each in (answer, serve):
        _server_options(each)
    return cli


_QUESTIONS = (
    'one {"question": ..., "answer": ...} a line ("answer" only to grade); also "id" and '
    '"answer_type": math (the default), choice or text'
)
_SERVERS = "--slm http://127.0.0.1:8001/v1 --slm-model small --llm http://127.0.0.1:8002/v1 --llm-model large --threshold 0.8"
_EXAMPLES = {
    "answer": f"example:\n  corea answer questions.jsonl --out answers.jsonl \\\n    {_SERVERS}",
    "serve": f"example:\n  corea serve \\\n    {_SERVERS}",
    "train": "example:\n  corea train questions.jsonl --model Qwen/Qwen2.5-1.5B-Instruct --out runs/mine --gpus 1 --lora-rank 32",
    "evaluate": "examples:\n  corea evaluate questions.jsonl --model runs/mine/model --out mine.parquet --gpus 1\n"
    "  corea evaluate questions.jsonl --server http://127.0.0.1:8001/v1 --model small --out small.parquet",
}


def _server_options(command: argparse.ArgumentParser) -> None:
    for side in ("slm", "llm"):
        command.add_argument(
            f"--{side}",
            required=True,
            metavar="URL",
            help=f"the {side.upper()}'s server, ending in /v1",
        )
        command.add_argument(
            f"--{side}-model", required=True, metavar="NAME", help="the model's name there"
        )
        command.add_argument(
            f"--{side}-price",
            nargs=2,
            type=float,
            metavar=("PROMPT", "COMPLETION"),
            help="price of a million tokens",
        )
    command.add_argument(
        "--threshold",
        type=float,
        required=True,
        help="keep the SLM's answer from this confidence on, in [0, 1]",
    )
    command.add_argument("--max-new-tokens", type=int, default=1024)
    command.add_argument("--temperature", type=float, default=0.0)
    command.add_argument(
        "--concurrency", type=int, default=16, help="requests under way at once, at each server"
    )
    command.add_argument("--timeout", type=float, default=120.0, help="seconds a request may take")
    _format_option(command)


def _format_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-instruction",
        action="store_true",
        help="leave out the system turn that tells the format, for models that were taught it",
    )


def _model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gpus", type=int, default=0, help="of this machine; 0: the CPU (the default)"
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: bfloat16 on GPUs, float32 on the CPU",
    )
    command.add_argument("--max-new-tokens", type=int, default=1024)
    command.add_argument("--seed", type=int, default=0)
    _format_option(command)


def _train_options(train: argparse.ArgumentParser) -> None:
    from corea.rewards import REWARDS

    train.add_argument("questions", type=Path, help=_QUESTIONS)
    train.add_argument(
        "--model", required=True, help="where to begin: a folder, or a model of the hub"
    )
    train.add_argument(
        "--out", type=Path, required=True, help="folder of the run; a run cut off there goes on"
    )
    train.add_argument(
        "--reward", default="L1", choices=tuple(REWARDS), help="default: L1, COREA's"
    )
    train.add_argument("--steps", type=int, default=200)
    train.add_argument("--questions-per-step", type=int, default=32)
    train.add_argument(
        "--rollouts",
        type=int,
        default=8,
        help="completions a question in each step (default: %(default)s)",
    )
    train.add_argument("--learning-rate", type=float, help="default: 1e-6, with an adapter 1e-5")
    train.add_argument(
        "--beta", type=float, default=0.001, help="weight of the KL to the model it begins with"
    )
    train.add_argument("--save-steps", type=int, default=25, help="steps between checkpoints")
    train.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        help="rollouts of one forward pass of a process; 0: all its share",
    )
    train.add_argument(
        "--gradient-checkpointing", action="store_true", help="spare memory, at a third more time"
    )
    train.add_argument(
        "--lora-rank", type=int, default=0, help="train an adapter of this rank; 0: all weights"
    )
    train.add_argument(
        "--rollout-engine",
        default="transformers",
        choices=("transformers", "colocate", "server"),
        help="who samples: the model itself, or vLLM",
    )
    _model_options(train)


def _evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("questions", type=Path, help=_QUESTIONS)
    evaluate.add_argument(
        "--model", required=True, help="a folder, a model of the hub, or its name at the server"
    )
    evaluate.add_argument(
        "--server",
        metavar="URL",
        help="an OpenAI-compatible server, ending in /v1; without it the model runs here",
    )
    evaluate.add_argument(
        "--out", type=Path, required=True, help="where the records go, as parquet"
    )
    evaluate.add_argument(
        "--samples", type=int, default=1, help="completions a question (default: %(default)s)"
    )
    evaluate.add_argument("--temperature", type=float, default=1.0)
    evaluate.add_argument("--engine", default="transformers", choices=("transformers", "vllm"))
    evaluate.add_argument("--batch-size", type=int, default=32)
    evaluate.add_argument(
        "--price",
        nargs=2,
        type=float,
        metavar=("PROMPT", "COMPLETION"),
        help="of a million tokens at the server",
    )
    evaluate.add_argument(
        "--budget", type=float, default=math.inf, help="most to spend at the server; needs --price"
    )
    evaluate.add_argument(
        "--concurrency", type=int, default=16, help="requests under way at once, at the server"
    )
    evaluate.add_argument("--timeout", type=float, default=120.0, help="seconds a request may take")
    _model_options(evaluate)


def _prices(given: argparse.Namespace) -> PriceList | None:
    if (given.slm_price is None) != (given.llm_price is None):
        raise ValueError("give both --slm-price and --llm-price, or neither")
    if given.slm_price is None:
        if math.isfinite(getattr(given, "budget", math.inf)):
            raise ValueError("--budget needs --slm-price and --llm-price")
        return None
    return PriceList(Price(*given.slm_price), Price(*given.llm_price), "the command line")


def _engine(given: argparse.Namespace, side: str, **options):
    from corea.serving.client import Server

    return Server(
        getattr(given, side), getattr(given, f"{side}_model"), name=side, max_new_tokens=given.max_new_tokens,
        temperature=given.temperature, concurrency=given.concurrency, timeout=given.timeout,
        api_key=os.environ.get(f"COREA_{side.upper()}_KEY"), instruction=_instruction(given), **options,
    )  # fmt: skip


def _instruction(given: argparse.Namespace) -> str | None:
    from corea.prompts import INSTRUCTION

    return None if given.no_instruction else INSTRUCTION


def _dtype(given: argparse.Namespace) -> str:
    return given.dtype or ("bfloat16" if given.gpus else "float32")


def _train(given: argparse.Namespace) -> None:
    """RLCC on the questions of a file; launched again in several processes where there are several GPUs."""
    from corea import grpo
    from corea.rewards import REWARDS
    from corea.support import processes
    from corea.support.hardware import Compute

    compute = Compute(
        gpus=given.gpus, dtype=_dtype(given), rollouts=given.rollout_engine, lora_rank=given.lora_rank, micro_batch=given.micro_batch,
        gradient_checkpointing=given.gradient_checkpointing, sharding="fsdp2" if given.gpus > 1 and not given.lora_rank else "none",
    )  # fmt: skip
    command = compute.launch_command()
    if command and processes.launched() == 1:
        return processes.launch(command, "corea.cli", *given.arguments)
    settings = grpo.GRPOSettings(
        steps=given.steps, questions_per_step=given.questions_per_step, num_generations=given.rollouts, beta=given.beta,
        learning_rate=given.learning_rate or (1e-5 if given.lora_rank else 1e-6), max_completion_length=given.max_new_tokens,
        save_steps=given.save_steps, seed=given.seed,
    )  # fmt: skip
    run = grpo.train(
        given.model, given.questions, given.out, reward=REWARDS[given.reward], settings=settings,
        name=given.out.name, compute=compute, instruction=_instruction(given),
    )  # fmt: skip
    if processes.rank() == 0:
        steps = run.log().pivot(index="step", columns="metric", values="value")
        ends = ", ".join(
            f"{name} {steps[name].iloc[0]:.2f} -> {steps[name].iloc[-1]:.2f}"
            for name in ("accuracy", "mean confidence")
        )
        print(f"{len(steps)} steps, {ends}; model in {run.model}, log in {run.folder / 'log.csv'}")


def _evaluate(given: argparse.Namespace) -> None:
    """Records of a model on the questions of a file, and its metrics with intervals; records already there are kept."""
    from corea import evaluation, grpo
    from corea.questions.load import load_jsonl
    from corea.records import write_records
    from corea.support.files import settings_hash

    questions, name = load_jsonl(given.questions), Path(given.model).name
    model = given.model if given.server else grpo.fingerprint(given.model)
    settings = settings_hash(
        [
            model,
            [question.hashed() for question in questions],
            given.samples,
            given.temperature,
            given.max_new_tokens,
            given.seed,
            given.no_instruction,
        ]
    )
    if not evaluation.are_kept(given.out, settings, questions):
        rows = evaluation.evaluate(
            _own_engine(given, name), questions=questions, samples=given.samples, seed=given.seed
        )
        write_records(rows.assign(run=model[:12], settings=settings), given.out)
    for row in evaluation.measure(given.out, seed=given.seed).itertuples():
        print(f"{row.metric:<18}{row.value:8.3f}   [{row.low:.3f}, {row.high:.3f}]")
    print(
        f"{len(questions)} questions, {given.samples} samples each; 95% intervals over questions; "
        f"records in {given.out}"
    )


def _own_engine(given: argparse.Namespace, name: str):
    """What answers: a server, or a model run here."""
    from corea.engines.loading import model_engine
    from corea.support.hardware import Compute

    options = {
        "name": name,
        "max_new_tokens": given.max_new_tokens,
        "temperature": given.temperature,
        "instruction": _instruction(given),
    }
    if given.server:
        from corea.serving.client import Budget, Server

        if math.isfinite(given.budget) and given.price is None:
            raise ValueError("--budget needs --price")
        return Server(
            given.server, given.model, journal=given.out.with_name(f"{given.out.name}.journal"), concurrency=given.concurrency,
            timeout=given.timeout, budget=Budget(given.budget), price=Price(*given.price) if given.price else Price(0.0, 0.0), **options,
        )  # fmt: skip
    compute = Compute(gpus=given.gpus, engine=given.engine, dtype=_dtype(given))
    return model_engine(
        given.model, compute, batch_size=given.batch_size, keep_logprobs=True, **options
    )


def _answer(given: argparse.Namespace) -> None:
    """Answer every question; completions are kept beside the answers, so the same command goes on where it was cut off."""
    from tqdm import tqdm

    from corea.cascade import Cascade
    from corea.evaluation import decisions
    from corea.questions.load import load_jsonl
    from corea.serving.client import Budget

    questions, prices, budget = load_jsonl(given.questions), _prices(given), Budget(given.budget)
    slm, llm = (
        _Shown(_engine(given, side, journal=given.out.with_name(f"{given.out.name}.{side}.journal"), budget=budget,
                       price=getattr(prices, side, Price(0.0, 0.0))), tqdm)
        for side in ("slm", "llm")
    )  # fmt: skip
    answers = Cascade(slm, llm, given.threshold, prices).answer(questions)
    right = decisions(questions, answers)["right"]
    with atomic_write(given.out) as file:
        for question, answer, correct in zip(questions, answers, right, strict=True):
            row = {"id": question.id, "answer": answer.answer, "correct": correct, "source": answer.source,
                   "confidence": answer.confidence, "cost": answer.cost}  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    share = sum(a.source == "llm" for a in answers) / len(answers)
    graded = f", right {right.mean():.3f}" if right.notna().all() else ""
    money = f", cost {sum(a.cost or 0.0 for a in answers):g}" if prices else ""
    print(
        f"{len(answers)} questions{graded}, {share:.1%} by the LLM{money}; answers in {given.out}"
    )


class _Shown:
    """An engine with a progress bar."""

    def __init__(self, engine, tqdm):
        self.engine, self.name, self.tqdm = engine, engine.name, tqdm

    def complete(self, questions, *, samples: int = 1, seed: int = 0, progress=None):
        with self.tqdm(total=len(questions) * samples, desc=self.name.upper()) as bar:
            return self.engine.complete(questions, samples=samples, seed=seed, progress=bar.update)


def _serve(given: argparse.Namespace) -> None:
    import uvicorn

    from corea.serving.app import build_app

    key = os.environ.get("COREA_API_KEY")
    app = build_app(
        _engine(given, "slm"),
        _engine(given, "llm"),
        given.threshold,
        prices=_prices(given),
        api_key=key,
    )
    print(
        f"corea: http://{given.host}:{given.port}/v1, {'with' if key else 'without'} an API key",
        flush=True,
    )
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    sys.exit(main())
