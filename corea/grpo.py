"""RLCC, reinforcement learning with confidence calibration: a thin layer over `trl.GRPOTrainer`.

TRL samples, normalises and steps. This module chooses its settings, hands it our rewards, logs what
the rollouts state, and makes a run that was killed at any moment go on as if it had not been. The
same code runs in one process and in several (`accelerate launch`), with all weights or an adapter.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from corea import prompts
from corea._training_log import COMPLETE, CollapseError, log_rollouts, tidy_log
from corea.engines.loading import load_model
from corea.questions.base import Question
from corea.questions.load import load_jsonl
from corea.rewards import RewardSpec
from corea.support import processes
from corea.support.files import atomic_write, git_commit, settings_hash, sha256_of
from corea.support.hardware import Compute
from corea.support.models import REVISIONS

__all__ = ["COMPLETE", "CollapseError", "GRPOSettings", "Run", "train", "training_set"]
SETTINGS = "settings.json"
_ALLOWED = {
    "scale_rewards": ("group", "batch", "none"),
    "aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
_TRL: tuple[str, ...] = ("num_generations", "learning_rate", "beta", "max_completion_length")
_TRL += ("temperature", "scale_rewards", "warmup_steps", "save_steps", "seed")  # TRL's own names


@dataclass(frozen=True, slots=True)
class GRPOSettings:
    """What one RLCC run is made of, besides its reward. None of it is known of the paper."""

    steps: int = 200
    questions_per_step: int = 32
    num_generations: int = 8  # rollouts of each question of a step: a group
    learning_rate: float = 1e-6
    beta: float = 0.001  # weight of the KL divergence to the base model
    max_completion_length: int = 1024  # tokens of a rollout
    temperature: float = 1.0
    scale_rewards: str = "group"  # whose deviation divides advantages; or "batch" or "none"
    warmup_steps: int = 10
    save_steps: int = 25
    seed: int = 0
    aggregation: str = "sum_then_normalize"  # or "normalize_then_sum", each reward by itself

    def __post_init__(self):
        if (size := self.num_generations) < 2:
            raise ValueError(f"num_generations={size} makes no group; use 2 or more")
        if min(self.steps, self.questions_per_step, self.save_steps) < 1:
            raise ValueError("steps, questions_per_step and save_steps must all be 1 or more")
        for name, allowed in _ALLOWED.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")

    def hashed(self) -> dict:
        """What a run's hash is made from; a field that came later counts only if it is changed."""
        later = ["aggregation"] if self.aggregation != "sum_then_normalize" else []
        names = ["steps", "questions_per_step", *_TRL, *later]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run: where model and log lie, and the hash of all it was made from."""

    name: str
    folder: Path
    settings: str

    @property
    def model(self) -> Path:
        """Folder of the trained model and its tokenizer."""
        return self.folder / "model"

    def log(self) -> pd.DataFrame:
        """The training log: one row per step and metric (columns run, step, metric, value)."""
        return pd.read_csv(self.folder / "log.csv")


def train(
    base: str | Path,
    questions: str | Path | Sequence[Question],
    folder: str | Path,
    *,
    reward: RewardSpec = RewardSpec(),  # noqa: B008
    settings: GRPOSettings = GRPOSettings(),
    name: str = "run",
    compute: Compute | None = None,
    instruction: str | None = prompts.INSTRUCTION,
    show_progress: bool = True,
) -> Run:
    """Train a model by GRPO; a run that was cut off goes on, a finished one is returned at once.

    Args:
        base: local folder or hub id of the model.
        questions: as for `training_set`, as is `instruction`.
        folder: where checkpoints, log and model go.
        compute: by default one process on the CPU; of several, each makes the same call.

    Raises:
        ValueError: the folder holds a run made with other settings.
        CollapseError: accuracy fell to nothing while the confidence reward rose.
    """
    from corea._callbacks import MarkWhole, Watch

    folder, compute, questions = Path(folder), compute or Compute(), _loaded(questions)
    run = Run(name, folder, _hash(base, reward, questions, settings, compute, instruction))
    if _is_finished(run):
        return run
    trainer = build_trainer(base, questions, folder, reward, settings, compute, instruction)
    if processes.rank() == 0:
        _write_mark(run, SETTINGS)
        _remove_cut_off(folder)
    processes.wait()
    trainer.add_callback(MarkWhole())
    trainer.add_callback(Watch(name, settings.steps, show_progress and processes.rank() == 0))
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    _finish(run, trainer, base, compute)
    return run


def training_set(
    questions: str | Path | Sequence[Question], instruction: str | None = prompts.INSTRUCTION
):
    """The `datasets.Dataset` TRL trains on: chat prompts, and the columns our rewards read.

    Args:
        questions: a JSONL file as `load_jsonl` reads it, or questions; with gold answers.
        instruction: the system turn; None for a model that was taught the response format.

    Raises:
        ValueError: two questions share an id, or one has no gold answer.
    """
    from datasets import Dataset

    questions = _loaded(questions)
    if len({q.id for q in questions}) < len(questions):
        raise ValueError("training questions share an id; each needs its own, to find its group by")
    if missing := [q.id for q in questions if q.gold is None]:
        raise ValueError(f"training question {missing[0]!r} has no gold answer to reward by")
    columns = {
        "prompt": [prompts.messages(q, instruction=instruction) for q in questions],
        "question_id": [q.id for q in questions],
        "gold": [q.gold for q in questions],
        "answer_type": [q.answer_type for q in questions],
    }
    return Dataset.from_dict(columns)


def _loaded(questions: str | Path | Sequence[Question]) -> Sequence[Question]:
    return load_jsonl(questions) if isinstance(questions, (str, Path)) else questions


def _hash(base, reward, questions, settings, compute, instruction) -> str:
    """The hash of all a run is made from; how it is spread over processes is not among it."""
    made_of = {
        "base": fingerprint(base),
        "reward": reward.hashed(),
        "settings": settings.hashed(),
        "instruction": instruction,
        "questions": [(q.id, q.text, q.gold) for q in questions],
    }
    if compute.lora_rank or compute.dtype != "float32":
        made_of["arithmetic"] = [compute.lora_rank, compute.dtype]
    return settings_hash(made_of)


def build_trainer(base, questions, folder, reward, settings, compute, instruction):
    """The `trl.GRPOTrainer` that `train` runs, with our rewards and their weights."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    # Before the model is loaded: ZeRO-3 loads it in parts, and learns from the arguments to do so.
    arguments = _arguments(settings, [*reward.weights, 0.0], Path(folder), compute)
    trainer = GRPOTrainer(
        model=load_model(base, dtype=compute.dtype if compute.lora_rank else "float32"),
        processing_class=prompts.load_tokenizer(base),
        reward_funcs=[*reward.functions(settings.num_generations), log_rollouts],
        args=arguments,
        train_dataset=training_set(questions, instruction),
        peft_config=_adapter(compute.lora_rank) if compute.lora_rank else None,
    )
    trainer.remove_callback(PrinterCallback)  # `Watch` shows progress in one line
    return trainer


def _adapter(rank: int):
    """PEFT's low-rank adapter on every linear layer, scaled by 2."""
    from peft import LoraConfig

    where = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(r=rank, lora_alpha=2 * rank, **where)


def _arguments(settings: GRPOSettings, weights: list[float], folder: Path, compute: Compute):
    from trl import GRPOConfig

    size, passes = compute.batch(settings.questions_per_step * settings.num_generations)
    return GRPOConfig(
        **{name: getattr(settings, name) for name in _TRL},
        output_dir=str(folder / "checkpoints"),
        max_steps=settings.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        lr_scheduler_type="constant_with_warmup",
        multi_objective_aggregation=settings.aggregation,
        reward_weights=weights,
        save_total_limit=2,
        chat_template_kwargs=prompts.TEMPLATE_OPTIONS,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=compute.use_cpu,
        bf16=compute.dtype == "bfloat16",
        activation_checkpointing=compute.gradient_checkpointing,
        use_vllm=compute.rollouts != "transformers",
        vllm_mode="server" if compute.rollouts == "server" else "colocate",
        vllm_gpu_memory_utilization=compute.vllm_memory,
        vllm_enable_sleep_mode=True,
        vllm_server_base_url=os.environ.get("COREA_ROLLOUTS", "http://127.0.0.1:8000"),
    )


def fingerprint(base: str | Path) -> str:
    """What names a model for good: the SHA-256 of its local weights, or hub id and revision."""
    whole = Path(base) / "model.safetensors"
    if whole.exists():
        return sha256_of(whole)
    if parts := sorted(Path(base).glob("model-*-of-*.safetensors")):
        return settings_hash([sha256_of(part) for part in parts])
    revision = REVISIONS.get(str(base))
    return str(base) if revision is None else f"{base}@{revision}"


def _is_finished(run: Run) -> bool:
    mark = run.folder / SETTINGS
    if mark.exists() and (earlier := json.loads(mark.read_text())["settings"]) != run.settings:
        raise ValueError(
            f"{run.folder} holds a run made with other settings ({earlier}, now {run.settings}); "
            "remove the folder or train into another"
        )
    return (run.folder / COMPLETE).exists()


def _remove_cut_off(folder: Path) -> None:
    """Drop checkpoints without a mark: they were cut off while being written."""
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)


def _last_whole_checkpoint(folder: Path) -> str | None:
    whole = [path.parent for path in (folder / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _finish(run: Run, trainer, base: str | Path, compute: Compute) -> None:
    """Write model and log, mark the run finished, then drop its checkpoints."""
    from peft import PeftModel

    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # of all processes
    if processes.rank() == 0:
        adapter = run.folder / "adapter"
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        model.save_pretrained(adapter if compute.lora_rank else run.model, state_dict=weights)
        if compute.lora_rank:  # added into the base model: engines need not know of adapters
            whole = PeftModel.from_pretrained(load_model(base, dtype=compute.dtype), adapter)
            whole.merge_and_unload().save_pretrained(run.model)
        trainer.processing_class.save_pretrained(run.model)
        log = tidy_log(trainer.state.log_history, run.name)
        with atomic_write(run.folder / "log.csv") as file:
            log.to_csv(file, index=False, lineterminator="\n")
        _write_mark(run, COMPLETE, commit=git_commit()[0])
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    processes.wait()


def _write_mark(run: Run, file_name: str, **more: str) -> None:
    with atomic_write(run.folder / file_name) as file:
        json.dump({"run": run.name, "settings": run.settings, **more}, file)


def run_settings(folder: str | Path) -> str:
    """The settings hash of a finished run."""
    return json.loads((Path(folder) / COMPLETE).read_text())["settings"]
