"""`corea`: train, measure and cascade on your own questions, models and servers."""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

import corea
from corea import evaluation, grpo, rewards
from corea.cascade import Cascade
from corea.costs import Price, PriceList
from corea.engines.loading import model_engine
from corea.prompts import INSTRUCTION
from corea.questions.load import load_jsonl
from corea.records import read_records, write_records
from corea.serving.app import build_app
from corea.serving.client import Budget, Server
from corea.support import processes
from corea.support.files import atomic_write, settings_hash
from corea.support.hardware import Compute

_KEYS = """API keys are read from COREA_SLM_KEY and COREA_LLM_KEY, or OPENAI_API_KEY for both.
Clients of `corea serve` send COREA_API_KEY, if it is set."""
_PLACES = """--slm http://127.0.0.1:8001/v1 --slm-model small \\
    --llm http://127.0.0.1:8002/v1 --llm-model large --threshold 0.8"""
_EXAMPLES = {
    "train": """
  corea train questions.jsonl --model Qwen/Qwen2.5-1.5B-Instruct --out runs/mine --gpus 1""",
    "evaluate": """
  corea evaluate questions.jsonl --model runs/mine/model --out mine.parquet --gpus 1
  corea evaluate questions.jsonl --model small --server http://127.0.0.1:8001/v1 --out s.parquet""",
    "answer": f"\n  corea answer questions.jsonl --out answers.jsonl \\\n    {_PLACES}",
    "serve": f"\n  corea serve \\\n    {_PLACES}",
}
_COMMANDS = {
    "train": "train a model to say how sure it is, on your own questions",
    "evaluate": "measure accuracy and calibration of a model on your own questions",
    "answer": "answer a JSONL file of questions by a cascade of two servers",
    "serve": "serve the cascade as an OpenAI-compatible API",
}
_QUESTIONS = """one {"question": ..., "answer": ...} per line ("answer" only to grade);
also "id" and "answer_type": math (the default), choice or text"""
_SAMPLERS = ("transformers", "colocate", "server")
_PRICE = {"nargs": 2, "type": float, "metavar": ("PROMPT", "COMPLETION")}
# First letters of the commands; default, or type of what must be given; what it is; choices.
_OPTIONS: dict[str, tuple] = {
    "--out": ("tea", Path, "folder of the run, or file of records or answers; a rerun goes on"),
    "--model": ("te", str, "a folder, a model of the hub, or its name at the server"),
    "--server": ("e", "", "URL of an OpenAI-compatible server, ending in /v1; else it runs here"),
    "--reward": ("t", "L1", "L1 is COREA's", rewards.REWARDS),  # a user's own among them
    "--steps": ("t", 200, "of training"),
    "--questions-per-step": ("t", 32, ""),
    "--rollouts": ("t", 8, "completions per question and step"),
    "--learning-rate": ("t", 0.0, "by default 1e-6, with an adapter 1e-5"),
    "--beta": ("t", 0.001, "weight of the KL to the model it begins with"),
    "--save-steps": ("t", 25, "steps between checkpoints"),
    "--micro-batch": ("t", 0, "rollouts of one forward pass of a process; 0: all its share"),
    "--gradient-checkpointing": ("t", False, "spare memory, at a third more time"),
    "--lora-rank": ("t", 0, "train an adapter of this rank; 0: all weights"),
    "--rollout-engine": ("t", "transformers", "who samples: the model itself, or vLLM", _SAMPLERS),
    "--samples": ("e", 1, "completions per question"),
    "--engine": ("e", "transformers", "what runs the model here", ("transformers", "vllm")),
    "--batch-size": ("e", 32, "completions at once, of transformers"),
    "--price": ("e", _PRICE, "of a million tokens at the server"),
    "--budget": ("ea", math.inf, "most to spend, in the unit of the prices; never passed"),
    "--slm": ("as", str, "URL of the SLM's server, ending in /v1"),
    "--slm-model": ("as", str, "the model's name there"),
    "--slm-price": ("as", _PRICE, "of a million tokens there"),
    "--llm": ("as", str, "URL of the LLM's server, ending in /v1"),
    "--llm-model": ("as", str, "the model's name there"),
    "--llm-price": ("as", _PRICE, "of a million tokens there"),
    "--threshold": ("as", float, "keep the SLM's answer from this confidence on, in [0, 1]"),
    "--temperature": ("eas", 0.0, "0 is greedy"),
    "--concurrency": ("eas", 16, "requests under way at once, at each server"),
    "--timeout": ("eas", 120.0, "seconds a request may take"),
    "--gpus": ("te", 0, "of this machine; 0: the CPU"),
    "--dtype": ("te", "", "by default bfloat16 on GPUs, else float32", ("float32", "bfloat16")),
    "--max-new-tokens": ("teas", 1024, "of a completion"),
    "--seed": ("te", 0, ""),
    "--no-instruction": ("teas", False, "leave out the system turn that tells the format"),
    "--host": ("s", "127.0.0.1", "address to bind; this machine only by default"),
    "--port": ("s", 8000, ""),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; one clear line and exit status 1 if something is wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    given.arguments = arguments  # what several processes are launched with again
    if "dtype" in given:
        given.dtype = given.dtype or ("bfloat16" if given.gpus else "float32")
    given.instruction = None if given.no_instruction else INSTRUCTION
    commands = {"answer": _answer, "serve": _serve, "train": _train, "evaluate": _evaluate}
    try:
        commands[given.command](given)
        return 0
    except ModuleNotFoundError as error:
        extra = "serve" if error.name in ("openai", "starlette", "uvicorn") else "train"
        status, problem = 1, f'{error}; pip install "corea[{extra}]"'
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        status, problem = 1, str(error)
    except KeyboardInterrupt:
        status, problem = 130, "interrupted; what was finished is kept, the same command goes on"
    print(f"corea {given.command}: {problem}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    what = "Calibrated small-large model cascades."
    cli = argparse.ArgumentParser("corea", description=what, epilog=_KEYS, allow_abbrev=False)
    cli.add_argument("--version", action="version", version=f"corea {corea.__version__}")
    commands = cli.add_subparsers(dest="command")
    for name, what in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"example:{_EXAMPLES[name]}\n\n{_KEYS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name != "serve":
            command.add_argument("questions", type=Path, help=_QUESTIONS)
        for option, (letters, *described) in _OPTIONS.items():
            if name[0] in letters:
                command.add_argument(option, **_described(*described))
    commands.choices["evaluate"].set_defaults(temperature=1.0)
    return cli


def _described(default, text: str, choices=None) -> dict:
    """What argparse is told of an option."""
    if default is False:
        return {"action": "store_true", "help": text}
    if isinstance(default, dict):
        return {**default, "help": text}
    if isinstance(default, type):
        return {"type": default, "required": True, "help": text}
    shown = f"{text} (default: %(default)s)" if default else text
    return {"type": type(default), "default": default, "help": shown, "choices": choices}


def _chosen(given: argparse.Namespace, names: str) -> dict:
    return {name: getattr(given, name) for name in names.split()}


def _train(given: argparse.Namespace) -> None:
    """Train on the questions of a file, in a process per GPU if there are several."""
    compute = Compute(
        **_chosen(given, "gpus dtype lora_rank micro_batch gradient_checkpointing"),
        rollouts=given.rollout_engine,
        sharding="fsdp2" if given.gpus > 1 and not given.lora_rank else "none",
    )
    command = compute.launch_command()
    if command and processes.launched() == 1:
        return processes.launch(command, "corea.cli", *given.arguments)
    run = grpo.train(
        given.model,
        given.questions,
        given.out,
        reward=rewards.REWARDS[given.reward],
        settings=grpo.GRPOSettings(
            **_chosen(given, "steps questions_per_step beta save_steps seed"),
            num_generations=given.rollouts,
            learning_rate=given.learning_rate or (1e-5 if given.lora_rank else 1e-6),
            max_completion_length=given.max_new_tokens,
        ),
        name=given.out.name,
        compute=compute,
        instruction=given.instruction,
    )
    if processes.rank() == 0:
        log = run.log().pivot(index="step", columns="metric", values="value")
        means = ("accuracy", "mean confidence")
        ends = [f"{name} {log[name].iloc[0]:.2f} -> {log[name].iloc[-1]:.2f}" for name in means]
        print(f"{len(log)} steps, {', '.join(ends)}; model in {run.model}, log beside it")


def _evaluate(given: argparse.Namespace) -> None:
    """Write records of a model, and show its metrics; records already there are kept."""
    questions = load_jsonl(given.questions)
    model = given.model if given.server else grpo.fingerprint(given.model)
    how = _chosen(given, "samples temperature max_new_tokens seed no_instruction")
    settings = settings_hash([model, [q.hashed() for q in questions], *how.values()])
    if not evaluation.are_kept(given.out, settings, questions):
        sampling = _chosen(given, "samples seed")
        rows = evaluation.evaluate(_engine(given), questions=questions, **sampling)
        write_records(rows.assign(run=model[:12], settings=settings), given.out)
    rows = read_records(given.out)
    graded = rows[rows["correct"].notna()]
    if len(graded):
        for row in evaluation.measure(graded, seed=given.seed).itertuples():
            print(f"{row.metric:<18}{row.value:8.3f}   [{row.low:.3f}, {row.high:.3f}]")
    ungraded = len(questions) - graded["question_id"].nunique()
    without = f" ({ungraded} without an answer)" if ungraded else ""
    asked = f"{len(questions)} questions{without}, {given.samples} samples each"
    print(f"{asked}; 95% intervals over questions; records in {given.out}")


def _engine(given: argparse.Namespace):
    """What `corea evaluate` measures: a server, or a model run here."""
    name = Path(given.model).name
    if given.server:
        if math.isfinite(given.budget) and given.price is None:
            raise ValueError("--budget needs --price")
        journal = given.out.with_name(f"{given.out.name}.journal")
        place = given.server, given.model, given.price
        return _server(given, *place, name=name, budget=Budget(given.budget), journal=journal)
    return model_engine(
        given.model,
        Compute(**_chosen(given, "gpus engine dtype")),
        name=name,
        keep_logprobs=True,
        **_chosen(given, "batch_size max_new_tokens temperature instruction"),
    )


def _server(given, url: str, model: str, price: Sequence[float] | None, **options) -> Server:
    """A server by the options that all commands have."""
    return Server(
        url,
        model,
        price=Price(*price or (0.0, 0.0)),
        **_chosen(given, "max_new_tokens temperature instruction concurrency timeout"),
        **options,
    )


def _sides(given: argparse.Namespace, **options) -> Iterator[Server]:
    """The servers of the SLM and of the LLM."""
    for side in ("slm", "llm"):
        if "out" in given:  # what is finished is kept beside the answers
            options["journal"] = given.out.with_name(f"{given.out.name}.{side}.journal")
        place = [getattr(given, side + end) for end in ("", "_model", "_price")]
        key = os.environ.get(f"COREA_{side.upper()}_KEY")
        yield _server(given, *place, name=side, api_key=key, **options)


def _prices(given: argparse.Namespace) -> PriceList | None:
    """The prices of both sides, None if there are none; a budget needs them."""
    if (given.slm_price is None) != (given.llm_price is None):
        raise ValueError("give both --slm-price and --llm-price, or neither")
    if given.slm_price is not None:
        return PriceList(Price(*given.slm_price), Price(*given.llm_price), "the command line")
    if math.isfinite(getattr(given, "budget", math.inf)):
        raise ValueError("--budget needs --slm-price and --llm-price")
    return None


def _answer(given: argparse.Namespace) -> None:
    """Answer every question; completions are kept beside the answers."""
    questions, prices = load_jsonl(given.questions), _prices(given)
    slm, llm = _sides(given, budget=Budget(given.budget), show_progress=True)
    answers = Cascade(slm, llm, given.threshold, prices).answer(questions)
    table = pd.DataFrame(answers).rename(columns={"question_id": "id"})
    table["correct"] = evaluation.decisions(questions, answers)["right"]
    table = table[["id", "answer", "correct", "source", "confidence", "cost"]]
    with atomic_write(given.out) as file:
        table.to_json(file, orient="records", lines=True, force_ascii=False, double_precision=15)
    correct = table["correct"].dropna()
    graded = f", right {correct.mean():.3f}" if len(correct) else ""
    money = f", cost {table['cost'].sum():g}" if prices else ""
    share = (table["source"] == "llm").mean()
    print(f"{len(table)} questions{graded}, {share:.1%} by the LLM{money}; answers in {given.out}")


def _serve(given: argparse.Namespace) -> None:
    import uvicorn

    # Whoever asks the service does not wait for a limit by the hour.
    slm, llm = _sides(given, patience=0)
    key, place = os.environ.get("COREA_API_KEY"), f"http://{given.host}:{given.port}/v1"
    app = build_app(slm, llm, given.threshold, prices=_prices(given), api_key=key)
    print(f"corea: {place}, {'with' if key else 'without'} an API key", flush=True)
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    sys.exit(main())
