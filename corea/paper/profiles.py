"""Settings of each profile, one small typed object each; unknown names and keys are refused.

`cpu` runs the whole paper on a laptop, `smoke` walks the same path in a few minutes for tests: its numbers mean nothing.
`paper` has the paper's models and question sets, for a machine with eight GPUs; `single-gpu` a smaller pair of the same family,
for one GPU of 24 GB.  What the paper does not say (see the README) is our choice: sampling, sizes, learning rate, KL weight,
reward weights.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from corea.grpo import GRPOSettings
from corea.prompts import INSTRUCTION
from corea.rewards import REWARDS, RewardSpec
from corea.support.files import checkout
from corea.support.hardware import Compute
from corea.support.models import HUB_MODELS

ROOT = (
    checkout() or Path.cwd()
)  # installed without a checkout, the current folder holds what profiles write


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to run the paper.

    slm, llm: model folders or hub ids.  suite: the question sets, of `tasks.SUITES`.  Sizes are numbers of questions, None for
    all there are; `samples` are completions a question in every evaluation, drawn at `temperature`.  backbones:
    hub models that are ablated in the SLM's place.  compute: the machine.  `root` holds `data/` and `figures/`.
    """

    name: str
    slm: str
    llm: str
    grpo: GRPOSettings
    train_size: int
    calibration_size: int
    in_domain_size: int
    ood_size: int | None
    samples: int
    resamples: int
    temperature: float = 1.0
    max_new_tokens: int = 96
    batch_size: int = 256
    seed: int = 0
    instruction: str | None = None
    suite: str = "mini"
    backbones: tuple[str, ...] = ()
    compute: Compute = field(default_factory=Compute)
    root: str = str(ROOT)
    data_folder: str = "data"

    @property
    def data(self) -> Path:
        """Runs, records and executed notebooks of this profile."""
        return Path(self.root) / self.data_folder / self.name

    def reference(self) -> Profile:
        """The same profile, reading the tracked reference run in place of one made here."""
        return dataclasses.replace(self, root=str(ROOT), data_folder="data/reference")

    @property
    def figures(self) -> Path:
        """Tables and figures of this profile."""
        return Path(self.root) / "figures" / self.name

    def run_folder(self, system: str) -> Path:
        """Where the training run of a system lies."""
        return self.data / "runs" / system

    def records_path(self, system: str, dataset: str) -> Path:
        """The records of one system on one dataset ("calibration" is the calibration split)."""
        return self.data / "records" / system / f"{dataset}.parquet"

    def settings(self) -> dict:
        """The settings without the paths of this machine: what a result depends on."""
        aside = ("root", "data_folder", "slm", "llm", "batch_size", "suite", "backbones", "compute")
        kept = {key: value for key, value in dataclasses.asdict(self).items() if key not in aside}
        return kept | {"use_cpu": self.compute.use_cpu} | self._of_the_hub()

    def _of_the_hub(self) -> dict:
        """What tells a profile of hub models from others; nothing for the mini world, whose weights have their own hashes."""
        if self.suite == "mini":
            return {}
        return {
            "suite": self.suite,
            "slm": self.slm,
            "llm": self.llm,
            "compute": self.compute.changes(),
        }

    def replace(self, **changes) -> Profile:
        """A copy with some settings changed; an unknown key is refused by name."""
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(
                f"unknown setting {unknown[0]!r} for a profile; use one of {', '.join(sorted(known))}"
            )
        return dataclasses.replace(self, **changes)


# The trained systems differ in their reward alone.
TRAINED: dict[str, RewardSpec] = {
    "RLVR-SLM": REWARDS["RLVR"],
    "Brier-SLM": REWARDS["Brier"],
    "L1-SLM": REWARDS["L1"],
}
SYSTEMS = ("SLM", *TRAINED, "LLM")

_CPU = Profile(
    name="cpu",
    slm="data/base/slm",
    llm="data/base/llm",
    grpo=GRPOSettings(
        steps=200,
        questions_per_step=32,
        num_generations=8,
        learning_rate=2e-4,
        beta=0.03,
        max_completion_length=96,
    ),
    train_size=8000,
    calibration_size=800,
    in_domain_size=500,
    ood_size=300,
    samples=4,
    resamples=1000,
)
_SMOKE = dataclasses.replace(
    _CPU,
    name="smoke",
    grpo=dataclasses.replace(
        _CPU.grpo, steps=4, questions_per_step=4, num_generations=4, save_steps=2
    ),
    train_size=64,
    calibration_size=48,
    in_domain_size=32,
    ood_size=16,
    samples=2,
    resamples=50,
)

# The paper's models and sets.  Not run here for want of GPUs; `make plan PROFILE=paper` says what a run would take.
_PAPER = Profile(
    name="paper",
    slm="Qwen/Qwen2.5-7B-Instruct",
    llm="Qwen/Qwen2.5-32B-Instruct",
    grpo=GRPOSettings(
        steps=250,
        questions_per_step=64,
        num_generations=8,
        learning_rate=1e-6,
        beta=0.001,
        max_completion_length=2048,
        warmup_steps=10,
        save_steps=10,
    ),
    train_size=16_000,
    calibration_size=500,
    in_domain_size=500,
    ood_size=None,
    samples=4,
    resamples=1000,
    max_new_tokens=2048,
    batch_size=16,  # of the probe's forward passes, which keep every layer's states; vLLM batches by itself
    instruction=INSTRUCTION,
    suite="paper",
    backbones=("Qwen/Qwen2.5-1.5B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    compute=Compute(
        gpus=8, memory_gib=80, engine="vllm", dtype="bfloat16", rollouts="colocate", sharding="fsdp2", micro_batch=4,
        gradient_checkpointing=True,
    ),
)  # fmt: skip
_SINGLE_GPU = dataclasses.replace(
    _PAPER,
    name="single-gpu",
    slm="Qwen/Qwen2.5-1.5B-Instruct",
    llm="Qwen/Qwen2.5-7B-Instruct",
    grpo=dataclasses.replace(
        _PAPER.grpo, steps=200, questions_per_step=16, learning_rate=1e-5, max_completion_length=1024
    ),
    train_size=3_200,
    calibration_size=300,
    in_domain_size=300,
    ood_size=200,
    samples=2,
    max_new_tokens=1024,
    backbones=(),  # Llama-3.1-8B has no room beside its training on 24 GB
    compute=Compute(
        gpus=1, memory_gib=24, engine="vllm", dtype="bfloat16", rollouts="colocate", micro_batch=8,
        gradient_checkpointing=True, lora_rank=32, vllm_memory=0.35,
    ),
)  # fmt: skip
PROFILES = {profile.name: profile for profile in (_CPU, _SMOKE, _PAPER, _SINGLE_GPU)}


def load_profile(name: str) -> Profile:
    """The profile of that name, its paths under the checkout or under the folder in `COREA_ROOT`.

    Raises ValueError for an unknown name, and for a profile of the mini world where there is no checkout to read its weights from.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; use one of {', '.join(sorted(PROFILES))}")
    profile = PROFILES[name]
    if checkout() is None and profile.suite == "mini":
        raise ValueError(
            f"profile {name!r} reads the base models in data/base of a checkout, and this library is installed without one; "
            "clone the repository and run `make paper` there, or `pip install -e .` in it"
        )
    return dataclasses.replace(
        profile,
        slm=_place(profile.slm),
        llm=_place(profile.llm),
        root=os.environ.get("COREA_ROOT", profile.root),
    )


def _place(model: str) -> str:
    """A hub id as it is; a folder of the checkout as a path."""
    return model if model in HUB_MODELS else str(ROOT / model)


def check_machine(profile: Profile) -> None:
    """Raise ValueError, with what else to do, where this machine has fewer GPUs than the profile, or smaller ones."""
    import torch

    found = [
        torch.cuda.get_device_properties(n).total_memory / 2**30
        for n in range(torch.cuda.device_count())
    ]
    wanted = profile.compute
    if len(found) < wanted.gpus or any(
        memory < 0.9 * wanted.memory_gib for memory in found[: wanted.gpus]
    ):
        here = ", ".join(f"{memory:.0f} GiB" for memory in found) or "none"
        raise ValueError(
            f"profile {profile.name!r} is for {wanted.gpus} GPUs of {wanted.memory_gib:g} GB, and this machine has {here}; `make plan "
            f"PROFILE={profile.name}` says what it takes, `make paper` alone runs the mini world on the CPU"
        )


if __name__ == "__main__":
    try:
        check_machine(load_profile(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
