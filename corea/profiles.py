"""Settings of each profile, one small typed object each; unknown names and keys are refused.

`cpu` runs the whole paper on a laptop, `smoke` walks the same path in a few minutes for tests: its numbers mean nothing.
What the paper does not say (see the README) is our choice: sampling, sizes, learning rate, KL weight, reward weights.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from corea.grpo import GRPOSettings
from corea.rewards import REWARDS, RewardSpec

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to run the paper.

    slm, llm: model folders or hub ids.  Sizes are numbers of questions; `samples` are completions a question in every
    evaluation, drawn at `temperature`.  `root` holds `data/` and `figures/`.
    """

    name: str
    slm: str
    llm: str
    grpo: GRPOSettings
    train_size: int
    calibration_size: int
    in_domain_size: int
    ood_size: int
    samples: int
    resamples: int
    temperature: float = 1.0
    max_new_tokens: int = 96
    batch_size: int = 256
    seed: int = 0
    instruction: str | None = None
    use_cpu: bool = True
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
        kept = dataclasses.asdict(self)
        return {key: value for key, value in kept.items() if key not in ("root", "data_folder", "slm", "llm", "batch_size")}

    def replace(self, **changes) -> Profile:
        """A copy with some settings changed; an unknown key is refused by name."""
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"unknown setting {unknown[0]!r} for a profile; use one of {', '.join(sorted(known))}")
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
    grpo=dataclasses.replace(_CPU.grpo, steps=4, questions_per_step=4, num_generations=4, save_steps=2),
    train_size=64,
    calibration_size=48,
    in_domain_size=32,
    ood_size=16,
    samples=2,
    resamples=50,
)
PROFILES = {profile.name: profile for profile in (_CPU, _SMOKE)}


def load_profile(name: str) -> Profile:
    """The profile of that name, its paths under the checkout or under the folder in `COREA_ROOT`."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; use one of {', '.join(sorted(PROFILES))}")
    profile = PROFILES[name]
    return dataclasses.replace(
        profile,
        slm=str(ROOT / profile.slm),
        llm=str(ROOT / profile.llm),
        root=os.environ.get("COREA_ROOT", profile.root),
    )
