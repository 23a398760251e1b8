"""On what a run runs, and how its models are spread over it."""

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
_LEAST = {"gpus": 0, "processes": 1, "micro_batch": 0, "lora_rank": 0}


@dataclass(frozen=True, slots=True)
class Compute:
    """The machine, and the ways in which models are trained and asked on it."""

    gpus: int = 0  # of one machine, each its own training process; 0 is the CPU
    processes: int = 1  # training processes on the CPU
    memory_gib: float = 0.0  # of one GPU
    engine: str = "transformers"  # what answers evaluation questions
    dtype: str = "float32"  # of frozen weights; trained ones are float32, or in mixed precision
    rollouts: str = "transformers"  # vLLM on the same GPUs is "colocate", `trl vllm-serve` "server"
    sharding: str = "none"  # how weights and optimizer are spread over the processes
    micro_batch: int = 0  # rollouts of one pass of a process; 0: all its share
    gradient_checkpointing: bool = False
    lora_rank: int = 0  # of the adapter that is trained; 0: all weights are
    vllm_memory: float = 0.3  # share of a GPU that vLLM may fill beside training

    def __post_init__(self):
        for name, allowed in _ALLOWED.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        if not 0 < self.vllm_memory < 1:
            raise ValueError(f"vllm_memory={self.vllm_memory} must be between 0 and 1")
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
        """(rollouts of one pass of a process, passes per step), if a step's divide evenly."""
        share, left = divmod(rollouts, self.training_processes)
        if left:
            raise ValueError(
                f"{rollouts} rollouts a step cannot be dealt out to {self.training_processes} "
                f"processes; use {_divisors(rollouts)} processes, or other questions_per_step"
            )
        size = self.micro_batch or share
        if share % size:
            raise ValueError(
                f"micro_batch={size} does not divide the {share} rollouts of a process; use one of "
                f"{_divisors(share)}"
            )
        return size, share // size

    def gpus_for(self, model: str | Path) -> int:
        """How many GPUs (1, 2, 4, ...) share a model's weights, to fill at most .6 of each."""
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
        """How `accelerate` starts the training processes; None for one, which is this process."""
        if self.training_processes == 1 and self.sharding == "none":
            return None
        name = "cpu" if self.use_cpu else "ddp" if self.sharding == "none" else self.sharding
        file, count = str(CONFIGURATIONS / f"{name}.yaml"), str(self.training_processes)
        return ["launch", "--config_file", file, "--num_processes", count]


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
