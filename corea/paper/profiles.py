"""Settings of each profile, one small typed object each; unknown names and keys are refused.

`cpu` runs the whole paper on a laptop; `smoke` walks the same path in minutes, its numbers mean
nothing. `paper` has the paper's models and question sets, for eight GPUs; `single-gpu` a smaller
pair of the same family, for one GPU of 24 GB. What the paper does not say (see the README) is our
choice: sampling, sizes, learning rate, KL weight, reward weights.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from corea.grpo import GRPOSettings
from corea.prompts import INSTRUCTION
from corea.support.files import checkout
from corea.support.hardware import Compute
from corea.support.models import HUB_MODELS

ROOT = checkout() or Path.cwd()  # without a checkout, profiles write into the current folder
# What a result depends on, written out by name: a field that is added leaves old hashes alone.
_HASHED = (
    "name", "train_size", "calibration_size", "in_domain_size", "ood_size", "samples", "resamples",
    "temperature", "max_new_tokens", "seed", "instruction",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to run the paper.

    Attributes:
        slm, llm: model folders or hub ids.
        train_size, ...: numbers of questions; None for all there are.
        samples: completions per question in every evaluation, drawn at `temperature`.
        suite: the question sets, of `corea.questions.base.SUITES`.
        backbones: hub models that are ablated in the SLM's place.
        compute: the machine.
        root: folder that holds `data/` and `figures/`.
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

    @property
    def figures(self) -> Path:
        """Tables and figures of this profile."""
        return Path(self.root) / "figures" / self.name

    def reference(self) -> Profile:
        """The same profile, reading the tracked reference run instead of one made here."""
        return dataclasses.replace(self, root=str(ROOT), data_folder="data/reference")

    def settings(self) -> dict:
        """What a result depends on, without the paths of this machine.

        Weights of the mini world have hashes of their own; a hub model is told by its id.
        """
        settings = {name: getattr(self, name) for name in _HASHED}
        settings["grpo"] = self.grpo.hashed() | {"aggregation": self.grpo.aggregation}
        settings["use_cpu"] = self.compute.use_cpu
        if self.suite != "mini":
            settings |= {name: getattr(self, name) for name in ("suite", "slm", "llm")}
            settings["compute"] = self.compute.changes()
        return settings

    def replace(self, **changes) -> Profile:
        """A copy with some settings changed; an unknown key is refused by name."""
        known = sorted(field.name for field in dataclasses.fields(self))
        if unknown := sorted(set(changes) - set(known)):
            raise ValueError(
                f"unknown setting {unknown[0]!r} for a profile; use one of {', '.join(known)}"
            )
        return dataclasses.replace(self, **changes)


_CPU = Profile(
    name="cpu",
    slm="data/base/slm",
    llm="data/base/llm",
    grpo=GRPOSettings(
        steps=200, questions_per_step=32, num_generations=8, learning_rate=2e-4, beta=0.03,
        max_completion_length=96,
    ),
    train_size=8000,
    calibration_size=800,
    in_domain_size=500,
    ood_size=300,
    samples=4,
    resamples=1000,
)  # fmt: skip
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

# Not run here for want of GPUs; `make plan PROFILE=paper` says what a run would take.
_PAPER = Profile(
    name="paper",
    slm="Qwen/Qwen2.5-7B-Instruct",
    llm="Qwen/Qwen2.5-32B-Instruct",
    grpo=GRPOSettings(
        steps=250, questions_per_step=64, num_generations=8, learning_rate=1e-6, beta=0.001,
        max_completion_length=2048, warmup_steps=10, save_steps=10,
    ),
    train_size=16_000,
    calibration_size=500,
    in_domain_size=500,
    ood_size=None,
    samples=4,
    resamples=1000,
    max_new_tokens=2048,
    batch_size=16,  # only of the probe's forward passes, which keep the states of every layer
    instruction=INSTRUCTION,
    suite="paper",
    backbones=("Qwen/Qwen2.5-1.5B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    compute=Compute(
        gpus=8, memory_gib=80, engine="vllm", dtype="bfloat16", rollouts="colocate",
        sharding="fsdp2", micro_batch=4, gradient_checkpointing=True,
    ),
)  # fmt: skip
_SINGLE_GPU = dataclasses.replace(
    _PAPER,
    name="single-gpu",
    slm="Qwen/Qwen2.5-1.5B-Instruct",
    llm="Qwen/Qwen2.5-7B-Instruct",
    grpo=dataclasses.replace(
        _PAPER.grpo, steps=200, questions_per_step=16, learning_rate=1e-5,
        max_completion_length=1024,
    ),
    train_size=3_200,
    calibration_size=300,
    in_domain_size=300,
    ood_size=200,
    samples=2,
    max_new_tokens=1024,
    backbones=(),  # Llama-3.1-8B has no room beside its training on 24 GB
    compute=Compute(
        gpus=1, memory_gib=24, engine="vllm", dtype="bfloat16", rollouts="colocate",
        micro_batch=8, gradient_checkpointing=True, lora_rank=32, vllm_memory=0.35,
    ),
)  # fmt: skip
PROFILES = {profile.name: profile for profile in (_CPU, _SMOKE, _PAPER, _SINGLE_GPU)}


def load_profile(name: str) -> Profile:
    """The profile of that name, its paths under the checkout or under the folder in `COREA_ROOT`.

    Raises:
        ValueError: if the name is unknown, or the profile is of the mini world and there is no
            checkout to read its weights from.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; use one of {', '.join(sorted(PROFILES))}")
    profile = PROFILES[name]
    if checkout() is None and profile.suite == "mini":
        raise ValueError(
            f"profile {name!r} reads the base models in data/base of a checkout, and this library "
            "is installed without one; clone the repository and run `make paper` there"
        )
    slm, llm = (m if m in HUB_MODELS else str(ROOT / m) for m in (profile.slm, profile.llm))
    root = os.environ.get("COREA_ROOT", profile.root)
    return dataclasses.replace(profile, slm=slm, llm=llm, root=root)


def _check_machine(profile: Profile) -> None:
    """Raise ValueError if this machine has fewer GPUs than the profile, or smaller ones."""
    import torch

    count, compute = torch.cuda.device_count(), profile.compute
    memories = [torch.cuda.get_device_properties(n).total_memory / 2**30 for n in range(count)]
    enough = [memory >= 0.9 * compute.memory_gib for memory in memories[: compute.gpus]]
    if sum(enough) < compute.gpus:
        here = ", ".join(f"{memory:.0f} GiB" for memory in memories) or "none"
        raise ValueError(
            f"profile {profile.name!r} is for {compute.gpus} GPUs of {compute.memory_gib:g} GB, "
            f"and this machine has {here}; `make plan PROFILE={profile.name}` says what it takes, "
            "`make paper` without a PROFILE runs the mini world on the CPU"
        )


if __name__ == "__main__":
    try:
        _check_machine(load_profile(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
