"""Speeds, printed as figures and ratios: `make bench`.  Nothing is asserted, as machines differ.

Whole runs are interleaved (ours, bare, ours, bare, ...) and the median of the pairwise ratios is
given, so that a machine whose speed drifts does not decide the result.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from transformers import PrinterCallback
from transformers.utils.logging import set_verbosity_error

from corea import _callbacks, cascade, grpo, parser, prompts
from corea.engines.loading import load_model
from corea.grader import Grader, grade_one
from corea.paper import runs
from corea.paper.profiles import load_profile
from corea.paper.variants import RUNS
from corea.questions.load import load_questions
from corea.support.hardware import Compute

PAIRS = 5
STEPS = 4


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call, by the wall or by another clock."""
    start = clock()
    work()
    return clock() - start


def grpo_step() -> None:
    """CPU time of a step of our layer against bare `trl.GRPOTrainer`, all but the rewards equal.

    CPU time of this process, as other work may run beside it; our grader's is not in it.
    """
    profile = load_profile("cpu")
    settings = dataclasses.replace(profile.grpo, steps=STEPS, save_steps=10 * STEPS)
    questions = load_questions("drill", "train", size=settings.questions_per_step * STEPS)
    with tempfile.TemporaryDirectory() as folder:
        grade_one("1/2", "0.5", "math")  # a run starts its worker once

        def ours():
            trainer = grpo.build_trainer(
                profile.slm, questions, folder, RUNS["L1-SLM"].reward, settings, Compute(), None
            )
            trainer.add_callback(_callbacks.Watch("ours", STEPS, False))
            return trainer

        def bare():
            return bare_trainer(profile.slm, questions, settings, Path(folder))

        ours().train()
        clock = time.process_time
        times = [(seconds(ours().train, clock), seconds(bare().train, clock)) for _ in range(PAIRS)]
    ratios = [a / b for a, b in times]
    ours_s, bare_s = (statistics.median(column) / STEPS for column in zip(*times, strict=True))
    print(
        f"GRPO step: ours {ours_s:.2f} CPU s, bare TRL {bare_s:.2f}, "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def constant_reward(completions, **_) -> list[float]:
    """The cheapest reward there is."""
    return [0.0] * len(completions)


def bare_trainer(base: str, questions, settings: grpo.GRPOSettings, folder: Path):
    """TRL's trainer on the same model, batch and settings; only the prompts are ours."""
    from trl import GRPOTrainer

    trainer = GRPOTrainer(
        model=load_model(base),
        processing_class=prompts.load_tokenizer(base),
        reward_funcs=[constant_reward],
        args=grpo._arguments(settings, [1.0], folder, Compute()),
        train_dataset=grpo.training_set(questions, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def generation() -> None:
    """Tokens a CPU second of both models, in the batches of `make paper`, and of `generate`."""
    profile = load_profile("cpu")
    questions = load_questions("drill", "test", size=64)
    speeds = {}
    for system in ("SLM", "LLM"):
        engine = runs.engine_for(profile, system)
        engine.complete(questions[:4])
        start = time.process_time()
        groups = engine.complete(questions, samples=4)
        tokens = sum(c.completion_tokens for group in groups for c in group)
        speeds[system] = tokens / (time.process_time() - start)
        speeds[f"{system} by generate"] = bare_generation(engine, questions)
    print(
        "generation, tokens a CPU second: " + ", ".join(f"{k} {v:,.0f}" for k, v in speeds.items())
    )
    print(f"ratio of the SLM's {speeds['SLM'] / speeds['SLM by generate']:.1f}")


def bare_generation(engine, questions) -> float:
    """Tokens a CPU second of `generate` of transformers, without log-probabilities."""
    texts = [t for t in prompts.render(questions, engine.tokenizer) for _ in range(4)]
    inputs = engine.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    pad, end = engine.tokenizer.pad_token_id, engine.tokenizer.eos_token_id
    options = {"max_new_tokens": engine.max_new_tokens, "top_k": 0, "do_sample": True}
    options |= {"temperature": engine.temperature, "eos_token_id": end, "pad_token_id": pad}
    start = time.process_time()
    written = engine.model.generate(**inputs, **options)[:, inputs.input_ids.shape[1] :]
    return int((written != pad).sum()) / (time.process_time() - start)


def parse_and_grade() -> None:
    """Completions parsed, and answers graded, a second."""
    texts = [prompts.response_text(f"{n}+{n}={2 * n}", str(2 * n), "0.7") for n in range(20_000)]
    took = seconds(lambda: [parser.parse(text) for text in texts])
    hostile = "<" * 1_000_000
    print(
        f"parser: {len(texts) / took:,.0f} completions/s; "
        f"1 MB of '<' in {seconds(lambda: parser.parse(hostile)):.3f} s"
    )
    numbers = [str(n) for n in range(5_000)]
    print(f"grader, literal: {graded_a_second(numbers, numbers):,.0f} answers/s")
    fractions = [(f"{n}/7", rf"\frac{{{n}}}{{7}}") for n in range(1_000)]
    print(f"grader, algebra: {graded_a_second(*zip(*fractions, strict=True)):,.0f} answers/s")


def graded_a_second(answers, golds) -> float:
    """Answers that one started worker grades a second."""
    with Grader() as grader:
        grader.grade(["1/2"], ["0.5"], ["math"])
        return len(answers) / seconds(lambda: grader.grade(answers, golds, ["math"] * len(answers)))


def sweep() -> None:
    """The whole cost-accuracy curve of a million records."""
    rng = np.random.default_rng(0)
    rows = 1_000_000
    stated = rng.random(rows)
    columns = (
        stated,
        rng.random(rows) < stated,
        rng.random(rows) < 0.8,
        rng.random(rows),
        5 * rng.random(rows),
    )
    whole = seconds(lambda: cascade.sweep(*columns))
    coarse = seconds(lambda: cascade.sweep(np.round(stated, 1), *columns[1:]))
    print(
        f"sweep of 1,000,000 records: {whole:.2f} s at a million thresholds, "
        f"{coarse:.2f} s at eleven"
    )


if __name__ == "__main__":
    set_verbosity_error()
    for benchmark in (parse_and_grade, sweep, generation, grpo_step):
        benchmark()
