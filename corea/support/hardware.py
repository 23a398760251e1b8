"""On what a profile runs, and how its models are spread over it: what costs time and memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from corea.support.models import architecture_of

CONFIGURATIONS = Path(__file__).resolve().parent / "configurations"
_ALLOWED = {
    "engine": ("transformers", "vllm"),
    "dtype": ("float32", "bfloat16"),
    "rollouts": ("transformers", "colocate", "server"),
    "sharding": ("none", "fsdp2", "zero3"),
}


@dataclass(frozen=True, slots=True)
class Compute:
    """The machine and the ways to use it.

    gpus: of one machine, each its own training process; 0 is the CPU.  processes: training processes on the CPU.
    memory_gib: of one GPU.  engine: what answers evaluation questions.  dtype: of weights that are not trained; trained
    weights are float32, and with bfloat16 the arithmetic on them is mixed.  rollouts: who samples in training, the model
    itself ("transformers"), vLLM beside it on the same GPUs ("colocate") or `trl vllm-serve` ("server").  sharding: how
    weights and optimizer are spread over the processes.  micro_batch: rollouts of one forward and backward pass of a
    process, 0 for all its share at once.  lora_rank: train an adapter of that rank, 0 for all weights.
    vllm_memory: share of a GPU that vLLM may fill beside training.
    Raises ValueError for a setting out of range.
    """

    gpus: int = 0
    processes: int = 1
    memory_gib: float = 0.0
    engine: str = "transformers"
    dtype: str = "float32"
    rollouts: str = "transformers"
    sharding: str = "none"
    micro_batch: int = 0
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    vllm_memory: float = 0.3

    def __post_init__(self):
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        if (
            min(self.gpus, self.micro_batch, self.lora_rank, self.processes - 1) < 0
            or not 0 < self.vllm_memory < 1
        ):
            raise ValueError(
                f"gpus={self.gpus}, micro_batch={self.micro_batch} and lora_rank={self.lora_rank} must be 0 or more, "
                f"processes={self.processes} 1 or more, vllm_memory={self.vllm_memory} between 0 and 1"
            )
        if self.use_cpu and (self.rollouts != "transformers" or self.sharding != "none"):
            raise ValueError(
                f"rollouts={self.rollouts!r} and sharding={self.sharding!r} need gpus of 1 or more"
            )

    @property
    def use_cpu(self) -> bool:
        """Whether there is no GPU."""
        return self.gpus == 0

    @property
    def training_processes(self) -> int:
        """How many processes train side by side."""
        return self.gpus or self.processes

    def batch(self, rollouts: int) -> tuple[int, int]:
        """(rollouts of one pass of a process, passes a step) for the rollouts of a whole step.

        Raises ValueError, with what is allowed, where they cannot be dealt out evenly.
        """
        own, left = divmod(rollouts, self.training_processes)
        if left:
            raise ValueError(
                f"{rollouts} rollouts a step cannot be dealt out to {self.training_processes} processes; "
                f"use {_divisors(rollouts)} processes, or other questions_per_step"
            )
        size = self.micro_batch or own
        if own % size:
            raise ValueError(
                f"micro_batch={size} does not divide the {own} rollouts of a process; use one of {_divisors(own)}"
            )
        return size, own // size

    def gpus_for(self, model: str | Path) -> int:
        """How many GPUs share the weights of a model that answers: 1, 2, 4, ..., so that they fill three fifths of each at most."""
        weights = 2 * architecture_of(model).parameters / 2**30
        count = 1
        while weights / count > 0.6 * self.memory_gib and 2 * count <= self.gpus:
            count *= 2
        return count

    def changes(self) -> dict:
        """The settings that are not at their default."""
        default = asdict(Compute())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def launch_command(self) -> list[str] | None:
        """How `accelerate` starts the training processes; None where there is one alone, in this process."""
        if self.training_processes == 1 and self.sharding == "none":
            return None
        name = "cpu" if self.use_cpu else "ddp" if self.sharding == "none" else self.sharding
        return [
            "launch",
            "--config_file",
            str(CONFIGURATIONS / f"{name}.yaml"),
            "--num_processes",
            str(self.training_processes),
        ]


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
