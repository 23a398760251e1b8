"""RLCC, reinforcement learning with confidence calibration: a thin layer over `trl.GRPOTrainer`.

TRL samples, normalises, and steps.  This room chooses its settings, hands it our rewards, watches the rollouts, refuses
to train on after a collapse, and makes a run that was killed at any moment go on as if it had not been.  The same code
runs in one process and in several (`accelerate launch`, see `corea.support.processes`), with all weights or a low-rank adapter.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from corea import parser, prompts
from corea._training_log import COMPLETE as COMPLETE
from corea._training_log import CollapseError as CollapseError
from corea._training_log import tidy_log
from corea.grader import Grader
from corea.questions.base import Question
from corea.rewards import RewardSpec, text_of
from corea.support import processes
from corea.support.files import atomic_write, git_commit, settings_hash, sha256_of
from corea.support.hardware import Compute
from corea.support.models import revision_of

SETTINGS = "settings.json"
_SCALES = ("group", "batch", "none")
_AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")


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
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )

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


def train(
    base: str | Path,
    reward: RewardSpec,
    questions: Sequence[Question],
    settings: GRPOSettings,
    folder: str | Path,
    *,
    name: str = "run",
    compute: Compute | None = None,
    instruction: str | None = None,
    show_progress: bool = True,
) -> Run:
    """Train the model at `base` with a reward and return the finished run; does nothing where it is finished already.

    base: local folder or hub id.  questions: the training questions, whose ids must differ.  folder: where checkpoints,
    log and model go; a run cut off there goes on from its last whole checkpoint.  compute: by default one process on the
    CPU; launched by `accelerate`, every process calls this with the same arguments.  Raises ValueError where the folder
    holds a run made with other settings, CollapseError as said there.
    """
    from corea._callbacks import Watch

    folder, compute = Path(folder), compute or Compute()
    run = Run(name, folder, _hash(base, reward, questions, settings, compute, instruction))
    if _is_finished(run):
        return run
    with Grader() as grader:
        trainer = build_trainer(
            base, reward, questions, settings, folder, grader, compute, instruction
        )
        if processes.rank() == 0:
            with atomic_write(folder / SETTINGS) as file:
                json.dump({"run": name, "settings": run.settings}, file)
            _remove_cut_off(folder)
        processes.wait()
        trainer.add_callback(Watch(name, settings.steps, show_progress and processes.rank() == 0))
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    _finish(run, trainer, base, compute)
    return run


def _hash(
    base, reward, questions, settings: GRPOSettings, compute: Compute, instruction: str | None
) -> str:
    """The hash of all that a run's result is made from; how it is spread over processes is not among it."""
    made_of = {"base": fingerprint(base), "reward": reward, "settings": settings.made_of(), "instruction": instruction,
               "questions": [(q.id, q.text, q.gold) for q in questions]}  # fmt: skip
    if compute.lora_rank or compute.dtype != "float32":
        made_of["arithmetic"] = [compute.lora_rank, compute.dtype]
    return settings_hash(made_of)


def build_trainer(
    base: str | Path,
    reward: RewardSpec,
    questions: Sequence[Question],
    settings: GRPOSettings,
    folder: str | Path,
    grader: Grader,
    compute: Compute | None = None,
    instruction: str | None = None,
):
    """The `trl.GRPOTrainer` that `train` runs, with our rewards and their weights."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from corea._callbacks import MarkWhole

    compute = compute or Compute()
    # Before the model is loaded: ZeRO-3 loads it in parts, and learns from the arguments that it should.
    arguments = _arguments(settings, [*reward.weights, 0.0], Path(folder), compute)
    trainer = GRPOTrainer(
        model=_trained_model(base, compute),
        processing_class=prompts.load_tokenizer(base),
        reward_funcs=[*reward.functions(settings.num_generations, grader), RolloutWatch(grader)],
        args=arguments,
        train_dataset=training_set(questions, instruction),
        callbacks=[MarkWhole()],
        peft_config=_adapter(compute),
    )
    trainer.remove_callback(PrinterCallback)  # `Watch` shows progress in one line
    return trainer


def _trained_model(base: str | Path, compute: Compute):
    """The model to be trained: its own weights in float32, or frozen ones under an adapter in the profile's dtype."""
    from corea.engines.loading import load_model

    return load_model(base, dtype=compute.dtype if compute.lora_rank else "float32")


def _adapter(compute: Compute):
    """PEFT's configuration of a low-rank adapter on every linear layer, scaled by 2; None without one."""
    if not compute.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=compute.lora_rank,
        lora_alpha=2 * compute.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def training_set(questions: Sequence[Question], instruction: str | None = None):
    """The `datasets.Dataset` TRL trains on: chat prompts, and the columns our rewards read."""
    from datasets import Dataset

    if len({q.id for q in questions}) < len(questions):
        raise ValueError(
            "training questions share an id; groups are found by id, so each must have its own"
        )
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


def _arguments(settings: GRPOSettings, weights: list[float], folder: Path, compute: Compute):
    from trl import GRPOConfig

    size, passes = compute.batch(settings.questions_per_step * settings.num_generations)
    return GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
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
        chat_template_kwargs=prompts.TEMPLATE_OPTIONS,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=compute.use_cpu,
        bf16=compute.dtype == "bfloat16",
        activation_checkpointing=compute.gradient_checkpointing,
        seed=settings.seed,
        **_rollout_arguments(compute),
    )


def _rollout_arguments(compute: Compute) -> dict:
    """TRL's settings for rollouts by vLLM; its server is looked for at COREA_ROLLOUTS, by default on this machine."""
    if compute.rollouts == "transformers":
        return {}
    found = {"use_vllm": True, "vllm_mode": compute.rollouts}
    if compute.rollouts == "colocate":
        return found | {
            "vllm_gpu_memory_utilization": compute.vllm_memory,
            "vllm_enable_sleep_mode": True,
        }
    return found | {
        "vllm_server_base_url": os.environ.get("COREA_ROLLOUTS", "http://127.0.0.1:8000")
    }


@dataclass(frozen=True)
class RolloutWatch:
    """A reward of weight zero that logs what TRL does not: stated confidences, their entropy in nats, group accuracy.

    Group accuracy is the share of questions that at least one rollout got right: without one, a group has no
    correctness signal.  All are taken over the rollouts of every process.
    """

    grader: Grader
    __name__ = "watch"

    def __call__(
        self, *, completions, question_id, gold, answer_type, log_metric=None, **kwargs
    ) -> list[float]:
        responses = [parser.parse(text_of(completion)) for completion in completions]
        correct = self.grader.grade([r.answer for r in responses], gold, answer_type)
        own = [
            (q, right, r.confidence)
            for q, right, r in zip(question_id, correct, responses, strict=True)
        ]
        rows = processes.gathered(own)
        stated = [confidence for _, _, confidence in rows if confidence is not None]
        if log_metric is not None:
            solved = {q for q, right, _ in rows if right}
            log_metric("group_accuracy", len(solved) / len({q for q, _, _ in rows}))
            log_metric("confidence/mean", sum(stated) / max(1, len(stated)))
            shares = [count / len(stated) for count in Counter(stated).values()]
            log_metric("confidence/entropy", -sum(p * math.log(p) for p in shares))
        return [0.0] * len(completions)


def fingerprint(base: str | Path) -> str:
    """What names a model for good: the SHA-256 of its local weights, or the hub id and revision it is fetched by."""
    whole = Path(base) / "model.safetensors"
    if whole.exists():
        return sha256_of(whole)
    if parts := sorted(Path(base).glob("model-*-of-*.safetensors")):
        return settings_hash([sha256_of(part) for part in parts])
    revision = revision_of(base)
    return str(base) if revision is None else f"{base}@{revision}"


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


def _checkpoints(folder: Path) -> dict[int, Path]:
    return {
        int(path.name.split("-")[1]): path for path in (folder / "checkpoints").glob("checkpoint-*")
    }


def _remove_cut_off(folder: Path) -> None:
    """Drop checkpoints without a mark: they were cut off while being written."""
    for path in _checkpoints(folder).values():
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that bears its mark."""
    whole = {
        step: path for step, path in _checkpoints(folder).items() if (path / COMPLETE).exists()
    }
    return str(whole[max(whole)]) if whole else None


def _finish(run: Run, trainer, base: str | Path, compute: Compute) -> None:
    """Write model and log, mark the run finished, then drop its checkpoints."""
    weights = trainer.accelerator.get_state_dict(
        trainer.model_wrapped
    )  # gathered from all processes
    if processes.rank() == 0:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if compute.lora_rank:
            model.save_pretrained(run.folder / "adapter", state_dict=weights)
            _merge(base, run.folder / "adapter", compute).save_pretrained(run.model)
        else:
            model.save_pretrained(run.model, state_dict=weights)
        trainer.processing_class.save_pretrained(run.model)
        with atomic_write(run.folder / "log.csv") as file:
            tidy_log(trainer.state.log_history, run.name).to_csv(
                file, index=False, lineterminator="\n"
            )
        with atomic_write(run.folder / COMPLETE) as file:
            json.dump({"run": run.name, "settings": run.settings, "commit": git_commit()[0]}, file)
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    processes.wait()


def _merge(base: str | Path, adapter: Path, compute: Compute):
    """The base model with an adapter added into its weights, so that engines need not know of adapters."""
    from peft import PeftModel

    return PeftModel.from_pretrained(_trained_model(base, compute), adapter).merge_and_unload()


def run_settings(folder: str | Path) -> str:
    """The settings hash of a finished run."""
    return json.loads((Path(folder) / COMPLETE).read_text())["settings"]
