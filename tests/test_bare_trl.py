"""The rewards in bare TRL, its trainer and its command line: one real step each."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import pytest
import trl
from trl.scripts import grpo as trl_grpo

import corea
from tests import ten_lines, tiny

SMALL = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 1,
    "save_strategy": "no",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("tiny"))


def write_questions(path: Path) -> None:
    rows = [{"question": f"{n}+1=?", "answer": str(n + 1)} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rewards_of(history: list[dict]) -> dict[str, float]:
    """The mean of each reward in the first step, by the name TRL logs it under."""
    names = {key.split("/")[1]: key for key in history[0] if key.endswith("/mean")}
    return {name: history[0][key] for name, key in names.items() if key.startswith("rewards/")}


def test_the_ten_lines_that_train(base, tmp_path, monkeypatch):
    write_questions(tmp_path / "questions.jsonl")
    monkeypatch.chdir(tmp_path)
    config = functools.partial(trl.GRPOConfig, output_dir="out", report_to=[], **SMALL)
    monkeypatch.setattr(trl, "GRPOConfig", config)
    made: list[trl.GRPOTrainer] = []

    class Kept(trl.GRPOTrainer):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr(trl, "GRPOTrainer", Kept)
    training = ten_lines.halves()[0]
    assert "Qwen/Qwen2.5-1.5B-Instruct" in training
    exec(training.replace("Qwen/Qwen2.5-1.5B-Instruct", str(base)), {})
    paid = rewards_of(made[0].state.log_history)
    assert set(paid) == {"correctness_reward", "format_reward", "confidence_reward"}
    assert all(math.isfinite(value) for value in paid.values())


def test_a_partial_is_logged_under_the_name_of_its_function(base, tmp_path):
    write_questions(tmp_path / "questions.jsonl")
    brier = functools.partial(corea.confidence_reward, distance="l2", target="sample")
    trainer = trl.GRPOTrainer(
        str(base),
        reward_funcs=[brier],
        train_dataset=corea.training_set(tmp_path / "questions.jsonl"),
        args=trl.GRPOConfig(output_dir=str(tmp_path / "out"), report_to=[], **SMALL),
    )
    trainer.train()
    assert rewards_of(trainer.state.log_history) == {"confidence_reward": -1}  # it states nothing


def test_trls_command_line_takes_them_by_their_dotted_names(base, tmp_path, monkeypatch):
    """On a set with the columns most sets have: prompt and answer."""
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}+1=?"}], "answer": str(n + 1)}
        for n in range(8)
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    histories: list[list[dict]] = []
    train = trl.GRPOTrainer.train

    def kept(self, *given, **named):
        result = train(self, *given, **named)
        histories.append(self.state.log_history)
        return result

    monkeypatch.setattr(trl.GRPOTrainer, "train", kept)
    names = ["correctness_reward", "format_reward", "confidence_reward"]
    options = SMALL | {"model_name_or_path": base, "report_to": "none"}
    options |= {"dataset_name": tmp_path / "set", "output_dir": tmp_path / "out"}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    parser = trl_grpo.make_parser()
    given = [*words, "--reward_funcs", *(f"corea.rewards.{name}" for name in names)]
    trl_grpo.main(*parser.parse_args_and_config(given)[:4])
    assert set(rewards_of(histories[0])) == set(names)
