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


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def grpo_step() -> None:
    """A step of our layer against bare `trl.GRPOTrainer` with a constant reward, all else equal."""
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
        times = [(seconds(ours().train), seconds(bare().train)) for _ in range(PAIRS)]
    ratios = [a / b for a, b in times]
    ours_s, bare_s = (statistics.median(column) / STEPS for column in zip(*times, strict=True))
    print(
        f"GRPO step: ours {ours_s:.2f} s, bare TRL {bare_s:.2f} s, "
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
    """Tokens a second of both models, in the batches of `make paper`."""
    profile = load_profile("cpu")
    questions = load_questions("drill", "test", size=64)
    speeds = {}
    for system in ("SLM", "LLM"):
        engine = runs.engine_for(profile, system)
        engine.complete(questions[:4])
        start = time.perf_counter()
        groups = engine.complete(questions, samples=4)
        tokens = sum(c.completion_tokens for group in groups for c in group)
        speeds[system] = tokens / (time.perf_counter() - start)
    print(
        f"generation: SLM {speeds['SLM']:,.0f} tokens/s, LLM {speeds['LLM']:,.0f} tokens/s, "
        f"ratio {speeds['SLM'] / speeds['LLM']:.1f}"
    )


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
