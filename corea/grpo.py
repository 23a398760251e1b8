"""RLCC, reinforcement learning with confidence calibration: a thin layer over `trl.GRPOTrainer`.

TRL samples, normalises, and steps.  This room chooses its settings, hands it our rewards, watches the rollouts, refuses
to train on after a collapse, and makes a run that was killed at any moment go on as if it had not been.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from corea import parser, prompts
from corea.files import atomic_write, git_commit, settings_hash, sha256_of
from corea.grader import Grader
from corea.rewards import RewardSpec, text_of
from corea.tasks import Question

SETTINGS = "settings.json"
COMPLETE = "complete.json"  # written last, so a checkpoint or run without it was cut off while being written
_SCALES = ("group", "batch", "none")
_AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
_METRICS = {
    "rewards/correctness_reward/mean": "accuracy",
    "rewards/format_reward/mean": "format",
    "rewards/confidence_reward/mean": "confidence reward",
    "reward": "total reward",
    "confidence/mean": "mean confidence",
    "confidence/entropy": "confidence entropy",
    "group_accuracy": "group accuracy",
    "completions/mean_length": "completion tokens",
    "kl": "KL to base",
    "entropy": "token entropy",
}


@dataclass(frozen=True, slots=True)
class GRPOSettings:
    """What one RLCC run is made of, besides its reward.

    A step samples `num_generations` rollouts for each of `questions_per_step` questions.  `beta` weighs the KL to the base
    model; `scale_rewards` is TRL's ("group", "batch" or "none"), and so is `aggregation`: "sum_then_normalize", or
    "normalize_then_sum" to normalise each reward by itself.  None of these is known of the paper: they are ours.
    """

    steps: int
    questions_per_step: int
    num_generations: int
    learning_rate: float
    beta: float
    max_completion_length: int
    temperature: float = 1.0
    scale_rewards: str = "group"
    warmup_steps: int = 10
    save_steps: int = 25
    seed: int = 0
    aggregation: str = "sum_then_normalize"

    def __post_init__(self):
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations} makes no group to compare within; use 2 or more"
            )
        if min(self.steps, self.questions_per_step, self.save_steps) < 1:
            raise ValueError(
                f"steps={self.steps}, questions_per_step={self.questions_per_step} and "
                f"save_steps={self.save_steps} must all be 1 or more"
            )
        for name, allowed in (("scale_rewards", _SCALES), ("aggregation", _AGGREGATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")

    def made_of(self) -> dict:
        """The settings as a run's hash sees them: one that came later counts only where it is not at its default."""
        found = asdict(self)
        if self.aggregation == _AGGREGATIONS[0]:
            del found["aggregation"]
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run: where its model and log lie, and the hash of all that it was made from."""

    name: str
    folder: Path
    settings: str

    @property
    def model(self) -> Path:
        """Folder of the trained model and its tokenizer."""
        return self.folder / "model"

    def log(self) -> pd.DataFrame:
        """The training log: one row a step and metric (columns run, step, metric, value)."""
        return pd.read_csv(self.folder / "log.csv")


class CollapseError(RuntimeError):
    """Accuracy fell to nothing while the confidence reward rose: the model has learnt to fail with confidence 0."""


def train(
    base: str | Path,
    reward: RewardSpec,
    questions: Sequence[Question],
    settings: GRPOSettings,
    folder: str | Path,
    *,
    name: str = "run",
    use_cpu: bool = True,
    instruction: str | None = None,
    show_progress: bool = True,
) -> Run:
    """Train the model at `base` with a reward and return the finished run; does nothing where it is finished already.

    base: local folder or hub id.  questions: the training questions, whose ids must differ.  folder: where checkpoints,
    log and model go; a run cut off there goes on from its last whole checkpoint.  Raises ValueError where the folder holds
    a run made with other settings, CollapseError as said there.
    """
    folder = Path(folder)
    made_of = {"base": fingerprint(base), "reward": reward, "settings": settings.made_of(), "instruction": instruction,
               "questions": [(q.id, q.text, q.gold) for q in questions]}  # fmt: skip
    run = Run(name, folder, settings_hash(made_of))
    if _is_finished(run):
        return run
    with atomic_write(folder / SETTINGS) as file:
        json.dump({"run": name, "settings": run.settings}, file)
    with Grader() as grader:
        trainer = build_trainer(base, reward, questions, settings, folder, grader, use_cpu, instruction)
        trainer.add_callback(_Watch(name, settings.steps, show_progress))
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    _finish(run, trainer)
    return run


def build_trainer(
    base: str | Path,
    reward: RewardSpec,
    questions: Sequence[Question],
    settings: GRPOSettings,
    folder: str | Path,
    grader: Grader,
    use_cpu: bool = True,
    instruction: str | None = None,
):
    """The `trl.GRPOTrainer` that `train` runs, with our rewards and their weights."""
    from trl import GRPOTrainer

    from corea.engines import load_model

    trainer = GRPOTrainer(
        model=load_model(base),
        processing_class=prompts.load_tokenizer(base),
        reward_funcs=[*reward.functions(settings.num_generations, grader), RolloutWatch(grader)],
        args=_arguments(settings, [*reward.weights, 0.0], Path(folder), use_cpu),
        train_dataset=training_set(questions, instruction),
        callbacks=[_MarkWhole()],
    )
    trainer.remove_callback(PrinterCallback)  # `_Watch` shows progress in one line
    return trainer


def training_set(questions: Sequence[Question], instruction: str | None = None):
    """The `datasets.Dataset` TRL trains on: chat prompts, and the columns our rewards read."""
    from datasets import Dataset

    if len({q.id for q in questions}) < len(questions):
        raise ValueError("training questions share an id; groups are found by id, so each must have its own")
    return Dataset.from_list(
        [
            {
                "prompt": prompts.messages(q, instruction=instruction),
                "question_id": q.id,
                "gold": q.gold,
                "answer_type": q.answer_type,
            }
            for q in questions
        ]
    )


def _arguments(settings: GRPOSettings, weights: list[float], folder: Path, use_cpu: bool):
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.questions_per_step * settings.num_generations,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_completion_length,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        beta=settings.beta,
        scale_rewards=settings.scale_rewards,
        multi_objective_aggregation=settings.aggregation,
        reward_weights=weights,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=use_cpu,
        bf16=not use_cpu,
        activation_checkpointing=False,
        seed=settings.seed,
    )


@dataclass(frozen=True)
class RolloutWatch:
    """A reward of weight zero that logs what TRL does not: stated confidences, their entropy in nats, group accuracy.

    Group accuracy is the share of questions that at least one rollout got right: without one, a group has no
    correctness signal.
    """

    grader: Grader
    __name__ = "watch"

    def __call__(self, *, completions, question_id, gold, answer_type, log_metric=None, **kwargs) -> list[float]:
        responses = [parser.parse(text_of(completion)) for completion in completions]
        correct = self.grader.grade([r.answer for r in responses], gold, answer_type)
        stated = [r.confidence for r in responses if r.confidence is not None]
        if log_metric is not None:
            solved = {q for q, right in zip(question_id, correct, strict=True) if right}
            log_metric("group_accuracy", len(solved) / len(set(question_id)))
            log_metric("confidence/mean", sum(stated) / max(1, len(stated)))
            shares = [count / len(stated) for count in Counter(stated).values()]
            log_metric("confidence/entropy", -sum(p * math.log(p) for p in shares))
        return [0.0] * len(completions)


class _MarkWhole(TrainerCallback):
    """Leaves a mark in each checkpoint once all of it is on disk."""

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with atomic_write(folder / COMPLETE) as file:
            json.dump({"step": state.global_step}, file)


class _Watch(TrainerCallback):
    """Progress bar, and the alarm that stops a collapsed run."""

    def __init__(self, name: str, steps: int, show: bool):
        self.bar = tqdm(total=steps, desc=name, disable=not show, mininterval=5)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix({
            label: f"{logs[key]:.2f}" for key, label in _METRICS.items()
            if key in logs and label in ("accuracy", "mean confidence")
        })  # fmt: skip
        if (reason := collapse(tidy_log(state.log_history, "run"))) is not None:
            raise CollapseError(f"stopped at step {state.global_step}: {reason}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def collapse(log: pd.DataFrame, window: int = 20) -> str | None:
    """Why a training log shows a collapse, or None.

    A collapse: over the last `window` steps accuracy is under a fifth of what it was over the first `window`, while the
    confidence reward has risen.  Both at once, since "every answer wrong, confidence 0" earns a perfect confidence reward.
    """
    columns = log.pivot(index="step", columns="metric", values="value")
    if len(columns) < 2 * window or "confidence reward" not in columns:
        return None
    first, last = columns.iloc[:window].mean(), columns.iloc[-window:].mean()
    if last["accuracy"] >= first["accuracy"] / 5 or last["confidence reward"] <= first["confidence reward"]:
        return None
    return (
        f"accuracy fell from {first['accuracy']:.2f} to {last['accuracy']:.2f} while the confidence reward rose from "
        f"{first['confidence reward']:.2f} to {last['confidence reward']:.2f}; lower learning_rate or raise beta"
    )


def tidy_log(history: Sequence[dict], run: str) -> pd.DataFrame:
    """TRL's log history as one row a step and metric, under the names of this package."""
    rows = [
        (run, entry["step"], label, float(entry[key]))
        for entry in history
        for key, label in _METRICS.items()
        if key in entry
    ]
    return pd.DataFrame(rows, columns=["run", "step", "metric", "value"])


def fingerprint(base: str | Path) -> str:
    """What names a model for good: the SHA-256 of its local weights, or the hub id it is fetched by."""
    weights = Path(base) / "model.safetensors"
    return sha256_of(weights) if weights.exists() else str(base)


def _is_finished(run: Run) -> bool:
    mark = run.folder / SETTINGS
    if mark.exists():
        found = json.loads(mark.read_text())["settings"]
        if found != run.settings:
            raise ValueError(
                f"{run.folder} holds a run made with other settings ({found}, now {run.settings}); "
                "remove the folder or train into another"
            )
    return (run.folder / COMPLETE).exists()


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that bears its mark; those that do not were cut off, and are removed."""
    found = {int(p.name.split("-")[1]): p for p in (folder / "checkpoints").glob("checkpoint-*")}
    for path in found.values():
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    whole = [step for step, path in found.items() if path.exists()]
    return str(found[max(whole)]) if whole else None


def _finish(run: Run, trainer) -> None:
    """Write model and log, mark the run finished, then drop its checkpoints."""
    trainer.model.save_pretrained(run.model)
    trainer.processing_class.save_pretrained(run.model)
    with atomic_write(run.folder / "log.csv") as file:
        tidy_log(trainer.state.log_history, run.name).to_csv(file, index=False, lineterminator="\n")
    with atomic_write(run.folder / COMPLETE) as file:
        json.dump({"run": run.name, "settings": run.settings, "commit": git_commit()[0]}, file)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def run_settings(folder: str | Path) -> str:
    """The settings hash of a finished run."""
    return json.loads((Path(folder) / COMPLETE).read_text())["settings"]
