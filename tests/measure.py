"""Times short real pieces of the cpu profile: `python -m tests.measure` writes `measured.json`.

For maintainers, two minutes on one thread.  The speeds it prints belong into the library's
`paper/assumptions.csv`; the tests of the plan compare its estimates with the rest.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import TrainerCallback

from corea import grpo
from corea.engines.loading import load_model
from corea.paper import runs
from corea.paper.plan import GIB
from corea.paper.profiles import Profile, load_profile
from corea.paper.variants import RUNS
from corea.questions.load import load_questions
from corea.support.files import atomic_write
from corea.support.hardware import Compute
from corea.support.models import architecture_of

MEASURED = Path(__file__).with_name("measured.json")
NOTE = "other work on the other cores"


def measure(profile: Profile, path: Path, steps: int = 8, questions: int = 128) -> dict:
    """Time pieces of a profile of mini models and write them to `path`; returns what was written.

    A forward pass of the SLM, `questions` questions to both models with the profile's samples (the
    median of three), and `steps` steps of training after two to warm up.  memory_gib is the process's peak so far.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {"forward SLM": forward(profile)}
    for system in ("SLM", "LLM"):
        found[f"generate {system}"] = sampling(profile, system, questions)
    found["train L1-SLM"] = training(profile, steps)
    torch.set_num_threads(before)
    result = circumstances() | {"stages": found}
    with atomic_write(path) as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    return result


def circumstances() -> dict:
    """Date, kind of machine and versions of a measured run."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "threads": 1,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "note": NOTE,
    }


def peak_gib() -> float:
    """The most memory that this process has taken so far, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 3)


def forward(profile: Profile, rows: int = 256, length: int = 64, times: int = 10) -> dict:
    """Forward passes over random tokens: what they are makes no difference to the time."""
    model = load_model(profile.slm)
    inputs = torch.randint(0, 256, (rows, length))
    with torch.no_grad():
        model(inputs)
        start = time.perf_counter()
        for _ in range(times):
            model(inputs)
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "prompt_tokens": rows * length * times,
        "memory_gib": peak_gib(),
    }


def sampling(profile: Profile, system: str, questions: int) -> dict:
    """Questions of the calibration split, asked three times after a few to warm up."""
    asked = load_questions("drill", "calibration", size=questions, seed=profile.seed)
    engine, times = runs.engine_for(profile, system), []
    engine.complete(asked[:8])
    for _ in range(3):
        start = time.perf_counter()
        completions = [
            c for group in engine.complete(asked, samples=profile.samples) for c in group
        ]
        times.append(time.perf_counter() - start)
    counts = {
        name: sum(getattr(c, name) for c in completions)
        for name in ("prompt_tokens", "completion_tokens")
    }
    return {
        "seconds": round(statistics.median(times), 3),
        "completions": len(completions),
        **counts,
        "memory_gib": peak_gib(),
    }


def training(profile: Profile, steps: int, warmup: int = 2) -> dict:
    """Steps of the real trainer, timed from the end of the last that warms up."""
    settings = dataclasses.replace(
        profile.grpo, steps=warmup + steps, save_steps=10 * (warmup + steps)
    )
    questions = load_questions(
        "drill", "train", size=settings.questions_per_step * settings.steps, seed=profile.seed
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = grpo.build_trainer(
            profile.slm, questions, folder, RUNS["L1-SLM"].reward, settings, Compute(), None
        )
        trainer.add_callback(clock)
        trainer.train()
    completions = steps * settings.questions_per_step * settings.num_generations
    seconds = round(clock.ends[-1] - clock.ends[warmup - 1], 3)
    return {
        "seconds": seconds,
        "steps": steps,
        "completions": completions,
        "memory_gib": peak_gib(),
    }


def speeds(stages: dict) -> tuple[float, float]:
    """GFLOPs of a forward pass and GB of keys and values while sampling, a second on one core.

    Both are the SLM's.  What its sampling took beyond the time of its products goes to float32 keys
    and values, which transformers reads and copies at each token.
    """
    arch = architecture_of(load_profile("cpu").slm)
    forward, sampling = stages["forward SLM"], stages["generate SLM"]
    flops = 2 * arch.parameters * forward["prompt_tokens"] / forward["seconds"]
    prompt, completion = sampling["prompt_tokens"], sampling["completion_tokens"]
    rest = sampling["seconds"] - 2 * arch.parameters * (prompt + completion) / flops
    before = (prompt + completion / 2) / sampling["completions"]
    cache = completion * before * 2 * arch.kv_bytes_per_token
    return flops / 1e9, cache / rest / 1e9


class Clock(TrainerCallback):
    """Keeps when each step of training ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        """Called by the trainer."""
        self.ends.append(time.perf_counter())


if __name__ == "__main__":
    gflops, bandwidth = speeds(measure(load_profile("cpu"), MEASURED)["stages"])
    print(f"{MEASURED}: written; cpu_gflops={gflops:.6g}, cpu_bandwidth={bandwidth:.6g}")
