"""Which runs there are, and which questions the ablations answer (`axes.csv`).

An ablation differs in what it names from `ANCHOR`: COREA's recipe, but on two fifths of the steps
and three quarters of the questions per step.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from corea.grpo import GRPOSettings
from corea.mini import pretrain
from corea.paper.profiles import PROFILES, Profile
from corea.rewards import REWARDS, RewardSpec

ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What one run is made of."""

    reward: RewardSpec | None = REWARDS["L1"]  # None for a base model, which only answers
    changes: dict = field(default_factory=dict)  # of `GRPOSettings`, against the anchor's
    base: str | None = None  # None for the profile's SLM, "LLM", of `pretrain.VARIANTS`, a hub id
    full: bool = False  # as long as the main runs, and asked as often

    def settings(self, profile: Profile) -> GRPOSettings:
        """The run's GRPO settings; another group size keeps the number of completions per step."""
        settings = replace(profile.grpo, **self.changes)
        if self.full:
            return settings
        steps = max(1, settings.steps * 2 // 5)
        completions = max(1, settings.questions_per_step * 3 // 4) * profile.grpo.num_generations
        questions = max(1, completions // settings.num_generations)
        return replace(settings, steps=steps, questions_per_step=questions)

    def samples(self, profile: Profile) -> int:
        """Completions per evaluation question: two for an ablation."""
        return profile.samples if self.full else min(2, profile.samples)


_BASES = (*pretrain.VARIANTS, *PROFILES["paper"].backbones)
# The trained systems differ only in their reward.
TRAINED = {"RLVR-SLM": REWARDS["RLVR"], "Brier-SLM": REWARDS["Brier"], "L1-SLM": REWARDS["L1"]}
SYSTEMS = ("SLM", *TRAINED, "LLM")
RUNS: dict[str, RunSpec] = {
    "SLM": RunSpec(None, full=True),
    **{name: RunSpec(reward, full=True) for name, reward in TRAINED.items()},
    "LLM": RunSpec(None, base="LLM", full=True),
    ANCHOR: RunSpec(),
    "none": RunSpec(REWARDS["RLVR"]),
    "l2": RunSpec(RewardSpec("l2", "group")),
    "kl": RunSpec(REWARDS["KL"]),
    "brier": RunSpec(RewardSpec("l2", "sample")),
    "log": RunSpec(REWARDS["log"]),
    **{f"mix-{w}": RunSpec(RewardSpec("l2", w)) for w in (0.25, 0.5, 0.75)},
    **{f"rollouts-{n}": RunSpec(changes={"num_generations": n}) for n in (4, 16, 32)},
    "no-std": RunSpec(changes={"scale_rewards": "none"}),
    "normalised-apart": RunSpec(changes={"aggregation": "normalize_then_sum"}),
    **{f"weight-{w:g}": RunSpec(RewardSpec(confidence_weight=w)) for w in (0.3, 3.0)},
    **{f"beta-{b}": RunSpec(changes={"beta": b}) for b in (0.0, 0.01, 0.1)},
    **{base.split("/")[-1]: RunSpec(base=base) for base in _BASES},
    **{f"{base.split('/')[-1]} base": RunSpec(None, base=base) for base in _BASES},
    **{
        f"{name}-seed-{seed}": RunSpec(reward, {"seed": seed}, full=True)
        for seed in (1, 2)
        for name, reward in TRAINED.items()
    },
}
IN_PAPER = (ANCHOR, "l2", "brier")  # ablations of `make paper`; `make ablations` runs the others

# What is asked, and the runs that answer it, in the order of tables; labels are what a reader sees.
AXES: dict[str, dict[str, str]] = {}
for _row in pd.read_csv(Path(__file__).with_name("axes.csv"), dtype=str).itertuples():
    AXES.setdefault(_row.axis, {})[_row.label] = _row.run
REFERENCES = {"target (L2)": "l2"}  # what an axis compares with, if not with the anchor


def ablations_of(profile: Profile) -> list[str]:
    """Names of the profile's runs that are trained beside the main systems, seeds among them."""
    return [name for name in runs_of(profile) if RUNS[name].reward and name not in SYSTEMS]


def spec_of(profile: Profile, name: str) -> RunSpec:
    """The run of that name. Raises ValueError for one that the profile does not have."""
    if name not in (known := runs_of(profile)):
        unknown = f"unknown run {name!r} of profile {profile.name!r}"
        raise ValueError(f"{unknown}; use one of {', '.join(known)}")
    return RUNS[name]


def runs_of(profile: Profile) -> list[str]:
    """Names of the runs that a profile has: bases are of the mini world, or of the hub."""
    bases = (None, "LLM", *(pretrain.VARIANTS if profile.suite == "mini" else profile.backbones))
    return [name for name, spec in RUNS.items() if spec.base in bases]
