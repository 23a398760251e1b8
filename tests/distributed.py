"""What several processes run in the tests: one's share of rewards, and of a real run.

`python -m tests.distributed rewards FOLDER` in each process (RANK, WORLD_SIZE and an address
set), or under `accelerate launch`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from corea import _training_log, grpo
from corea.grader import Grader
from corea.paper.profiles import load_profile
from corea.prompts import response_text
from corea.questions.load import load_questions
from corea.rewards import REWARDS, confidence_reward
from corea.support import processes
from corea.support.hardware import Compute

GROUP = 4
SETTINGS = grpo.GRPOSettings(
    steps=2,
    questions_per_step=3,
    num_generations=GROUP,
    learning_rate=1e-3,
    beta=0.03,
    max_completion_length=32,
    warmup_steps=0,
    save_steps=1,
)


def rollouts() -> list[dict]:
    """Twelve rollouts of three questions, each right in another share, one that states nothing."""
    rows = []
    for q in range(3):
        for n in range(GROUP):
            said = response_text(
                "", str(q) if n <= q else "x", "" if (q, n) == (1, 2) else f"0.{n + 2 * q}"
            )
            rows.append(
                {"question_id": f"q{q}", "gold": str(q), "answer_type": "math", "completion": said}
            )
    return rows


def share(rows: list) -> list:
    """This process's rows, as TRL deals them out: a part of the whole, one after the other."""
    size = len(rows) // processes.launched()
    return rows[processes.rank() * size : (processes.rank() + 1) * size]


def columns(rows: list[dict]) -> dict:
    """Rows as a reward gets them."""
    found = {key: [row[key] for row in rows] for key in ("question_id", "gold", "answer_type")}
    return found | {"completions": [row["completion"] for row in rows]}


def rewards(folder: Path, rows: list[dict]) -> None:
    """Write this process's rewards, as exact hexadecimal numbers, and what it logs."""
    import torch

    torch.distributed.init_process_group("gloo")
    logged: dict[str, str] = {}
    with Grader() as grader:
        given = columns(share(rows))
        found = [
            [
                x.hex()
                for x in confidence_reward(
                    **given, distance=distance, target=target, num_generations=GROUP, grader=grader
                )
            ]
            for distance, target in (("l1", "group"), ("l2", 0.25), ("kl", "group"))
        ]
        _training_log.log_rollouts(
            **given, log_metric=lambda name, value: logged.update({name: float(value).hex()})
        )
    write(folder, {"rewards": found, "logged": logged})
    torch.distributed.destroy_process_group()


def write(folder: Path, what: object) -> None:
    """One file for each process."""
    (folder / f"{processes.rank()}.json").write_text(json.dumps(what))


def train(folder: Path, compute: Compute) -> None:
    """A real run of two steps that keeps what the confidence reward was given and gave here."""
    kept: list[dict] = []

    class Kept:
        __name__ = "confidence_reward"

        def __init__(self, reward):
            self.reward = reward

        def __call__(self, **given):
            found = self.reward(**given)
            row = {key: given[key] for key in ("question_id", "gold", "answer_type")}
            row["texts"] = [c[-1]["content"] for c in given["completions"]]
            kept.append(row | {"found": [x.hex() for x in found]})
            return found

    class Spec(type(REWARDS["L1"])):
        def functions(self, num_generations):
            assert num_generations == GROUP, "runs of our own know the size of their groups"
            *others, confidence = super().functions(num_generations)
            return [*others, Kept(confidence)]

    base = load_profile("cpu").slm
    questions = load_questions("drill", "train", size=12)
    grpo.train(
        base,
        questions,
        folder / "run",
        reward=Spec(),
        settings=SETTINGS,
        compute=compute,
        instruction=None,
        show_progress=False,
    )
    write(folder, kept)


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "rewards":
        rewards(where, rollouts())
    elif what == "broken":
        rewards(where, rollouts()[:-2])  # 4, 4, 2: whole groups of two, not of four
    elif what == "train":
        train(where, Compute(processes=processes.launched(), micro_batch=int(sys.argv[3])))
